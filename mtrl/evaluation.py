"""Success per task: deterministic actions, a sweep over the goals, intervals that are honest for few episodes."""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from agents.task_names import refuse_other_tasks
from envs import TaskSuite, TaskVecEnv, make_suite
from mtrl.errors import ConfigError
from mtrl.machine import available_cores, evaluating_workers

if TYPE_CHECKING:
    import pandas

Z_95 = 1.959963984540054


class Policy(Protocol):
    """Anything that acts as an SB3 model does."""

    def predict(self, observation: Any, *, deterministic: bool = True) -> Any:
        """Actions ``[N, A]`` for observations ``[N, S + K]``, and a state that is ignored here."""


def refuse_tasks_not_learnt(model: Policy, task_names: Sequence[str]) -> None:
    """Refuse tasks whose one-hot means something else than the model's. A model that names no tasks acts in any.

    :raises ConfigurationError: naming both lists of tasks
    """
    learnt = getattr(model, "task_names", None)
    if learnt is not None:
        refuse_other_tasks(learnt, task_names)


def wilson_interval(successes: float, episodes: int, z: float = Z_95) -> tuple[float, float]:
    """Interval of a success rate (Wilson 1927): never outside [0, 1], and not empty at 0 or 1 as the normal one is.

    :param successes: number of successful episodes
    :param episodes: number of episodes
    :param z: quantile of the normal distribution; the default gives 95 %
    """
    if not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(f"successes must lie between 0 and the number of episodes, found {successes} of {episodes}.")
    rate, shrink = successes / episodes, 1 + z**2 / episodes
    centre = (rate + z**2 / (2 * episodes)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes of K tasks, E of each.

    :param task_names: the K tasks
    :param success: success at any step, bool ``[K, E]``
    :param success_at_end: success at the last step, bool ``[K, E]``; None if episodes stopped at their first success
    :param returns: sum of the rewards, ``[K, E]``
    :param lengths: steps, ``[K, E]``
    :param goals: number of the goal, ``[K, E]``
    :param without_rule: tasks that never said whether an episode succeeds: their rate of 0 means nothing
    """

    task_names: tuple[str, ...]
    success: np.ndarray
    success_at_end: np.ndarray | None
    returns: np.ndarray
    lengths: np.ndarray
    goals: np.ndarray
    without_rule: tuple[str, ...] = ()

    @property
    def judges_success(self) -> bool:
        """Whether any task says what a success is; if not, the return is all there is."""
        return len(self.without_rule) < len(self.task_names)

    @property
    def task_return(self) -> dict[str, float]:
        """Mean return, per task."""
        return dict(zip(self.task_names, self.returns.mean(axis=1).tolist(), strict=True))

    @property
    def episodes(self) -> int:
        """Episodes per task."""
        return self.success.shape[1]

    @property
    def success_rate(self) -> float:
        """Mean over tasks of the rate of success at any step, 0 to 1."""
        return float(self.success.mean())

    @property
    def task_success(self) -> dict[str, float]:
        """Rate of success at any step, per task."""
        return dict(zip(self.task_names, self.success.mean(axis=1).tolist(), strict=True))

    def to_frame(self) -> "pandas.DataFrame":
        """One row per task and a last row ``mean``: rates with 95 % intervals, return, length, episodes.

        The interval of the mean is that of all episodes pooled: with equal episodes per task it is never too narrow.
        """
        import pandas

        rows = [self._row(name, slice(k, k + 1)) for k, name in enumerate(self.task_names)]
        return pandas.DataFrame([*rows, self._row("mean", slice(None))]).set_index("task")

    def _row(self, name: str, tasks: slice) -> dict[str, Any]:
        success = self.success[tasks]
        low, high = wilson_interval(int(success.sum()), success.size)
        at_end = None if self.success_at_end is None else float(self.success_at_end[tasks].mean())
        return {
            "task": name,
            "success": float(success.mean()),
            "low": low,
            "high": high,
            "success_at_end": at_end,
            "return": float(self.returns[tasks].mean()),
            "length": float(self.lengths[tasks].mean()),
            "episodes": success.size,
        }


def evaluate(
    model: Policy,
    suite_or_env: str | TaskSuite | VecEnv | TaskVecEnv,
    episodes: int = 50,
    *,
    seed: int = 0,
    copies: int | None = None,
    workers: int | None = None,
    horizon: int | None = None,
    stop_at_success: bool = False,
    deterministic: bool = True,
) -> EvaluationResult:
    """Run a policy in every task and count its successes.

    Given a suite, the goals are swept: with 50 goals, 50 episodes visit each of them once, and one seed always means
    the same goals. Given a vector environment, it is reset and used as it is, and `seed`, `copies`, `workers` and
    `horizon` are its own.

    :param model: a trained agent, or anything with SB3's ``predict``
    :param suite_or_env: where to evaluate: a suite, the name of one, or a vector environment of tasks
    :param episodes: per task
    :param seed: fixes the goals; the seed of training gives the goals of training, as the standard protocol has it
    :param copies: environments per task; None chooses as many as keep the cores busy
    :param workers: simulating processes; None uses every core
    :param horizon: steps per episode; None is the suite's own
    :param stop_at_success: end an episode at its first success: cheaper, but says nothing about the last step
    :param deterministic: the policy's mean action instead of a sample
    :raises ConfigError: for a number of episodes below one
    :raises ConfigurationError: for other tasks than the model has learnt, or another order of them
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be at least 1, found {episodes}.")
    place: Any = make_suite(suite_or_env) if isinstance(suite_or_env, str) else suite_or_env
    if getattr(place, "task_names", None) is None or unwrap_vec_normalize(place) is not None:
        raise ConfigError(
            "evaluate takes a suite, the name of one, or an environment that names its tasks and does not normalise, "
            f"found {type(place).__name__}."
        )
    refuse_tasks_not_learnt(model, place.task_names)
    if isinstance(place, VecEnv):
        return _run_episodes(model, cast(TaskVecEnv, place), episodes, stop_at_success, deterministic)
    suite = place
    copies = copies or min(episodes, math.ceil(max(8, 2 * available_cores()) / suite.num_tasks))
    env = suite.make_vec_env(
        seed=seed,
        copies=copies,
        workers=evaluating_workers(workers, suite.num_tasks * copies),
        goal_order="sweep",
        horizon=horizon,
        stop_at_success=stop_at_success,
    )
    with closing(env):
        return _run_episodes(model, env, episodes, stop_at_success, deterministic)


def _run_episodes(
    model: Policy, env: TaskVecEnv, episodes: int, stop_at_success: bool, deterministic: bool
) -> EvaluationResult:
    """The first episodes of every environment, so that short episodes are not counted more often than long ones."""
    of_env = np.asarray(env.task_of_env)
    copies = np.bincount(of_env)[of_env]  # of the task of each environment
    copy_of_env = np.array([np.sum(of_env[:i] == task) for i, task in enumerate(of_env)])
    # The sweep gives copy c the goals c, c + copies, c + 2 copies, ...: its share of the first `episodes` goals.
    wanted = (episodes - copy_of_env + copies - 1) // copies
    records: list[list[dict[str, Any]]] = [[] for _ in range(env.num_tasks)]
    counted = np.zeros(env.num_envs, dtype=int)
    observations: Any = env.reset()
    while (counted < wanted).any():
        actions, _ = model.predict(observations, deterministic=deterministic)
        env.step_async(actions)
        observations, _, dones, infos = env.step_wait()
        for i in np.flatnonzero(dones & (counted < wanted)):
            if "fault" in infos[i]:  # its environment was rebuilt, and the episode is no measurement
                continue
            counted[i] += 1
            records[env.task_of_env[i]].append(infos[i])
    return _collect(env.task_names, records, stop_at_success)


def _collect(
    task_names: tuple[str, ...], records: list[list[dict[str, Any]]], stop_at_success: bool
) -> EvaluationResult:
    def table(read: Callable[[dict[str, Any]], float]) -> np.ndarray:
        return np.array([[read(info) for info in infos] for infos in records])

    without_rule = tuple(
        task
        for task, infos in zip(task_names, records, strict=True)
        if not any(info.get("success_is_judged", True) for info in infos)
    )
    if without_rule:
        named = ", ".join(without_rule[:3]) + (", ..." if len(without_rule) > 3 else "")
        warnings.warn(
            f"These tasks never say whether an episode succeeds, so their success is 0 for every agent: {named}. Look "
            "at the return, or give success_return= (env.options.success_return), the return from which an episode is "
            "a success.",
            stacklevel=4,
        )
    return EvaluationResult(
        without_rule=without_rule,
        task_names=tuple(task_names),
        success=table(_success),
        success_at_end=None if stop_at_success else table(_success_at_end),
        returns=table(_return),
        lengths=table(_length),
        goals=table(_goal),
    )


def _success(info: dict[str, Any]) -> bool:
    return bool(info["is_success"])


def _success_at_end(info: dict[str, Any]) -> bool:
    return bool(info["success_at_end"])


def _return(info: dict[str, Any]) -> float:
    return float(info["episode"]["r"])


def _length(info: dict[str, Any]) -> int:
    return int(info["episode"]["l"])


def _goal(info: dict[str, Any]) -> int:
    return int(info.get("goal", -1))
