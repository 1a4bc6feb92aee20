"""What a weight agent keeps: its decisions, and the noise with which it explores."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name

NOISES = ("gaussian", "ou")
OU_THETA = 0.15  # how fast the Ornstein-Uhlenbeck process returns to zero, per decision (DDPG paper)


class Decisions(NamedTuple):
    """B decisions: what was seen, the weights that were executed, what they brought, what was seen next."""

    states: Tensor  # [B, K, F]
    shares: Tensor  # [B, K], executed weights on the simplex
    rewards: Tensor  # [B]
    next_states: Tensor  # [B, K, F]


class DecisionMemory(nn.Module):
    """A ring of decisions that grows with their number up to `capacity`; the state holds no more than there are.

    :param num_tasks: K
    :param features: F
    :param capacity: decisions kept; few, since the tasks that are learnt change
    """

    rows: Tensor
    count: Tensor

    def __init__(self, num_tasks: int, features: int, capacity: int) -> None:
        super().__init__()
        self.num_tasks, self.features, self.capacity = num_tasks, features, capacity
        self.sizes = (num_tasks * features, num_tasks, 1, num_tasks * features)
        self.register_buffer("rows", torch.empty(0, sum(self.sizes)), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # decisions ever stored
        self._count = 0  # the same, on the host

    def __len__(self) -> int:
        return min(self._count, self.capacity)

    def add(self, state: Tensor, shares: Tensor, reward: Tensor, next_state: Tensor) -> None:
        """Store one decision: ``[K, F], [K], scalar, [K, F]``."""
        if self._count < self.capacity and self._count == len(self.rows):
            more = min(max(64, self._count), self.capacity - self._count)
            self.rows = torch.cat([self.rows, self.rows.new_empty(more, self.rows.shape[1])])
        self.rows[self._count % self.capacity] = torch.cat(
            [state.flatten(), shares, reward.reshape(1), next_state.flatten()]
        ).to(self.rows)
        self._count += 1
        self.count += 1

    @property
    def rewards(self) -> Tensor:
        """Rewards of all decisions kept ``[n]``, in no order."""
        return self.rows[: len(self), self.sizes[0] + self.sizes[1]]

    def latest(self, decisions: int) -> Decisions:
        """The latest decisions, oldest first; fewer where there are fewer."""
        first = self._count - min(decisions, len(self))
        return self._take(torch.arange(first, self._count) % self.capacity)

    def sample(self, batch_size: int, generator: torch.Generator) -> Decisions:
        """Decisions drawn uniformly, with replacement: without priorities, since old errors say little."""
        return self._take(torch.randint(len(self), (batch_size,), generator=generator))

    def _take(self, index: Tensor) -> Decisions:
        rows = self.rows.index_select(0, index.to(self.rows.device, non_blocking=True))
        states, shares, rewards, next_states = rows.split(self.sizes, dim=1)
        shape = (-1, self.num_tasks, self.features)
        return Decisions(states.reshape(shape), shares, rewards.squeeze(1), next_states.reshape(shape))

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


@dataclass(frozen=True, kw_only=True)
class ExplorationOptions:
    """How weights explore.

    :param warmup: share of the budget with random weights, of standard normal logits
    :param noise: ``gaussian`` or ``ou``, on the logits
    :param noise_start: its standard deviation at first
    :param noise_end: its standard deviation from half of the budget on
    """

    warmup: float = 0.1
    noise: str = "gaussian"
    noise_start: float = 0.5
    noise_end: float = 0.1


class ExplorationNoise(nn.Module):
    """Gaussian or Ornstein-Uhlenbeck noise on the K logits, with a scale that falls over the first half of the budget.

    The Ornstein-Uhlenbeck process has the same standard deviation as the Gaussian and a memory of some ten decisions,
    because weights act slowly.

    :param kind: ``gaussian`` or ``ou``
    :param start: standard deviation at the beginning
    :param end: standard deviation in the second half
    """

    last: Tensor

    def __init__(self, num_tasks: int, kind: str, start: float, end: float) -> None:
        super().__init__()
        if kind not in NOISES:
            raise unknown_name("exploration noise", kind, NOISES)
        if not 0 <= end <= start < math.inf:
            raise ConfigurationError(f"Exploration noise must fall from {start!r} to {end!r} and not below zero.")
        self.kind, self.start, self.end = kind, start, end
        self.register_buffer("last", torch.zeros(num_tasks))  # in standard deviations

    def scale(self, budget_used: float) -> float:
        """Standard deviation when that share of the budget is used."""
        return self.start + (self.end - self.start) * min(2.0 * budget_used, 1.0)

    def draw(self, budget_used: float, generator: torch.Generator) -> Tensor:
        """Noise ``[K]``."""
        fresh = torch.randn(self.last.shape, generator=generator).to(self.last)
        if self.kind == "ou":
            keep = 1.0 - OU_THETA
            fresh = keep * self.last + math.sqrt(1.0 - keep**2) * fresh
        self.last = fresh
        return self.scale(budget_used) * fresh
