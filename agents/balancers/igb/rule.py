"""The closed form of improvable gap balancing: the budget goes where the gap is, with patience for what does not move.

All functions take tasks in the last dimension, so that many runs can be decided at once.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MOVED = 0.05  # a gap that changes by less has stood still
PATIENCE = 4.0  # decisions at weight one after which interest in a task that stands still has fallen to 1 / e
RETURN = 0.1  # part of the lost interest that comes back at every decision
TEMPERATURE = 0.15  # of the soft-worst gap
LEAST = 1e-3  # gap of a solved task, so that its logarithm is finite

# What a weight agent sees of every task; all within [-1, 1] or close, so that no running normaliser is needed, which
# would make old decisions inconsistent.
FEATURES = ("gap", "fall", "success", "interest", "log weight", "budget used")
FALL_SCALE = 4.0  # gaps fall by a tenth or two in a window
GAP, INTEREST = FEATURES.index("gap"), FEATURES.index("interest")


class Situation(NamedTuple):
    """What a decision is made from; all ``[..., K]``."""

    gaps: Tensor
    falls: Tensor  # of the gaps, since the last decision
    success: Tensor
    interest: Tensor
    weights: Tensor  # of the window that has ended
    used: Tensor  # share of the budget, the same for all tasks

    def features(self) -> Tensor:
        """``[..., K, F]``, in the order of `FEATURES`. None depends on how many tasks there are."""
        falls = (FALL_SCALE * self.falls).clamp(-1.0, 1.0)
        weights = 0.5 * self.weights.clamp(min=0.05).log()
        return torch.stack([self.gaps, falls, self.success, self.interest, weights, self.used], dim=-1)


class Course(NamedTuple):
    """What is remembered from one decision to the next; all ``[..., K]``.

    :ivar gaps: at the latest decision
    :ivar interest: how much is still expected of every task, from 0 to 1
    :ivar reference: the gap when the task last moved
    """

    gaps: Tensor
    interest: Tensor
    reference: Tensor

    @classmethod
    def beginning(cls, gaps: Tensor) -> "Course":
        """Before the first decision: full interest in every task."""
        return cls(gaps, torch.ones_like(gaps), gaps)

    def after(self, gaps: Tensor, weights: Tensor) -> "Course":
        """The course after a window in which tasks had these weights, and which ended with these gaps.

        Interest returns when a gap moves, either way. Budget that moves nothing uses it up, in proportion to the weight
        that a task had; a part of what is lost comes back at every decision, so that no task is given up.
        """
        moved = (gaps - self.reference).abs() > MOVED
        still = self.interest * (-weights / PATIENCE).exp() + RETURN * (1.0 - self.interest)
        interest = torch.where(moved, 1.0, still)
        return Course(gaps, interest, torch.where(moved, gaps, self.reference))


def shares_of(gaps: Tensor, interest: Tensor) -> Tensor:
    """The closed form: shares ``[..., K]`` of sum one, in proportion to gap and interest."""
    wanted = (gaps + LEAST) * interest
    return wanted / wanted.sum(-1, keepdim=True)


def with_floor(shares: Tensor, floor: float) -> Tensor:
    """Weights ``(1 - floor) K shares + floor`` of shares ``[..., K]``: their mean is one, none is below the floor."""
    return (1.0 - floor) * shares.shape[-1] * shares + floor


def soft_worst(gaps: Tensor) -> Tensor:
    """``T log mean exp(gap / T)`` of ``[..., K]``: between the mean of the gaps and the largest, ``[...]``."""
    return TEMPERATURE * ((gaps / TEMPERATURE).logsumexp(-1) - math.log(gaps.shape[-1]))


def rewards_of(before: Tensor, after: Tensor) -> Tensor:
    """What a window brought: the decrease of the soft-worst gap, as the parts of the tasks ``[..., K]`` that sum to it.

    A task's part is the fall of its own gap times how much the soft-worst gap depends on it, on the way from `before`
    to `after`; the parts are scaled so that their sum is exact.
    """
    falls = before - after
    middle = 0.5 * (before + after)
    parts = (middle / TEMPERATURE).softmax(-1) * falls
    missing = soft_worst(before) - soft_worst(after) - parts.sum(-1)
    return parts + missing.unsqueeze(-1) / parts.shape[-1]
