"""One environment of the vector: which goal comes next, the episode's statistics, and the row it writes to."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from .errors import ContractError

GoalOrder = Literal["random", "sweep"]
GOAL_ORDERS: tuple[GoalOrder, ...] = ("random", "sweep")

# First words of the spawn keys: what a goal is and in which order goals come are independent of each other.
_GOAL, _STREAM = 0, 1
_ENDLESS = 2**62


def goal_generator(suite_seed: int, task: str, goal: int) -> np.random.Generator:
    """The generator that draws goal number ``goal`` of ``task``: the same in every process, suite and run.

    :param suite_seed: the seed given to ``make_vec_env``.
    :param task: task name; its checksum enters the seed, so a task keeps its goals in every suite it is part of.
    :param goal: number of the goal, at least 0.
    """
    return np.random.Generator(np.random.PCG64(_sequence(suite_seed, _GOAL, task, goal)))


def _sequence(seed: int, purpose: int, task: str, number: int) -> np.random.SeedSequence:
    # A 63-bit number must be split by hand: spawn keys of differing length would be ambiguous otherwise.
    key = (purpose, zlib.crc32(task.encode()), number & 0xFFFFFFFF, number >> 32)
    return np.random.SeedSequence(seed, spawn_key=key)


class GoalSchedule:
    """Which goal each episode of one environment visits.

    ``random`` draws uniformly from the task's goals with a generator of this environment's own; ``sweep`` visits
    goal ``(j * copies + copy) % num_goals`` in episode j, so the copies share one pass over the goals.

    :param task: task name.
    :param copy: number of this environment among the copies of its task.
    :param copies: environments per task.
    :param num_goals: goals of the task; 0 means fresh ones without end.
    :param order: ``"random"`` or ``"sweep"``.
    :param seed: fixes the order of the goals (not what they are).
    """

    def __init__(self, task: str, copy: int, copies: int, num_goals: int, order: GoalOrder, seed: int) -> None:
        self.task, self.copy, self.copies, self.num_goals, self.order = task, copy, copies, num_goals, order
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the stream of goals from ``seed``."""
        self.generator = np.random.Generator(np.random.PCG64(_sequence(seed, _STREAM, self.task, self.copy)))
        self.episode = 0
        self.goal = -1

    def restart(self) -> None:
        """An explicit reset of the vector: a sweep begins again, a random stream continues."""
        self.episode = 0

    def advance(self) -> int:
        """Number of the goal of the next episode."""
        if self.order == "sweep":
            goal = self.episode * self.copies + self.copy
            self.goal = goal % self.num_goals if self.num_goals else goal
        else:
            self.goal = int(self.generator.integers(self.num_goals or _ENDLESS))
        self.episode += 1
        return self.goal

    def resumed(self) -> int:
        """Number of the running goal; the first one when there was no episode yet."""
        return self.goal if self.goal >= 0 else self.advance()

    def state(self) -> dict[str, Any]:
        """JSON-able state: the current goal, the episode count and the generator."""
        return {"goal": self.goal, "episode": self.episode, "generator": self.generator.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state`."""
        self.goal, self.episode = int(state["goal"]), int(state["episode"])
        self.generator.bit_generator.state = state["generator"]


class TaskEnv(Protocol):
    """What a suite must provide for one environment; everything else of an episode is done by :class:`EnvSlot`.

    It may have an attribute ``judges_success``, False as long as it has never said whether an episode succeeds.
    """

    @property
    def target(self) -> Any:
        """The object that ``get_attr``, ``set_attr`` and ``env_method`` act on."""

    def reset(self, goal: int) -> np.ndarray:
        """Begin an episode: a pure function of the suite seed, the task and ``goal``. Returns the state [<= S]."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, bool]:
        """One step: state [<= S], reward, terminated, truncated, success."""

    def render(self) -> np.ndarray:
        """An RGB image [H, W, 3], uint8."""

    def close(self) -> None:
        """Free the simulator."""


@dataclass(frozen=True)
class EnvRecipe:
    """How to build environment ``index`` of the vector; travels to the worker that will own it.

    :param index: row of the vector.
    :param task: task name.
    :param make: builds the environment, called where it will live.
    :param schedule: which goal each episode visits.
    :param horizon: steps after which an episode is cut off.
    :param stop_at_success: cut the episode off at its first success.
    :param state_size: S, the most numbers that a state may have.
    """

    index: int
    task: str
    make: Callable[[], TaskEnv]
    schedule: GoalSchedule
    horizon: int
    stop_at_success: bool
    state_size: int


class StepArrays:
    """The vector's numbers as arrays over one flat buffer, so that processes can share them.

    ``actions`` [N, A] float32; ``observations``, ``terminal`` [N, S+K] float32; ``rewards`` [N] float32; per episode
    ``returns`` float64, ``lengths`` int64, ``goals`` (of the running episode) and ``ended_goals`` (of the one that just
    ended) int64; flags [N] bool: ``terminated``, ``truncated``, ``success`` (this step), ``solved`` (any step so far of
    the episode that this step belongs to), ``judged`` (the environment has said whether it succeeds), ``busy`` (being
    stepped at this moment: what a dead process was doing).

    :param num_envs: N.
    :param obs_size: S + K.
    :param action_size: A.
    :param buffer: at least :meth:`nbytes` bytes of zeros; own memory when omitted.
    """

    actions: np.ndarray
    observations: np.ndarray
    terminal: np.ndarray
    rewards: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    goals: np.ndarray
    ended_goals: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray
    solved: np.ndarray
    judged: np.ndarray
    busy: np.ndarray

    def __init__(self, num_envs: int, obs_size: int, action_size: int, buffer: Any = None) -> None:
        shape = (num_envs, obs_size, action_size)
        if buffer is None:
            buffer = bytearray(self.nbytes(*shape))
        offset = 0
        for name, dtype, extent in self._layout(*shape):
            array: np.ndarray = np.ndarray(extent, dtype, buffer, offset)
            setattr(self, name, array)
            offset += array.nbytes

    @staticmethod
    def _layout(num_envs: int, obs_size: int, action_size: int) -> list[tuple[str, Any, tuple[int, ...]]]:
        # Widest types first: every array then starts at a multiple of its own item size.
        row, matrix = (num_envs,), (num_envs, obs_size)
        return [
            ("returns", np.float64, row),
            *[(name, np.int64, row) for name in ("lengths", "goals", "ended_goals")],
            ("actions", np.float32, (num_envs, action_size)),
            ("observations", np.float32, matrix),
            ("terminal", np.float32, matrix),
            ("rewards", np.float32, row),
            *[(name, np.bool_, row) for name in ("terminated", "truncated", "success", "solved", "judged", "busy")],
        ]

    @classmethod
    def nbytes(cls, num_envs: int, obs_size: int, action_size: int) -> int:
        """Bytes that a shared buffer must have."""
        layout = cls._layout(num_envs, obs_size, action_size)
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for _, dtype, shape in layout)


class EnvSlot:
    """Runs one environment and writes what happens straight into its row of the arrays. Resets by itself at the end.

    :param recipe: how to build the environment.
    :param arrays: where to read the action and write everything else.
    """

    def __init__(self, recipe: EnvRecipe, arrays: StepArrays) -> None:
        self.index, self.task, self.schedule = recipe.index, recipe.task, recipe.schedule
        self.horizon, self.stop_at_success = recipe.horizon, recipe.stop_at_success
        self.env: TaskEnv = recipe.make()
        self.arrays = arrays
        # Row views, made once: indexing a 2-D array at every step costs more than the copy itself.
        self.action, self.observation = arrays.actions[self.index], arrays.observations[self.index]
        self._most = recipe.state_size
        self._shape: tuple[int, ...] = ()  # of a state, known from the first one
        self._begin_counts()

    def _begin_counts(self) -> None:
        self.length, self.total, self.solved = 0, 0.0, False

    def reset(self) -> None:
        """Begin the next episode of the schedule."""
        self.begin(self.schedule.advance())

    def begin(self, goal: int) -> None:
        """Begin an episode with a given goal."""
        state = self.env.reset(goal)
        if not self._shape and len(np.shape(state)) == 1 and len(state) <= self._most:
            self._shape = np.shape(state)
        self._keep(state, "reset")
        self.arrays.goals[self.index] = goal
        self._begin_counts()

    def _keep(self, state: np.ndarray, when: str) -> None:
        """Write a state to its row. A wrong size would overwrite the one-hot task, or leave old numbers behind it.

        :raises ContractError: for a state of another size than the first one, or of more than S numbers.
        """
        if np.shape(state) != self._shape:
            right = f"of shape {self._shape}" if self._shape else f"[<= {self._most}]"
            raise ContractError(f"returned a state of shape {np.shape(state)} in {when}, it must be {right}")
        self.observation[: len(state)] = state

    def step(self) -> None:
        """Take the action of this row; at the end of the episode keep the terminal observation and begin the next."""
        state, reward, terminated, truncated, success = self.env.step(self.action)
        arrays, i = self.arrays, self.index
        self.length += 1
        self.total += float(reward)
        self.solved = self.solved or success
        cut = truncated or self.length >= self.horizon or (self.stop_at_success and success)
        self._keep(state, "step")
        arrays.rewards[i] = reward
        arrays.terminated[i], arrays.truncated[i] = terminated, cut and not terminated
        arrays.success[i], arrays.solved[i] = success, self.solved
        arrays.judged[i] = getattr(self.env, "judges_success", True)
        if terminated or cut:
            arrays.returns[i], arrays.lengths[i] = self.total, self.length
            arrays.terminal[i] = self.observation
            arrays.ended_goals[i] = self.schedule.goal
            self.reset()
