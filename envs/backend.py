"""What moves the environments of a vector: the contract, and a base for backends without worker processes."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np

from .episodes import StepArrays
from .faults import Fault

# One request per row of the vector, with what follows it, and what it answers:
#   get_attr(name) -> value,  set_attr(name, value) -> None,  env_method(name, *args, **kwargs) -> value,
#   is_wrapped(class) -> bool,  render() -> RGB image [H, W, 3] uint8,
#   state() -> JSON-able dict with at least "goal", "episode", "generator" and "length",
#   load_state(dict) -> the fault that kept the episode from beginning, or None
Request = Literal["get_attr", "set_attr", "env_method", "is_wrapped", "render", "state", "load_state"]


class Backend(abc.ABC):
    """All that :class:`~envs.vector.MultiTaskVecEnv` asks of what moves its N environments.

    A backend reads ``arrays.actions`` and writes every other array but the one-hot columns of ``observations``, which
    the vector fills in once. Environments reset by themselves: after the last step of an episode ``terminal``,
    ``returns``, ``lengths`` and ``ended_goals`` are of that episode, ``observations`` and ``goals`` of the next one.
    What goes wrong in an environment is returned as a :class:`~envs.faults.Fault` and keeps no other from its step.

    :ivar arrays: the numbers of the vector, the same arrays for its whole life.
    :ivar workers: simulating processes; 0 where this one simulates.
    :ivar saved_whole: whether ``state`` holds all of an environment at any step; if not, loading it begins the episode
        again.
    """

    arrays: StepArrays
    workers: int
    saved_whole: bool

    @abc.abstractmethod
    def reset(self, seed: int | None = None) -> list[Fault]:
        """Begin an episode everywhere; ``seed`` restarts the goal streams first."""

    @abc.abstractmethod
    def start_step(self) -> None:
        """Start a step with the actions in the arrays, without waiting for it."""

    @abc.abstractmethod
    def wait_step(self) -> list[Fault]:
        """Wait until every environment has stepped."""

    @abc.abstractmethod
    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> list[Fault]:
        """Rebuild environments, with new streams of goals, and begin an episode in each.

        :param rows: rows of the vector.
        :param seeds: of the new streams, one per row.
        """

    @abc.abstractmethod
    def call(self, request: Request, rows: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Answer one of :data:`Request` for each of ``rows``, in their order.

        :raises EnvironmentFault: when environments are lost that it was asked about.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Free everything; safe to call twice."""


class LocalBackend(Backend):
    """Base of a backend that simulates in this process. To add: the abstract methods, here and in :class:`Backend`."""

    workers = 0
    saved_whole = False

    def start_step(self) -> None:
        """Nothing to start: without workers the step is taken when it is waited for."""

    def close(self) -> None:
        """Nothing to free."""

    def call(self, request: Request, rows: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """See :meth:`Backend.call`; each request is answered by the method ``do_<request>``."""
        answer = getattr(self, "do_" + request)
        return [answer(row, *args, **kwargs) for row in rows]

    @abc.abstractmethod
    def simulator(self, row: int) -> Any:
        """The object that ``get_attr``, ``set_attr`` and ``env_method`` act on."""

    @abc.abstractmethod
    def do_render(self, row: int) -> np.ndarray:
        """An RGB image [H, W, 3], uint8."""

    @abc.abstractmethod
    def do_state(self, row: int) -> dict[str, Any]:
        """JSON-able: the state of the row's goal schedule, ``length`` (steps so far), and what this backend adds."""

    @abc.abstractmethod
    def do_load_state(self, row: int, state: dict[str, Any]) -> Fault | None:
        """Undo :meth:`do_state`; the fault that kept the episode from beginning."""

    def do_get_attr(self, row: int, name: str) -> Any:
        """An attribute of the simulator."""
        return getattr(self.simulator(row), name)

    def do_set_attr(self, row: int, name: str, value: Any) -> None:
        """Set an attribute of the simulator."""
        setattr(self.simulator(row), name, value)

    def do_env_method(self, row: int, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the simulator."""
        return getattr(self.simulator(row), name)(*args, **kwargs)

    def do_is_wrapped(self, row: int, wrapper: type) -> bool:
        """Whether the simulator is a ``wrapper``, or wrapped in one."""
        target = self.simulator(row)
        while isinstance(target, gymnasium.Wrapper):
            if isinstance(target, wrapper):
                return True
            target = target.env
        return isinstance(target, wrapper)
