"""Several environments in one process: the whole vector when there are no workers, one worker's share otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .episodes import EnvRecipe, EnvSlot, StepArrays
from .errors import EnvironmentFault


class EnvBlock:
    """Environments stepped one after the other. Also the backend of a vector without workers.

    :param recipes: the environments to build, any rows of the vector.
    :param arrays: the numbers of the whole vector; only the rows of ``recipes`` are touched.
    """

    def __init__(self, recipes: Sequence[EnvRecipe], arrays: StepArrays) -> None:
        self.arrays = arrays
        self.slots: list[EnvSlot] = []
        try:
            for recipe in recipes:
                self.slots.append(self._guard(recipe.task, "could not be built", EnvSlot, recipe, arrays))
        except BaseException:
            self.close()
            raise
        self._by_index = {slot.index: slot for slot in self.slots}

    @staticmethod
    def _guard(task: str, what: str, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            raise EnvironmentFault(f"task {task!r} {what}: {type(error).__name__}: {error}") from error

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode everywhere; ``seed`` restarts the goal streams first."""
        for slot in self.slots:
            if seed is not None:
                slot.schedule.reseed(seed)
            slot.schedule.restart()
            self._guard(slot.task, "raised in reset", slot.reset)

    def step(self) -> None:
        """One step everywhere, with the actions in the arrays."""
        slot = None
        try:
            for slot in self.slots:
                slot.step()
        except Exception as error:
            task = slot.task if slot is not None else "?"
            raise EnvironmentFault(f"task {task!r} raised in step: {type(error).__name__}: {error}") from error

    def start_step(self) -> None:
        """Nothing to start: without workers the step is taken when it is waited for."""

    wait_step = step

    def call(self, method: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call one of the ``do_*`` methods for each of ``indices``."""
        function = getattr(self, "do_" + method)
        return [function(self._by_index[index], *args, **kwargs) for index in indices]

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
    def do_load_state(slot: EnvSlot, state: dict[str, Any]) -> None:
        slot.schedule.load_state(state)
        slot.begin(slot.schedule.resumed())

    def close(self) -> None:
        """Close every environment; a fault while closing one does not keep the others open."""
        slots, self.slots = self.slots, []
        for slot in slots:
            try:
                slot.env.close()
            except Exception:  # nothing useful can be done with a simulator that fails to close
                continue
