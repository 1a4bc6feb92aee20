"""Per-task reward scale, kept while transitions arrive and applied when they are sampled.

Raw rewards stay in the replay buffer, so an old transition is always read on the current scale
(unitary scalarization, arXiv 2201.04122, section 5: reward normalisation at sampling time).
"""

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name

REWARD_SCALES = ("none", "std")


class RewardScale(nn.Module):
    """Running standard deviation of every task's reward over all insertions, by Welford's method.

    The rewards are divided by it and not centred: subtracting a constant would change the task.
    E[r^2] - E[r]^2 would cancel in float32 for rewards of large mean; Welford in float64 does not.

    :param num_tasks: K
    :param kind: ``std``, ``none`` to leave rewards as they are, or a fixed number that multiplies every reward
    """

    count: Tensor
    mean: Tensor
    squared: Tensor

    def __init__(self, num_tasks: int, kind: str | float = "none") -> None:
        super().__init__()
        if isinstance(kind, str) and kind not in REWARD_SCALES:
            raise unknown_name("reward_scale", kind, REWARD_SCALES)
        if not isinstance(kind, str) and not kind > 0:
            raise ConfigurationError(f"reward_scale must be none, std or a number above 0, found {kind!r}.")
        self.kind = kind
        for name in ("count", "mean", "squared"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=torch.float64))

    def observe(self, rewards: Tensor, task: Tensor) -> None:
        """Add one vector step.

        :param rewards: raw rewards ``[N]``
        :param task: task of each reward ``[N]``
        """
        if self.kind != "std":
            return
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

    def scaled(self, rewards: Tensor, task: Tensor | None = None) -> Tensor:
        """Scaled rewards ``[G, B]`` of raw ``rewards [G, B]``.

        :param task: task of every row ``[G]``; None where the rows are the K tasks
        """
        if not isinstance(self.kind, str):
            return rewards * self.kind
        if self.kind != "std":
            return rewards
        return rewards / (self.scale() if task is None else self.scale()[task])[:, None]
