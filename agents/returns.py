"""Rewards of the running episodes, and the discounted returns-to-go of those that end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor


class RunningEpisodes:
    """Rewards of the episodes that N environments are in the middle of.

    An episode that was cut off goes on with its mean reward for ever: its last return-to-go is bootstrapped with
    ``mean reward / (1 - gamma)``. One that was lost to a fault counts for nothing.
    Source: BRC (arXiv 2505.23150), the authors' reward normaliser.

    :param gamma: discount, below 1
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.forget()

    def forget(self) -> None:
        """All environments start new episodes."""
        self._rewards = np.zeros((0, 0))  # [N, steps there is room for]
        self._lengths = np.zeros(0, dtype=np.int64)  # [N]

    def observe(self, rewards: np.ndarray, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> dict[int, float]:
        """Take note of one vector step.

        :param rewards: raw ``[N]``
        :param dones: ``[N]``
        :param infos: ``TimeLimit.truncated`` marks an end that is not a terminal state, ``fault`` a lost episode
        :return: largest absolute return-to-go of every episode that ended here, by environment
        """
        self._make_room(len(rewards))
        everyone = np.arange(len(rewards))
        self._rewards[everyone, self._lengths] = rewards
        self._lengths += 1
        found = {
            env: float(np.abs(self._returns_to_go(env, bool(infos[env].get("TimeLimit.truncated", False)))).max())
            for env in np.flatnonzero(dones).tolist()
            if "fault" not in infos[env]
        }
        self._lengths[np.asarray(dones, dtype=bool)] = 0
        return found

    def _make_room(self, num_envs: int) -> None:
        if len(self._lengths) != num_envs:
            self._rewards, self._lengths = np.zeros((num_envs, 512)), np.zeros(num_envs, dtype=np.int64)
        if self._lengths.max() == self._rewards.shape[1]:
            self._rewards = np.concatenate((self._rewards, np.zeros_like(self._rewards)), axis=1)

    def _returns_to_go(self, env: int, cut_off: bool) -> np.ndarray:
        """``G_t = r_t + gamma G_(t+1)`` of the episode of one environment, last step first."""
        rewards = self._rewards[env, : self._lengths[env]]
        beyond = rewards.mean() / (1.0 - self.gamma) if cut_off else 0.0
        return lfilter([1.0], [1.0, -self.gamma], rewards[::-1], zi=[self.gamma * beyond])[0]

    def state_dict(self) -> dict[str, Tensor]:
        """The running episodes, with no more room than they take."""
        longest = int(self._lengths.max(initial=0))
        return {
            "rewards": torch.from_numpy(self._rewards[:, :longest].copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        rewards, lengths = state["rewards"].numpy(), state["lengths"].numpy().copy()
        self._rewards = np.zeros((len(lengths), max(512, rewards.shape[1])))
        self._rewards[:, : rewards.shape[1]] = rewards
        self._lengths = lengths
