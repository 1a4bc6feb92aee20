"""TaskSuite: K named tasks with common spaces, and the registry that finds one by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from gymnasium import spaces

from .backend import Backend
from .block import EnvBlock
from .checks import check_horizon
from .episodes import EnvRecipe, GoalOrder, GoalSchedule, StepArrays, TaskEnv
from .errors import SuiteError, did_you_mean
from .rendering import choose_gl
from .simulation import Simulation

if TYPE_CHECKING:
    from .vector import MultiTaskVecEnv

# A function that builds one environment: (suite seed, horizon, render mode) -> TaskEnv. It must travel to a worker.
TaskMaker = Callable[[int, int, "str | None"], TaskEnv]


@dataclass
class TaskSuite:
    """K tasks that one agent can learn together.

    :param name: registry name.
    :param task_names: K distinct names.
    :param observation_space: float32 Box [S + K]: state, then one-hot task.
    :param action_space: float32 Box [A].
    :param horizon: longest episode in steps.
    :param protocol: what a result must be labelled with; JSON-able.
    :param makers: one per task; empty for suites that are simulated all at once.
    :param num_goals: goals per task; 0 means fresh ones without end.
    :param max_horizon: the most that ``make_vec_env(horizon=...)`` accepts; None for no limit.
    :param horizons: steps per task where they differ.
    :param opengl: whether images need OpenGL.
    :param action_sizes: numbers of an action of each task, where some have fewer than A: its own come first, and what
        follows is padding that the task ignores.
    """

    name: str
    task_names: tuple[str, ...]
    observation_space: spaces.Box
    action_space: spaces.Box
    horizon: int
    protocol: dict[str, Any]
    makers: Sequence[TaskMaker] = ()
    num_goals: int = 0
    max_horizon: int | None = None
    horizons: Sequence[int] | None = None
    opengl: Literal["none", "optional", "required"] = "none"
    action_sizes: Sequence[int] | None = None

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.task_names)

    def make_vec_env(
        self,
        seed: int,
        copies: int = 1,
        workers: int = 0,
        goal_order: GoalOrder = "random",
        horizon: int | None = None,
        stop_at_success: bool = False,
        render_mode: str | None = None,
        worker_timeout: float = 60.0,
        max_restarts: int = 0,
    ) -> MultiTaskVecEnv:
        """Build N = K x copies environments.

        :param seed: fixes the goals of every task and the order they come in.
        :param copies: environments per task.
        :param workers: processes; 0 steps everything in this one. More than N are not started.
        :param goal_order: ``"random"``: each episode draws a goal. ``"sweep"``: a reset starts a sweep in which
            episode j of copy c visits goal ``(j * copies + c) % num_goals``: num_goals / copies episodes visit
            each goal once.
        :param horizon: steps per episode, instead of the suite's.
        :param stop_at_success: end an episode at its first success (reported as truncated, not as terminal).
        :param render_mode: ``"rgb_array"`` to allow images.
        :param worker_timeout: seconds after which a silent worker counts as hanging.
        :param max_restarts: faults (an environment that raises or returns numbers that are not finite, a worker that
            hangs or dies) after which environments are rebuilt; the next one ends the vector. A sweep takes none:
            it would lose goals.
        :raises SuiteError: for an argument out of range, or when images are asked for that cannot be drawn here.
        """
        from .vector import MultiTaskVecEnv  # brings SB3 and torch, which a worker process must not load

        simulation = Simulation(
            seed, copies, workers, goal_order, horizon, stop_at_success, render_mode, worker_timeout, max_restarts
        )
        self.horizons_of_tasks(horizon)  # refuses one that is out of range before anything is built
        if render_mode is not None and self.opengl != "none":
            choose_gl(required=self.opengl == "required")  # here, so that every worker inherits the answer
        return MultiTaskVecEnv(self, simulation, self.make_backend(simulation))

    def make_backend(self, simulation: Simulation) -> Backend:
        """What moves the environments of one vector. A suite that simulates all of them at once has its own.

        :param simulation: how they are simulated.
        """
        shape = (self.num_tasks * simulation.copies, self.observation_space.shape[0], self.action_space.shape[0])
        horizons = self.horizons_of_tasks(simulation.horizon)
        recipes, size = [], self.observation_space.shape[0] - self.num_tasks
        for i, schedule in enumerate(self.schedules(simulation)):
            k = i % self.num_tasks
            make = _Make(self.makers[k], simulation.seed, horizons[k], simulation.render_mode)
            recipes.append(
                EnvRecipe(i, self.task_names[k], make, schedule, horizons[k], simulation.stop_at_success, size)
            )
        if simulation.workers:
            from .workers import WorkerPool

            return WorkerPool(recipes, shape, min(simulation.workers, len(recipes)), simulation.worker_timeout)
        return EnvBlock(recipes, StepArrays(*shape))

    def schedules(self, simulation: Simulation) -> list[GoalSchedule]:
        """Which goal each episode visits, for each of the N environments: environment i is copy ``i // K`` of task
        ``i % K``.
        """
        return [
            GoalSchedule(task, copy, simulation.copies, self.num_goals, simulation.goal_order, simulation.seed)
            for copy in range(simulation.copies)
            for task in self.task_names
        ]

    def sizes_of_actions(self) -> tuple[int, ...]:
        """Numbers of an action of every task."""
        if self.action_sizes is not None:
            return tuple(self.action_sizes)
        return (self.action_space.shape[0],) * self.num_tasks

    def horizons_of_tasks(self, horizon: int | None = None) -> list[int]:
        """Steps per episode of every task.

        :param horizon: for all of them; None takes the suite's own
        :raises SuiteError: for more than the suite's longest
        """
        if horizon is None:
            return list(self.horizons) if self.horizons is not None else [self.horizon] * self.num_tasks
        check_horizon(horizon, self.max_horizon, self.name)
        return [horizon] * self.num_tasks


@dataclass(frozen=True)
class _Make:
    """A task maker with its arguments: picklable, unlike a closure."""

    maker: TaskMaker
    seed: int
    horizon: int
    render_mode: str | None

    def __call__(self) -> TaskEnv:
        return self.maker(self.seed, self.horizon, self.render_mode)


def observation_box(state_low: np.ndarray, state_high: np.ndarray, num_tasks: int) -> spaces.Box:
    """The float32 Box [S + K] of a state within bounds [S] followed by the one-hot task."""
    low = np.concatenate([state_low, np.zeros(num_tasks)]).astype(np.float32)
    high = np.concatenate([state_high, np.ones(num_tasks)]).astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


@dataclass(frozen=True)
class SuiteRecord:
    """A suite that can be named.

    :param name: what users type.
    :param summary: one line about it.
    :param module: where the function is that builds it; it is imported when the suite is used.
    :param function: builds it, from its options.
    :param fixed: options that the name fixes.
    """

    name: str
    summary: str
    module: str
    function: str | Callable[..., TaskSuite]
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def build(self) -> Callable[..., TaskSuite]:
        """The function itself."""
        if not isinstance(self.function, str):
            return self.function
        found: Callable[..., TaskSuite] = getattr(importlib.import_module(self.module), self.function)
        return found

    @property
    def options(self) -> dict[str, Any]:
        """What a user can set of it, with the defaults."""
        parameters = inspect.signature(self.build).parameters
        return {name: one.default for name, one in parameters.items() if name not in self.fixed}


def _metaworld(name: str, summary: str) -> SuiteRecord:
    return SuiteRecord(name, summary, f"{__package__}.metaworld", "make_metaworld", {"name": name})


_SUITES: dict[str, SuiteRecord] = {
    record.name: record
    for record in (
        _metaworld("mt10", "Meta-World MT10: ten manipulation tasks"),
        _metaworld("mt25", "Meta-World MT25: twenty-five manipulation tasks"),
        _metaworld("mt50", "Meta-World MT50: all fifty manipulation tasks"),
        _metaworld("metaworld", "any list of Meta-World tasks: tasks=[...]"),
        SuiteRecord(
            "gym", "any list of Gymnasium ids or constructors: tasks=[...]", f"{__package__}.gym_tasks", "make_gym"
        ),
        SuiteRecord(
            "pointmass",
            "a toy: tasks in conflict, rewards a hundredfold apart",
            f"{__package__}.pointmass",
            "make_pointmass",
        ),
    )
}

Build = TypeVar("Build", bound=Callable[..., TaskSuite])


def register_suite(name: str) -> Callable[[Build], Build]:
    """Decorator of a function that builds a suite: make it known by the name users type.

    The first line of its docstring is what ``mtrl list suites`` prints. Its keywords are the suite's options.

    :raises SuiteError: if the name is taken.
    """

    def register(build: Build) -> Build:
        if name in _SUITES:
            raise SuiteError(f"a suite named {name!r} is registered already")
        summary = (inspect.getdoc(build) or "").partition("\n")[0].rstrip(".")
        _SUITES[name] = SuiteRecord(name, summary, build.__module__, build)
        return build

    return register


def list_suites() -> dict[str, str]:
    """Every suite name with one line about it."""
    return {name: record.summary for name, record in _SUITES.items()}


def find_suite(name: str) -> SuiteRecord:
    """A suite by name.

    :raises SuiteError: for an unknown name, with the nearest known ones.
    """
    if name not in _SUITES:
        raise SuiteError(f"unknown suite {name!r}{did_you_mean(name, _SUITES)}")
    return _SUITES[name]


def takes_option(name: str, option: str) -> bool:
    """Whether a suite has an option of this name."""
    return name in _SUITES and option in _SUITES[name].options


def make_suite(name: str, **options: Any) -> TaskSuite:
    """Build a suite by its registry name.

    :param name: one of :func:`list_suites`.
    :param options: the suite's own; an unknown one is refused with the known ones.
    :raises SuiteError: for an unknown name, an unknown option, an option's bad value, or what is no suite.
    """
    record = find_suite(name)
    known = record.options
    for option in options:
        if option not in known:
            raise SuiteError(f"suite {name!r} has no option {option!r}{did_you_mean(option, known)}")
    suite = record.build(**record.fixed, **options)
    if not isinstance(suite, TaskSuite):
        raise SuiteError(f"suite {name!r} must be built as a TaskSuite, found {type(suite).__name__}")
    return suite
