"""What a weight agent keeps: its decisions."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Decisions(NamedTuple):
    """B decisions: what was seen, the weights that were executed, what they brought, what was seen next."""

    states: Tensor  # [B, K, F]
    shares: Tensor  # [B, K], executed weights on the simplex
    rewards: Tensor  # [B], or of every task [B, K]
    next_states: Tensor  # [B, K, F]


class DecisionMemory(nn.Module):
    """A ring of decisions that grows with their number up to `capacity`; the state holds no more than there are.

    :param num_tasks: K
    :param features: F
    :param capacity: decisions kept; few, since the tasks that are learnt change
    :param by_task: whether a decision has a reward for every task instead of one
    """

    rows: Tensor
    count: Tensor

    def __init__(self, num_tasks: int, features: int, capacity: int, by_task: bool = False) -> None:
        super().__init__()
        self.num_tasks, self.features, self.capacity, self.by_task = num_tasks, features, capacity, by_task
        self.sizes = (num_tasks * features, num_tasks, num_tasks if by_task else 1, num_tasks * features)
        self.register_buffer("rows", torch.empty(0, sum(self.sizes)), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # decisions ever stored
        self._count = 0  # the same, on the host

    def __len__(self) -> int:
        return min(self._count, self.capacity)

    def add(self, state: Tensor, shares: Tensor, reward: Tensor, next_state: Tensor) -> None:
        """Store one decision: ``[K, F], [K]``, scalar or ``[K]``, ``[K, F]``."""
        if self._count < self.capacity and self._count == len(self.rows):
            more = min(max(64, self._count), self.capacity - self._count)
            self.rows = torch.cat([self.rows, self.rows.new_empty(more, self.rows.shape[1])])
        self.rows[self._count % self.capacity] = torch.cat(
            [state.flatten(), shares, reward.reshape(-1), next_state.flatten()]
        ).to(self.rows)
        self._count += 1
        self.count += 1

    def sample(self, batch_size: int, generator: torch.Generator) -> Decisions:
        """Decisions drawn uniformly, with replacement: without priorities, since old errors say little."""
        return self._take(torch.randint(len(self), (batch_size,), generator=generator))

    def _take(self, index: Tensor) -> Decisions:
        rows = self.rows.index_select(0, index.to(self.rows.device, non_blocking=True))
        states, shares, rewards, next_states = rows.split(self.sizes, dim=1)
        shape = (-1, self.num_tasks, self.features)
        rewards = rewards if self.by_task else rewards.squeeze(1)
        return Decisions(states.reshape(shape), shares, rewards, next_states.reshape(shape))

    def get_extra_state(self) -> Tensor:
        """The rows that hold a decision ``[n, ...]``."""
        return self.rows[: len(self)].clone()

    def set_extra_state(self, state: Tensor) -> None:
        count = int(self.count)
        if state.shape != (min(max(count, 0), self.capacity), sum(self.sizes)):
            raise ValueError(
                f"it remembers {list(state.shape)} numbers of {count} decisions, each of {sum(self.sizes)} numbers"
            )
        self._count = count
        self.rows = state.to(self.rows)
