"""Weights as shares of what is sampled: a scheduler that gives tasks several groups of a batch, or none."""

from typing import Any, Protocol

import torch
from torch import Tensor

from agents.balancing.balancer import Balanced, Balancer, Scheduler, Weighting
from agents.balancing.tasks import Progress, Tasks, as_tasks
from agents.selection import Selection

ACTS_ON = ("loss", "sampling")


def draw_counts(weights: Tensor, generator: torch.Generator) -> Tensor:
    """How many of K groups of samples each task gets, whole numbers ``[K]`` of sum K and expectation `weights`.

    Systematic sampling: one uniform number places K equidistant points on the line of the weights, so that every count
    is its weight rounded up or down.

    :param weights: ``[K]`` of sum K, on the host
    """
    ends = weights.double().cumsum(0)
    ends = ends * (len(weights) / ends[-1])
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    points = (ends - offset).ceil().clamp(0, len(weights))  # points below each end: those at 0 + u, 1 + u, ...
    points[-1] = len(weights)
    return points.diff(prepend=points.new_zeros(1)).long()


class Shares(Protocol):
    """A method that says before an update how much of the batch each task gets; a `Balancer`."""

    num_tasks: int
    generator: torch.Generator

    def shares_now(self, progress: Progress | None) -> Tensor: ...


class Allocation(Scheduler):
    """Every update has K groups of B samples, and the tasks get them in proportion to their weights.

    An update of one task's samples alone, or without a task, is possible. The loss of a task is the mean over its
    groups and is multiplied by their number. A task without samples in an update keeps its temperature.

    :param shares: says what the weights are
    """

    scratch = frozenset({"counts"})  # drawn at every update

    def __init__(self, shares: Shares) -> None:
        super().__init__(shares.num_tasks, shares.generator)
        self.shares = shares
        self.counts = torch.ones(shares.num_tasks, dtype=torch.long)  # groups of each task in this update, on the host

    def next_selection(self, progress: Progress | None = None) -> Selection:
        self.counts = draw_counts(self.shares.shares_now(progress), self.generator)
        return Selection.repeated(self.counts)

    def balance(self, tasks: Tasks) -> Balanced:
        tasks = as_tasks(tasks)
        losses = tasks.losses
        self.refuse_unusable(torch.where((self.counts > 0).to(losses.device), losses, 0.0), tasks)
        self._weights = self.counts.to(losses)
        return Balanced(self._weights, tasks.selection)

    def for_actor(self, own: Balancer) -> Balancer:
        return SampledWeights(self)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "fixed", None)  # files of earlier versions hold the weights of `static`
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SampledWeights(Weighting):
    """The actor's side of an `Allocation`: the same samples, and the same number of groups for a weight."""

    def __init__(self, allocation: Allocation) -> None:
        super().__init__(allocation.num_tasks)
        self._balance = allocation.balance  # a method, so that the allocation is no submodule

    def check(self, tasks: Tasks) -> None:
        """Nothing here: the allocation looks at the tasks that have samples."""

    def forward(self, tasks: Tasks) -> Tensor:
        return self._balance(tasks).weights
