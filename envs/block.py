"""Several environments in one process: the whole vector when there are no workers, one worker's share otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from .episodes import EnvRecipe, EnvSlot, StepArrays
from .faults import Fault

_BUILDING = "could not be built"


class EnvBlock:
    """Environments stepped one after the other. Also the backend of a vector without workers.

    :param recipes: the environments to build, any rows of the vector.
    :param arrays: the numbers of the whole vector; only the rows of ``recipes`` are touched.
    :raises EnvironmentFault: when one cannot be built.
    """

    workers = 0

    def __init__(self, recipes: Sequence[EnvRecipe], arrays: StepArrays) -> None:
        self.arrays = arrays
        self.recipes = {recipe.index: recipe for recipe in recipes}
        self.slots: dict[int, EnvSlot] = {}  # by row of the vector
        try:
            for recipe in recipes:
                try:
                    self.slots[recipe.index] = EnvSlot(recipe, arrays)
                except Exception as error:
                    raise Fault.of(recipe.index, recipe.task, _BUILDING, error).error() from error
        except BaseException:
            self.close()
            raise

    def reset(self, seed: int | None = None) -> list[Fault]:
        """Begin an episode everywhere; ``seed`` restarts the goal streams first."""
        for slot in self.slots.values():
            if seed is not None:
                slot.schedule.reseed(seed)
            slot.schedule.restart()
        return self._each("raised in reset", EnvSlot.reset)

    def step(self) -> list[Fault]:
        """One step everywhere, with the actions in the arrays; a fault of one environment keeps no other from it."""
        return self._each("raised in step", EnvSlot.step)

    def _each(self, what: str, function: Callable[[EnvSlot], None]) -> list[Fault]:
        faults: list[Fault] = []
        busy = self.arrays.busy
        for slot in self.slots.values():
            busy[slot.index] = True
            try:
                function(slot)
            except Exception as error:
                faults.append(Fault.of(slot.index, slot.task, what, error))
            busy[slot.index] = False
        return faults

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> list[Fault]:
        """Build environments anew, with new streams of goals, and begin an episode in each.

        :param rows: rows of the vector.
        :param seeds: of the new streams, one per row.
        """
        faults: list[Fault] = []
        for row, seed in zip(rows, seeds, strict=True):
            recipe, what = self.recipes[row], _BUILDING
            _close(self.slots[row])
            recipe.schedule.reseed(seed)
            try:
                slot = self.slots[row] = EnvSlot(recipe, self.arrays)
                what = "raised in reset"
                slot.reset()
            except Exception as error:
                faults.append(Fault.of(row, recipe.task, what, error))
        return faults

    def start_step(self) -> None:
        """Nothing to start: without workers the step is taken when it is waited for."""

    wait_step = step

    def call(self, method: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call one of the ``do_*`` methods for each of ``indices``."""
        function = getattr(self, "do_" + method)
        return [function(self.slots[index], *args, **kwargs) for index in indices]

    @staticmethod
    def do_get_attr(slot: EnvSlot, name: str) -> Any:
        return getattr(slot.env.target, name)

    @staticmethod
    def do_set_attr(slot: EnvSlot, name: str, value: Any) -> None:
        setattr(slot.env.target, name, value)

    @staticmethod
    def do_env_method(slot: EnvSlot, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(slot.env.target, name)(*args, **kwargs)

    @staticmethod
    def do_is_wrapped(slot: EnvSlot, wrapper: type) -> bool:
        target = slot.env.target
        while target is not None:
            if isinstance(target, wrapper):
                return True
            target = getattr(target, "env", None)
        return False

    @staticmethod
    def do_render(slot: EnvSlot) -> Any:
        return slot.env.render()

    @staticmethod
    def do_state(slot: EnvSlot) -> dict[str, Any]:
        return {**slot.schedule.state(), "length": slot.length}

    @staticmethod
    def do_load_state(slot: EnvSlot, state: dict[str, Any]) -> Fault | None:
        slot.schedule.load_state(state)
        try:
            slot.begin(slot.schedule.resumed())
        except Exception as error:
            return Fault.of(slot.index, slot.task, "raised in reset", error).to_travel()
        return None

    def close(self) -> None:
        """Close every environment; a fault while closing one does not keep the others open."""
        slots, self.slots = self.slots, {}
        for slot in slots.values():
            _close(slot)


def _close(slot: EnvSlot) -> None:
    # Nothing useful can be done with a simulator that fails to close.
    with contextlib.suppress(Exception):
        slot.env.close()
