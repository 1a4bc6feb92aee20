"""What an agent asks of the environments that it learns in."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces


@runtime_checkable
class TaskVecEnv(Protocol):
    """N environments of K tasks as one Stable-Baselines3 ``VecEnv``.

    An observation is float32 [S + K]: the state, padded with zeros to S, then the one-hot task. Environments reset by
    themselves, and a step is one transition of every environment. ``infos[i]`` says at every step whether an end is
    none of the task's (``TimeLimit.truncated``), and at the end of an episode ``terminal_observation``, ``is_success``
    (success at any step) and ``episode`` (``r`` return, ``l`` steps), as SB3's Monitor writes it.

    :class:`~envs.vector.MultiTaskVecEnv` is one; :func:`~envs.vector_env.as_task_vec_env` makes one of any vector.

    :ivar num_envs: N
    :ivar num_tasks: K
    :ivar task_names: K distinct names, in the order of the one-hot
    :ivar task_of_env: int [N], the task of each environment; every task has one at least
    :ivar action_sizes: numbers of an action of each task, at most A; what follows them is padding, which it ignores
    """

    num_envs: int
    num_tasks: int
    task_names: tuple[str, ...]
    task_of_env: np.ndarray
    action_sizes: tuple[int, ...]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    def reset(self) -> Any:
        """Begin an episode everywhere: observations [N, S + K]."""

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step with ``actions [N, A]``."""

    def step_wait(self) -> Any:
        """Finish it: observations [N, S + K], rewards [N], dones [N], infos."""

    def close(self) -> None:
        """Free the simulators."""
