"""Per-task reward scale, kept while transitions arrive and applied when they are sampled.

Raw rewards stay in the replay buffer, so an old transition is always read on the current scale
(unitary scalarization, arXiv 2201.04122, section 5: reward normalisation at sampling time).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name

Infos = Sequence[dict[str, Any]]

REWARD_SCALES = ("none", "std", "return")


class RunningEpisodes:
    """Rewards of the episodes that N environments are in the middle of.

    An episode that was cut off continues with its mean reward for ever: its last return-to-go is bootstrapped with
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
        from scipy.signal import lfilter  # here: importing it would take a quarter of the time of importing agents

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


class RewardScale(nn.Module):
    """Multiplies every reward by a fixed number; what the other scales are built on.

    :param factor: above 0
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        if not factor > 0:
            raise ConfigurationError(f"reward_scale must be none, std, return or a number above 0, found {factor!r}.")
        self.factor = factor

    def observe(self, rewards: np.ndarray, task: np.ndarray, dones: np.ndarray, infos: Infos) -> None:
        """Take note of one vector step.

        :param rewards: raw rewards ``[N]``
        :param task: task of each environment ``[N]``
        :param dones: whether its episode ended ``[N]``
        :param infos: what the environments say beside
        """

    def scaled(self, rewards: Tensor, temperatures: Tensor, task: Tensor | None = None) -> Tensor:
        """Scaled rewards ``[G, B]`` of raw ``rewards [G, B]``.

        :param temperatures: of the tasks ``[G]``
        :param task: task of every row ``[G]``; None where the rows are the K tasks
        """
        return rewards if self.factor == 1.0 else rewards * self.factor

    def begin(self) -> None:
        """All environments start new episodes."""

    def episodes_state(self) -> dict[str, Tensor]:
        """What is known of the episodes that are running; it belongs to the environments, not to the agent's file."""
        return {}

    def load_episodes_state(self, state: Mapping[str, Tensor]) -> None:
        """Undo `episodes_state`."""


class DeviationScale(RewardScale):
    """Running standard deviation of every task's reward over all insertions, by Welford's method.

    The rewards are divided by it and not centred: subtracting a constant would change the task.
    E[r^2] - E[r]^2 would cancel in float32 for rewards of large mean; Welford in float64 does not.

    :param num_tasks: K
    """

    count: Tensor
    mean: Tensor
    squared: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        for name in ("count", "mean", "squared"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=torch.float64))

    def observe(self, rewards: np.ndarray, task: np.ndarray, dones: np.ndarray, infos: Infos) -> None:
        if any("fault" in info for info in infos):  # rewards of lost steps are no rewards
            kept = ["fault" not in info for info in infos]
            rewards, task = rewards[kept], task[kept]
        self.add(torch.as_tensor(rewards, device=self.count.device), torch.as_tensor(task, device=self.count.device))

    def add(self, rewards: Tensor, task: Tensor) -> None:
        """Add the rewards ``[N]`` of the tasks ``[N]``."""
        num_tasks = len(self.count)
        rewards = rewards.double()
        ones = torch.ones_like(rewards)
        count = torch.zeros_like(self.count).index_add_(0, task, ones)
        mean = torch.zeros_like(self.mean).index_add_(0, task, rewards) / count.clamp(min=1)
        squared = torch.zeros(num_tasks, dtype=torch.float64, device=rewards.device)
        squared.index_add_(0, task, (rewards - mean[task]).square())
        total = (self.count + count).clamp(min=1)
        delta = (mean - self.mean) * (count > 0)
        self.squared += squared + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.count += count

    def scale(self) -> Tensor:
        """Standard deviation of every task's reward ``[K]``; 1 until a task has two different rewards."""
        deviation = (self.squared / self.count.clamp(min=1)).sqrt()
        return torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation)).float()

    def scaled(self, rewards: Tensor, temperatures: Tensor, task: Tensor | None = None) -> Tensor:
        return rewards / (self.scale() if task is None else self.scale()[task])[:, None]


class ReturnScale(RewardScale):
    """Divides the rewards of a task so that its values fit into the support of a critic, whatever it is learning.

    The denominator is ``(max |G| - alpha / (1 - gamma) * target entropy / 2) / limit``: G are the discounted
    returns-to-go of every step of every episode that has ended (`RunningEpisodes`), and the second term makes room for
    the entropy that is to come; a target entropy above zero asks for none. Until a task's first episode has ended its
    rewards are left alone, so `learning_starts` should cover an episode.
    Source: BRC (arXiv 2505.23150), the authors' reward normaliser, which keeps the largest and the smallest G.

    :param num_tasks: K
    :param gamma: discount, below 1
    :param target_entropy: in nats, of all tasks or of each ``[K]``
    :param limit: the largest absolute value that a critic is to meet
    """

    largest: Tensor
    entropy_to_come: Tensor

    def __init__(self, num_tasks: int, gamma: float, target_entropy: float | Tensor, limit: float) -> None:
        super().__init__()
        if not gamma < 1:
            raise ConfigurationError(f"reward_scale='return' needs a discount gamma below 1, found {gamma:g}.")
        self.limit = limit
        wanted = torch.as_tensor(target_entropy, dtype=torch.float64).expand(num_tasks).clone()
        entropy_to_come = (-wanted / 2.0).clamp(min=0.0) / (1.0 - gamma)  # times alpha
        self.register_buffer("entropy_to_come", entropy_to_come, persistent=False)
        self.episodes = RunningEpisodes(gamma)
        self.register_buffer("largest", torch.zeros(num_tasks, dtype=torch.float64))  # |G|

    def observe(self, rewards: np.ndarray, task: np.ndarray, dones: np.ndarray, infos: Infos) -> None:
        found = self.episodes.observe(rewards, dones, infos)
        if found:
            largest = np.zeros(len(self.largest))
            np.maximum.at(largest, np.asarray(task)[list(found)], list(found.values()))
            torch.maximum(self.largest, torch.from_numpy(largest).to(self.largest.device), out=self.largest)

    def scale(self, temperatures: Tensor, task: Tensor | None = None) -> Tensor:
        """What the rewards of the tasks are divided by, ``[G]``."""
        largest, entropy = (
            (values if task is None else values[task]).to(temperatures)
            for values in (self.largest, self.entropy_to_come)
        )
        denominator = (largest + entropy * temperatures) / self.limit
        return torch.where(largest > 0, denominator, 1.0)

    def scaled(self, rewards: Tensor, temperatures: Tensor, task: Tensor | None = None) -> Tensor:
        return rewards / self.scale(temperatures, task)[:, None]

    def begin(self) -> None:
        self.episodes.forget()

    def episodes_state(self) -> dict[str, Tensor]:
        return self.episodes.state_dict()

    def load_episodes_state(self, state: Mapping[str, Tensor]) -> None:
        self.episodes.load_state_dict(state)


def make_reward_scale(
    kind: str | float,
    num_tasks: int,
    *,
    gamma: float = 0.99,
    target_entropy: float | Tensor = 0.0,
    limit: float = 10.0,
) -> RewardScale:
    """A reward scale by name.

    :param kind: ``none``, ``std``, ``return``, or a fixed number that multiplies every reward
    :param num_tasks: K
    :param gamma: discount
    :param target_entropy: in nats, of all tasks or of each ``[K]``
    :param limit: the largest absolute value that a critic is to meet
    :raises ConfigurationError: for anything else
    """
    if not isinstance(kind, str):
        return RewardScale(kind)
    if kind not in REWARD_SCALES:
        raise unknown_name("reward_scale", kind, REWARD_SCALES)
    if kind == "std":
        return DeviationScale(num_tasks)
    return ReturnScale(num_tasks, gamma, target_entropy, limit) if kind == "return" else RewardScale()
