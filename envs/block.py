"""Several environments in one process: the whole vector when there are no workers, one worker's share otherwise."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backend import LocalBackend
from .episodes import EnvRecipe, EnvSlot, StepArrays
from .faults import Fault

_BUILDING, _RESETTING, _STEPPING = "could not be built", "raised in reset", "raised in step"


class EnvBlock(LocalBackend):
    """Environments stepped one after the other. Also the backend of a vector without workers.

    :param recipes: the environments to build, any rows of the vector.
    :param arrays: the numbers of the whole vector; only the rows of ``recipes`` are touched.
    :raises EnvironmentFault: when one cannot be built.
    """

    def __init__(self, recipes: Sequence[EnvRecipe], arrays: StepArrays) -> None:
        self.arrays = arrays
        self.recipes = {recipe.index: recipe for recipe in recipes}
        self.slots: dict[int, EnvSlot] = {}  # by row of the vector
        # Some simulators are in cycles that Python cannot collect: a vector that is dropped gives them back too.
        self._finalizer = weakref.finalize(self, _close_all, self.slots)
        self._finalizer.atexit = False  # the end of the process frees them
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
        return self._each(_RESETTING, EnvSlot.reset)

    def wait_step(self) -> list[Fault]:
        """One step everywhere, with the actions in the arrays; a fault of one environment keeps no other from it."""
        return self._each(_STEPPING, EnvSlot.step)

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
        """Rebuild environments, with new streams of goals, and begin an episode in each.

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
                what = _RESETTING
                slot.reset()
            except Exception as error:
                faults.append(Fault.of(row, recipe.task, what, error))
        return faults

    def simulator(self, row: int) -> Any:
        """What the suite says that attributes are read from."""
        return self.slots[row].env.target

    def do_render(self, row: int) -> np.ndarray:
        """An RGB image [H, W, 3], uint8."""
        return self.slots[row].env.render()

    def do_state(self, row: int) -> dict[str, Any]:
        """Which goal runs, since how many steps, and which ones come; where the simulator is, it does not say."""
        slot = self.slots[row]
        return {**slot.schedule.state(), "length": slot.length}

    def do_load_state(self, row: int, state: dict[str, Any]) -> Fault | None:
        """Begin the episode of the saved goal."""
        slot = self.slots[row]
        slot.schedule.load_state(state)
        try:
            slot.begin(slot.schedule.resumed())
        except Exception as error:
            return Fault.of(row, slot.task, _RESETTING, error).to_travel()
        return None

    def close(self) -> None:
        """Close every environment; a fault while closing one does not keep the others open."""
        _close_all(self.slots)


def _close_all(slots: dict[int, EnvSlot]) -> None:
    while slots:
        _close(slots.popitem()[1])


def _close(slot: EnvSlot) -> None:
    # Nothing useful can be done with a simulator that fails to close.
    with contextlib.suppress(Exception):
        slot.env.close()
