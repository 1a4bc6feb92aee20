"""Any list of Gymnasium ids or constructors as a suite: observations and actions padded with zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from types import FunctionType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from .checks import as_numbers, check_actions, check_horizon, check_integer, check_number, check_task_names, read_flag
from .episodes import goal_generator
from .errors import ContractError, SuiteError, did_you_mean
from .success import SUCCESS_KEYS, success_of
from .suite import TaskSuite, observation_box

Constructor = Callable[..., gymnasium.Env]


class GymTask:
    """One Gymnasium environment whose episodes are named by a goal number: the seed of its reset.

    :param task: name of the task.
    :param source: a Gymnasium id, or a constructor that may take ``render_mode``.
    :param rescale: whether actions in [-1, 1] must be stretched to the environment's own bounds.
    :param success_return: return of a whole episode from which it is a success; None to use the info keys.
    :param spec: of its registration, which a worker process may lack: it runs no script
    :param seed: the suite seed, which fixes the reset seed of each goal number.
    :param horizon: steps per episode.
    :param render_mode: ``None`` or ``"rgb_array"``.
    """

    def __init__(
        self,
        task: str,
        source: str | Constructor,
        rescale: bool,
        success_return: float | None,
        spec: EnvSpec | None,
        seed: int,
        horizon: int,
        render_mode: str | None = None,
    ) -> None:
        if spec is not None:
            gymnasium.registry.setdefault(spec.id, spec)
        self.task, self.seed, self.success_return, self.horizon = task, seed, success_return, horizon
        self.target: Any = _build(source, render_mode, horizon)
        space: Any = self.target.action_space
        self._middle = ((space.high + space.low) / 2).astype(np.float32) if rescale else None
        self._half = (space.high - space.low) / 2 if rescale else None
        self._shape, self._size = space.shape, int(np.prod(space.shape))
        self._state_shape = self.target.observation_space.shape
        self._length, self._total = 0, 0.0
        self.judges_success = success_return is not None  # or once an info has said so

    def reset(self, goal: int) -> np.ndarray:
        """Begin the episode of goal number ``goal``; returns the state [<= S]."""
        self._length, self._total = 0, 0.0
        # Seeding every reset makes an episode a function of its number alone, so that a paused run resumes exactly.
        seed = int(goal_generator(self.seed, self.task, goal).integers(2**31))
        found = self.target.reset(seed=seed)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ContractError(f"returned {_described(found)} in reset, which must return (observation, info)")
        return self._state(found[0], "reset")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, bool]:
        """One step; terminations are the environment's own. A return decides about success at the last step alone."""
        # A copy: the row belongs to the vector, and some environments keep the action they were given.
        action = action[: self._size]
        action = action.copy() if self._middle is None else self._middle + self._half * action
        found = self.target.step(action.reshape(self._shape))
        if not isinstance(found, tuple) or len(found) != 5:
            raise ContractError(
                f"returned {_described(found)} in step, which must return (observation, reward, terminated, "
                "truncated, info)"
            )
        reward, terminated, truncated, info = (
            _reward(found[1]),
            read_flag("terminated", found[2]),
            read_flag("truncated", found[3]),
            found[4],
        )
        self._length += 1
        self._total += reward
        ends = terminated or truncated or self._length >= self.horizon
        return self._state(found[0], "step"), reward, terminated, truncated, self._success(info, ends)

    def _state(self, observation: Any, when: str) -> np.ndarray:
        """The state of an observation.

        :raises ContractError: for one that does not fit the environment's own space.
        """
        numbers = as_numbers(observation)
        if numbers is None or numbers.shape != self._state_shape:
            raise ContractError(
                f"returned {_described(observation)} as observation in {when}, its observation space says shape "
                f"{self._state_shape}"
            )
        return numbers.astype(np.float32, copy=False).ravel()

    def _success(self, info: Mapping[str, Any], ends: bool) -> bool:
        if self.success_return is not None:
            # Not before: with negative rewards, the return of the first step is the highest.
            return ends and self._total >= self.success_return
        if not isinstance(info, Mapping):
            raise ContractError(f"returned info = {info!r:.80}, which must be a dictionary")
        said = success_of(info)
        self.judges_success = self.judges_success or said is not None
        return bool(said)

    def render(self) -> np.ndarray:
        """An RGB image [H, W, 3]."""
        return np.asarray(self.target.render())

    def close(self) -> None:
        """Close the environment."""
        self.target.close()


def _reward(value: Any) -> float:
    """:raises ContractError: for what is not one number"""
    if isinstance(value, (float, int)):
        return float(value)
    number = as_numbers(value)
    if number is None or number.size != 1:
        raise ContractError(f"returned the reward {value!r:.80}, which must be a number")
    return float(number.item())


def _described(found: Any) -> str:
    """What an environment returned, by its shape or its kind."""
    if isinstance(found, tuple):
        return f"a tuple of {len(found)}"
    numbers = as_numbers(found)
    if numbers is None:
        kind = f" of {found.dtype}" if isinstance(found, np.ndarray) else ""
        return f"a {type(found).__name__}{kind} that holds no numbers"
    return f"an array of shape {numbers.shape}"


def _build(source: str | Constructor, render_mode: str | None, horizon: int | None = None) -> gymnasium.Env:
    options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}  # not all take it
    if isinstance(source, str):
        return gymnasium.make(source, max_episode_steps=horizon, disable_env_checker=True, **options)
    return source(**options)


@dataclass(frozen=True)
class _Probe:
    """What one task says about itself."""

    task: str
    low: np.ndarray
    high: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    horizon: int | None
    spec: EnvSpec | None


def _probe(task: str, source: str | Constructor) -> _Probe:
    try:
        env = _build(source, None)
    except (gymnasium.error.Error, ImportError) as error:
        is_a_typo = isinstance(source, str) and source not in gymnasium.registry
        hint = did_you_mean(task, gymnasium.registry) if is_a_typo else ""
        raise SuiteError(f"task {task!r} cannot be made ({str(error).splitlines()[0]}){_only_near(hint)}") from error
    try:
        state, action = env.observation_space, env.action_space
        if not isinstance(state, spaces.Box):
            raise SuiteError(f"task {task!r} has observations {state}; only Box observations can be padded and stacked")
        action = check_actions(f"task {task!r}", action)
        limit = _time_limit(env)
        return _Probe(
            task, state.low.ravel(), state.high.ravel(), action.low.ravel(), action.high.ravel(), limit, _spec(env)
        )
    finally:
        env.close()


def _spec(env: gymnasium.Env) -> EnvSpec | None:
    """What an environment is registered with; None for one that was made without a registration."""
    own = env.unwrapped.spec
    return None if own is None else gymnasium.registry.get(own.id)


def _time_limit(env: gymnasium.Env) -> int | None:
    """Steps after which an environment ends its episodes itself: by its registration, or by a wrapper around it."""
    limits = [env.spec.max_episode_steps] if env.spec is not None else []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    return min((limit for limit in limits if limit is not None), default=None)


def _only_near(hint: str) -> str:
    # All of Gymnasium's registry would not be a sentence.
    return hint if hint.startswith("; did") else ""


def _named_sources(tasks: Any) -> dict[str, str | Constructor]:
    if isinstance(tasks, Mapping):
        named = dict(zip(check_task_names(list(tasks)), tasks.values(), strict=True))
        for source in named.values():
            _check_source(source)
        return named
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise SuiteError(
            f"tasks must be a list of ids or constructors, or a dict from name to constructor, found {tasks!r}"
        )
    names = [_name(source) for source in tasks]
    for name, source in zip(names, tasks, strict=True):
        first = tasks[names.index(name)]
        if source is not first and not (isinstance(source, str) and isinstance(first, str)):
            raise SuiteError(f"two different tasks are called {name!r}; {_NAME_IT}")
    return dict(zip(check_task_names(names), tasks, strict=True))


_NAME_IT = "give each a name of its own: tasks={'name': constructor, ...}"


def _name(source: Any) -> str:
    """The name of a task in a list: the same in every process, for it decides the goals and identifies the task."""
    _check_source(source)
    if isinstance(source, str):
        return source
    if isinstance(source, (type, FunctionType)):
        return source.__name__
    raise SuiteError(f"a task must have a name, and a {type(source).__name__} has none; {_NAME_IT}")


def _check_source(source: Any) -> None:
    if not isinstance(source, str) and not callable(source):
        raise SuiteError(f"a task must be a Gymnasium id or a constructor, found {source!r:.80}")


def _actions(probes: Sequence[_Probe]) -> tuple[spaces.Box, bool]:
    """The common action space, as large as the largest, and whether tasks must stretch it to bounds of their own."""
    first = probes[0]
    equal = all(
        np.array_equal(probe.action_low, first.action_low) and np.array_equal(probe.action_high, first.action_high)
        for probe in probes
    )
    if equal:
        return spaces.Box(first.action_low.astype(np.float32), first.action_high.astype(np.float32)), False
    return spaces.Box(-1.0, 1.0, (max(len(probe.action_low) for probe in probes),), np.float32), True


def _horizons(probes: Sequence[_Probe], horizon: int | None, fallback: int | None) -> list[int]:
    if horizon is not None:
        check_horizon(horizon, None, "gym")
        return [horizon] * len(probes)
    if fallback is not None:
        check_horizon(fallback, None, "gym")
    horizons = []
    for probe in probes:
        own = probe.horizon or fallback
        if own is None:
            raise SuiteError(f"task {probe.task!r} has no time limit of its own; give one with horizon=")
        horizons.append(own)
    return horizons


def make_gym(
    tasks: Sequence[str | Constructor] | Mapping[str, str | Constructor] | None = None,
    horizon: int | None = None,
    success_return: float | Mapping[str, float] | None = None,
    num_goals: int = 0,
    fallback_horizon: int | None = None,
) -> TaskSuite:
    """A suite of Gymnasium tasks.

    :param tasks: ids, constructors, or a dict from name to either. Observations and actions of unequal size are padded
        with zeros at the end. Where sizes or bounds of actions differ, the suite's are [-1, 1], stretched per task.
    :param horizon: steps per episode of every task; by default each task's own time limit.
    :param success_return: return of a whole episode from which it is a success, one for all or one per task name; by
        default the info key ``is_success``, ``success`` or ``solved`` decides, and without one no episode succeeds.
    :param num_goals: start seeds per task, 0 for fresh ones without end.
    :param fallback_horizon: steps per episode of tasks without a time limit of their own, where `horizon` is not given.
    :raises SuiteError: for tasks that do not fit together or an option out of range.
    """
    if tasks is None:
        raise SuiteError("suite 'gym' needs tasks=[...], for example tasks=['Pendulum-v1']")
    sources = _named_sources(tasks)
    check_integer("num_goals", num_goals, least=0)
    thresholds = dict(success_return) if isinstance(success_return, Mapping) else dict.fromkeys(sources, success_return)
    for name, threshold in thresholds.items():
        if threshold is not None:
            check_number("success_return", threshold, least=-np.inf)
        if name not in sources:
            raise SuiteError(f"success_return names an unknown task {name!r}{did_you_mean(name, sources)}")
    probes = [_probe(task, source) for task, source in sources.items()]
    action_space, rescale = _actions(probes)
    horizons = _horizons(probes, horizon, fallback_horizon)
    size = max(len(probe.low) for probe in probes)
    low = np.min([np.pad(probe.low, (0, size - len(probe.low))) for probe in probes], axis=0)
    high = np.max([np.pad(probe.high, (0, size - len(probe.high))) for probe in probes], axis=0)
    return TaskSuite(
        name="gym",
        task_names=tuple(sources),
        observation_space=observation_box(low, high, len(sources)),
        action_space=action_space,
        action_sizes=[len(probe.action_low) for probe in probes],
        horizon=max(horizons),
        protocol={
            "suite": "gym",
            "tasks": list(sources),
            "horizon": horizons,
            "goals": f"{num_goals} reset seeds per task" if num_goals else "a fresh reset seed at every episode",
            "num_goals": num_goals,
            "success": {task: _rule(thresholds.get(task)) for task in sources},
            "versions": {package: version(package) for package in ("gymnasium", "numpy")},
        },
        makers=[
            partial(GymTask, probe.task, sources[probe.task], rescale, thresholds.get(probe.task), probe.spec)
            for probe in probes
        ],
        num_goals=num_goals,
        horizons=horizons,
        opengl="optional",  # many Gymnasium tasks draw without it
    )


def _rule(threshold: float | None) -> str:
    if threshold is not None:
        return f"return of at least {threshold:g} at the end of the episode"
    return " or ".join(f"info[{key!r}]" for key in SUCCESS_KEYS) + " at any step of the episode"
