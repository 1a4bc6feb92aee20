"""Weights as shares of what is sampled: a scheduler that gives tasks several groups of a batch, or none."""

from typing import Any

import torch
from torch import Tensor

from agents.balancing.balancer import Balanced, Balancer, Scheduler, Weighting
from agents.balancing.tasks import Progress, Tasks, as_tasks
from agents.errors import unknown_name
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


class ShareWeighting(Weighting):
    """A method that knows its weights before samples are drawn. A subclass says in `shares_now` what they are.

    With ``weights_on='loss'`` they multiply the losses; with ``weights_on='sampling'`` they are the shares of an
    `Allocation`. The raw gradients of both are equal in expectation, the steps of Adam are not: it hides how large a
    loss is from all that belongs to one task alone, and not how often a task is sampled.

    :param method: name in errors
    :param weights_on: ``loss`` or ``sampling``
    """

    scratch = frozenset({"latest"})  # computed at every update; a method that holds its decision saves it itself

    def __init__(self, num_tasks: int, method: str, weights_on: str, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        if weights_on not in ACTS_ON:
            raise unknown_name(f"weights_on of {method}", weights_on, ACTS_ON)
        self.weights_on = weights_on
        self.latest = torch.ones(num_tasks)  # weights of the running update, on the host

    def shares_now(self, progress: Progress | None) -> Tensor:
        """The weights of the coming update ``[K]``, of sum K, on the host.

        :param progress: what is known beyond the losses
        """
        raise NotImplementedError

    def forward(self, tasks: Tasks) -> Tensor:
        self.latest = self.shares_now(tasks.context.progress)
        return self.latest.to(tasks.losses)

    def as_it_acts(self) -> Balancer:
        return Allocation(self) if self.weights_on == "sampling" else self

    def for_actor(self, own: Balancer) -> Balancer:
        return FollowedShares(self)


class FollowedShares(Weighting):
    """The actor's side of weights that are known before an update: those of the critic. It has no state of its own.

    :param leader: the critic's side
    """

    def __init__(self, leader: ShareWeighting) -> None:
        super().__init__(leader.num_tasks)
        self._leader = (leader,)  # in a tuple, so that the leader is no submodule

    def forward(self, tasks: Tasks) -> Tensor:
        return self._leader[0].latest.to(tasks.losses)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]  # files of earlier versions hold a second copy of the decision
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Allocation(Scheduler):
    """Every update has K groups of B samples, and the tasks get them in proportion to their weights.

    An update of one task's samples alone, or without a task, is possible. The loss of a task is the mean over its
    groups and is multiplied by their number. A task without samples in an update keeps its temperature.

    :param shares: says what the weights are
    """

    scratch = frozenset({"counts"})  # drawn at every update

    def __init__(self, shares: ShareWeighting) -> None:
        super().__init__(shares.num_tasks, shares.generator)
        self.shares = shares
        self.counts = torch.ones(shares.num_tasks, dtype=torch.long)  # groups of each task in this update, on the host

    def next_selection(self, progress: Progress | None = None) -> Selection:
        self.shares.latest = self.shares.shares_now(progress)
        self.counts = draw_counts(self.shares.latest, self.generator)
        return Selection.repeated(self.counts)

    def balance(self, tasks: Tasks) -> Balanced:
        tasks = as_tasks(tasks)
        losses = tasks.losses
        self.refuse_unusable(torch.where((self.counts > 0).to(losses.device), losses, 0.0), tasks)
        self._weights = self.counts.to(losses)
        return Balanced(self._weights, tasks.selection)

    def for_actor(self, own: Balancer) -> Balancer:
        return SampledWeights(self)

    def remarks(self) -> list[str]:
        return self.shares.remarks()

    def diagnostics(self) -> dict[str, Tensor]:
        """What the shares report of themselves, the groups that were drawn as weights, and the shares as decided."""
        return {**self.shares.diagnostics(), **super().diagnostics(), "decided": self.shares.latest}

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
