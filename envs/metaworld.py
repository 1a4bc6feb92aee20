"""Meta-World as suites: MT10, MT25, MT50 and any list of task names, with goals named by numbers.

A task's goal number g is the vector that Meta-World itself would draw, with its own rejection rules, from a generator
seeded by (suite seed, task name, g). It is drawn in the first half of a reset and kept for the second (Meta-World's
``reset`` places everything twice), which is what ``set_task`` of the official benchmark does with a stored vector; so
no benchmark object with its fifty resets per task is needed, and an episode's start depends on nothing but its goal.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np
from gymnasium import spaces

from .checks import check_choice, check_horizon, check_integer, check_task_names
from .episodes import goal_generator
from .errors import SuiteError
from .rendering import Camera
from .suite import TaskSuite, observation_box

HORIZON = 500  # the simulator refuses to step after this many steps
REWARD_VERSIONS = ("v2", "v1")
BEST_REWARD = 10.0  # of a step, in version 2 of the rewards

# The versions for which the steps of metaworld_fast were compared with the stock ones, in every task and every bit.
FAST_VERIFIED = {"metaworld": "3.1.1", "mujoco": "3.3.0"}

# Bounds of the state: hand [3], gripper, two objects [14], the same one step earlier, goal [3]. The goal's box is the
# union over all fifty tasks; constants, because asking the tasks means loading fifty MuJoCo models.
_HAND_LOW, _HAND_HIGH = [-0.525, 0.348, -0.0525, -1.0], [0.525, 1.025, 0.7, 1.0]
_GOAL_LOW, _GOAL_HIGH = [-0.5, 0.4, -0.15], [0.51, 1.0, 0.5]
STATE_LOW = np.array((_HAND_LOW + [-np.inf] * 14) * 2 + _GOAL_LOW)
STATE_HIGH = np.array((_HAND_HIGH + [np.inf] * 14) * 2 + _GOAL_HIGH)


class MetaWorldTask:
    """One Meta-World environment whose episodes are named by a goal number.

    :param task: for example ``"reach-v3"``.
    :param reward_version: ``"v1"`` or ``"v2"``.
    :param seed: the suite seed, which fixes what the goals are.
    :param horizon: not used; the episode is cut off outside.
    :param render_mode: ``None`` or ``"rgb_array"``.
    :param fast: leave out what costs time and changes nothing; see ``metaworld_fast``.
    """

    def __init__(
        self,
        task: str,
        reward_version: str,
        seed: int,
        horizon: int,
        render_mode: str | None = None,
        fast: bool = True,
    ) -> None:
        del horizon
        self.task, self.seed = task, seed
        self._camera: Camera | None = None
        options: dict[str, Any] = {"reward_function_version": reward_version, "render_mode": render_mode}
        env: Any = _environment_class(task, fast)(**options)
        env._set_task_called = True
        # The goal is visible; the space was computed while it was hidden and must be made again.
        env._partially_observable = False
        del env.sawyer_observation_space
        env.observation_space = env.sawyer_observation_space
        env.seeded_rand_vec = True
        env.reset_model = partial(self._place_and_keep, env, env.reset_model)
        self.target = env
        self._low, self._high = env.observation_space.low, env.observation_space.high

    judges_success = True

    @staticmethod
    def _place_and_keep(env: Any, reset_model: Any) -> np.ndarray:
        # Called twice by each reset: the first call draws the vector, the second finds it frozen.
        observation = reset_model()
        env._freeze_rand_vec = True
        return observation

    def reset(self, goal: int) -> np.ndarray:
        """Begin an episode with goal number ``goal``; returns the state [39]."""
        self.target.np_random = goal_generator(self.seed, self.task, goal)
        self.target._freeze_rand_vec = False
        state, _ = self.target.reset()
        # Meta-World clips the states of a step to their bounds, but not those of a reset.
        return state.clip(self._low, self._high)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, bool]:
        """One step. Meta-World never terminates; its own truncation at 500 steps is that of the horizon."""
        state, reward, _, truncated, info = self.target.step(action)
        return state, reward, False, truncated, info["success"] > 0.0

    def render(self) -> np.ndarray:
        """An RGB image [480, 480, 3] of the table, upright."""
        if self._camera is None:
            self._camera = Camera(self.target.model, self.target.data)
        return self._camera.image()

    def close(self) -> None:
        """Free the renderer and the simulator."""
        if self._camera is not None:
            self._camera.close()
        self.target.close()
        # It holds the environment that holds it: the simulator would stay until Python next looks for cycles.
        self.target.__dict__.pop("reset_model", None)


def _environment_class(task: str, fast: bool) -> type:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    stock: type = ALL_V3_ENVIRONMENTS[task]
    if not fast:
        return stock
    from .metaworld_fast import fast_class

    return fast_class(stock)


@cache
def _fast_is_verified() -> bool:
    """Whether the installed versions are those of :data:`FAST_VERIFIED`; if not, says so, once per process."""
    found = {package: version(package) for package in FAST_VERIFIED}
    if found == FAST_VERIFIED:
        return True
    each = [
        " and ".join(f"{name} {number}" for name, number in versions.items()) for versions in (FAST_VERIFIED, found)
    ]
    warnings.warn(
        f"fast steps of Meta-World are verified for {each[0]}, found {each[1]}: its own, slower ones are used",
        stacklevel=4,
    )
    return False


def _names(name: str, tasks: Sequence[str] | None) -> tuple[str, ...]:
    from metaworld import env_dict

    if name == "metaworld":
        if tasks is None:
            raise SuiteError("suite 'metaworld' needs tasks=[...], for example tasks=['reach-v3', 'push-v3']")
        return check_task_names(tasks, list(env_dict.ALL_V3_ENVIRONMENTS))
    if tasks is not None:
        raise SuiteError(f"suite {name!r} has its own tasks; for tasks={list(tasks)!r} use suite 'metaworld'")
    return tuple({"mt10": env_dict.MT10_V3, "mt25": env_dict.MT25_V3, "mt50": env_dict.MT50_V3}[name])


def make_metaworld(
    name: str = "metaworld",
    tasks: Sequence[str] | None = None,
    reward_version: str = "v2",
    horizon: int = HORIZON,
    num_goals: int = 50,
    fast: bool = True,
) -> TaskSuite:
    """A suite of Meta-World tasks.

    :param name: ``"mt10"``, ``"mt25"``, ``"mt50"``, or ``"metaworld"`` for a list of your own.
    :param tasks: names such as ``"reach-v3"``; only for ``"metaworld"``.
    :param reward_version: ``"v2"`` (0 to 10 per step), or ``"v1"`` (unbounded, the oldest papers').
    :param horizon: steps per training episode, at most 500; the standard protocol evaluates with 500.
    :param num_goals: goals per task, 50 in the standard protocol; 0 for fresh ones without end.
    :param fast: leave out what costs time and changes no number; False steps the stock environments, as do versions of
        Meta-World or MuJoCo for which this was never verified (with a warning).
    :raises SuiteError: for an unknown task or an option out of range.
    """
    names = _names(name, tasks)
    fast = fast and _fast_is_verified()  # asked here, so that workers do not say it again
    check_choice("reward_version", reward_version, REWARD_VERSIONS)
    check_horizon(horizon, HORIZON, name)
    check_integer("num_goals", num_goals, least=0)
    return TaskSuite(
        name=name,
        task_names=names,
        observation_space=observation_box(STATE_LOW, STATE_HIGH, len(names)),
        action_space=spaces.Box(-1.0, 1.0, (4,), np.float32),
        horizon=horizon,
        protocol={
            "suite": name,
            "tasks": list(names),
            "reward_version": reward_version,
            "horizon": horizon,
            "goals": f"{num_goals} per task, fixed by the seed" if num_goals else "fresh at every episode",
            "num_goals": num_goals,
            "goal_visible": True,
            "success": "info['success'] at any step of the episode",
            "versions": {package: version(package) for package in ("metaworld", "mujoco", "gymnasium", "numpy")},
        },
        makers=[partial(MetaWorldTask, task, reward_version, fast=fast) for task in names],
        num_goals=num_goals,
        max_horizon=HORIZON,
        opengl="required",
        solved_returns=_best_returns if reward_version == "v2" else None,
    )


def _best_returns(horizons: Sequence[int]) -> list[float]:
    """What no episode can exceed."""
    return [BEST_REWARD * horizon for horizon in horizons]
