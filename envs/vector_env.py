"""Any vector of tasks: a Gymnasium ``VectorEnv`` or a Stable-Baselines3 ``VecEnv`` whose environments have tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from .checks import check_actions, check_task_names
from .errors import ContractError, EnvironmentFault, SuiteError
from .gymnasium_vector import GymnasiumVector
from .success import success_of
from .suite import observation_box
from .task_vec_env import TaskVecEnv

_SAY_TASKS = "say which with task_names=[...], one for each environment, or with task_of_env=[...] and task_names=[...]"


class TaskVector(VecEnvWrapper):
    """A vector whose environment i belongs to task ``task_of_env[i]``; see :class:`~envs.task_vec_env.TaskVecEnv`.

    :param venv: a vector with flat observations [D] and bounded continuous actions
    :param task_names: K distinct names
    :param task_of_env: int [N]
    :param one_hot: whether the observations end with the one-hot of the task already
    """

    def __init__(self, venv: VecEnv, task_names: Sequence[str], task_of_env: np.ndarray, one_hot: bool) -> None:
        self.task_names, self.task_of_env = tuple(task_names), task_of_env
        self.num_tasks = len(self.task_names)
        self._size, self._brings_one_hot = _box(venv).shape[0], one_hot
        box, own = _box(venv), _box(venv).shape[0] - (self.num_tasks if one_hot else 0)
        super().__init__(venv, observation_box(box.low[:own], box.high[:own], self.num_tasks), venv.action_space)
        assert venv.action_space.shape is not None
        self.action_sizes = venv.action_space.shape * self.num_tasks
        self._one_hot = np.eye(self.num_tasks, dtype=np.float32)[task_of_env]  # [N, K]
        self._solved, self._judged = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)

    def reset(self) -> np.ndarray:
        """Begin an episode everywhere: observations [N, S + K]."""
        self._solved[:] = False
        return self._observations(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step: observations [N, S + K], rewards [N], dones [N], infos."""
        found, rewards, dones, infos = self.venv.step_wait()
        observations = self._observations(found)
        rewards = np.asarray(rewards, np.float32)
        self._refuse(~np.isfinite(rewards), "returned a reward that is not finite", EnvironmentFault)
        for i, info in enumerate(infos):
            self._note(i, info, bool(dones[i]))
        return observations, rewards, np.asarray(dones, bool), infos

    def _note(self, i: int, info: dict[str, Any], done: bool) -> None:
        """Complete the info of environment i."""
        try:
            said = success_of(info)
        except ContractError as error:
            raise ContractError(f"{self._where(i)} {error}", [i]) from None
        self._judged[i] |= said is not None
        self._solved[i] |= bool(said)
        info["success"] = bool(said)
        info.pop("is_success", None)
        if done:
            info["is_success"], info["success_at_end"] = bool(self._solved[i]), bool(said)
            info["success_is_judged"] = bool(self._judged[i])
            info["terminal_observation"] = self._observation(i, info["terminal_observation"])
            self._solved[i] = False

    def _observations(self, found: Any) -> np.ndarray:
        numbers = np.asarray(found)
        if numbers.shape != (self.num_envs, self._size):
            raise ContractError(
                f"the vector returned observations of shape {numbers.shape}, its space says "
                f"{(self.num_envs, self._size)}"
            )
        numbers = numbers.astype(np.float32)  # a copy
        self._refuse(~np.isfinite(numbers).all(1), "returned an observation that is not finite", EnvironmentFault)
        if not self._brings_one_hot:
            return np.concatenate((numbers, self._one_hot), axis=1)
        other = (numbers[:, -self.num_tasks :] != self._one_hot).any(1)
        self._refuse(other, "returned the one-hot of another task", ContractError)
        return numbers

    def _observation(self, i: int, found: Any) -> np.ndarray:
        numbers = np.asarray(found, np.float32)
        return numbers if self._brings_one_hot else np.concatenate((numbers, self._one_hot[i]))

    def _refuse(self, marked: np.ndarray, what: str, kind: type[EnvironmentFault]) -> None:
        if marked.any():
            i = int(np.flatnonzero(marked)[0])
            raise kind(f"{self._where(i)} {what}", [i])

    def _where(self, i: int) -> str:
        return f"environment {i} (task {self.task_names[self.task_of_env[i]]!r})"


def as_task_vec_env(
    vector: VectorEnv[Any, Any, Any] | VecEnv,
    task_names: Sequence[str] | None = None,
    task_of_env: Sequence[int] | np.ndarray | None = None,
) -> TaskVecEnv:
    """A vector that an agent can learn in.

    Its tasks are named, one for each environment, or for each of `task_of_env`; or the observations end with their
    one-hot, and `task_names` are then in its order. A success is what ``is_success``, ``success`` or ``solved`` of the
    info says.

    :param vector: of Gymnasium, in any mode of resetting, or of Stable-Baselines3; what names its tasks stays as it is
    :param task_names: K distinct names
    :param task_of_env: task of each environment, int [N]
    :raises SuiteError: for tasks that are not said, or spaces that no agent can learn in
    """
    if task_names is None and task_of_env is None and getattr(vector, "task_names", None) is not None:
        return cast(TaskVecEnv, vector)
    venv = GymnasiumVector(vector) if isinstance(vector, VectorEnv) else vector
    _box(venv)
    if len(check_actions("the vector", venv.action_space).shape) != 1:
        raise SuiteError(f"actions must be a flat Box, found {venv.action_space}")
    first = np.asarray(venv.reset())  # which tells whether observations end with the one-hot
    found = None if task_of_env is not None else _task_of_one_hot(first, task_names)
    if task_of_env is None and found is None:
        if task_names is None or len(task_names) != venv.num_envs:
            given = "none" if task_names is None else f"{len(task_names)}"
            raise SuiteError(
                f"the tasks of {venv.num_envs} environments are not known, found {given} as task_names and no one-hot "
                f"at the end of their observations; {_SAY_TASKS}"
            )
        task_of_env = np.arange(venv.num_envs)
    of_env = _checked(found if found is not None else task_of_env, venv.num_envs, task_names)
    names = check_task_names([f"task_{k}" for k in range(of_env.max() + 1)] if task_names is None else list(task_names))
    one_hot = found is not None or _ends_with(first, np.eye(len(names))[of_env])
    if not (is_vecenv_wrapped(venv, VecMonitor) or all(venv.env_is_wrapped(Monitor))):
        venv = VecMonitor(venv)
    return TaskVector(venv, names, of_env, one_hot)


def _checked(task_of_env: Any, num_envs: int, task_names: Sequence[str] | None) -> np.ndarray:
    """:raises SuiteError: for what does not give every environment a task, and every task an environment"""
    found = np.asarray(task_of_env)
    if found.shape != (num_envs,) or found.dtype.kind not in "iu":
        raise SuiteError(f"task_of_env must be {num_envs} integers, one per environment, found {task_of_env!r:.80}")
    known = len(task_names) if task_names is not None else int(found.max()) + 1
    if sorted(set(found.tolist())) != list(range(known)):
        raise SuiteError(
            f"task_of_env must name each of the {known} tasks from 0 to {known - 1} at least once, found "
            f"{sorted(set(found.tolist()))}"
        )
    return found.astype(np.int64)


def _task_of_one_hot(observations: np.ndarray, task_names: Sequence[str] | None) -> np.ndarray | None:
    """Tasks of observations [N, D] that end with a one-hot of at least two tasks; None where none does."""
    most = min(observations.shape)
    sizes = range(2, most + 1) if task_names is None else [len(task_names)]
    for size in sizes:
        task = observations[:, -size:].argmax(1)
        if 2 <= size <= most and len(set(task.tolist())) == size and _ends_with(observations, np.eye(size)[task]):
            return task
    return None


def _ends_with(observations: np.ndarray, one_hot: np.ndarray) -> bool:
    size = one_hot.shape[1]  # of one task, a constant 1 is no one-hot
    return 1 < size < observations.shape[1] and np.array_equal(observations[:, -size:], one_hot)


def _box(venv: VecEnv) -> spaces.Box:
    """:raises SuiteError: for observations that are no flat array of numbers"""
    space = venv.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise SuiteError(f"observations must be a flat Box, found {space}; wrap with gymnasium's FlattenObservation")
    return space
