"""Weights that are given, not found: fixed, or over the course of training; on the losses, or on what is sampled."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from agents.balancing.allocation import ShareWeighting
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Progress
from agents.errors import ConfigurationError


class GivenWeights(ShareWeighting):
    """Weights that the user gives. A subclass says in `shares` what they are."""

    def shares(self, budget_used: float) -> Tensor:
        """The weights ``[K]`` at this moment, of sum K.

        :param budget_used: share of the training budget
        """
        raise NotImplementedError

    def shares_now(self, progress: Progress | None) -> Tensor:
        return self.shares(0.0 if progress is None else progress.budget_used)


@register_balancer(
    "static", family="loss", cost="O(1)", paper="arXiv 2310.08910", summary="fixed weights, given by you"
)
class Static(GivenWeights):
    """Fixed weights, put on the scale of a mean: ``K * given / sum(given)`` (Royer et al. 2023, scalarization).

    :param weights: K numbers, not negative, not all zero; only their ratios matter
    :param weights_on: ``loss`` multiplies the losses; ``sampling`` draws each task's samples in proportion instead
    """

    def __init__(
        self,
        num_tasks: int,
        weights: Sequence[float],
        weights_on: str = "loss",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, "static", weights_on, generator)
        # A setting, not a state, like the table of `schedule`.
        self.fixed = on_scale("static", [weights], num_tasks).squeeze(0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "fixed", None)  # files of earlier versions hold it
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def shares(self, budget_used: float) -> Tensor:
        return self.fixed


@register_balancer(
    "schedule",
    family="loss",
    cost="O(1)",
    paper="arXiv 2310.08910",
    summary="weights over the course of training, given by you: what `mtrl tune` found",
)
class Schedule(GivenWeights):
    """Weights that change at given shares of the budget: what a population search leaves (Royer et al. 2023).

    Put on the scale of a mean like those of `static`. Shares instead of steps, so that a schedule found on a small
    budget can be tried on a large one. ``schedule=FILE`` reads both options from a file of `mtrl tune`.

    :param times: shares of the budget at which weights begin, rising from 0
    :param weights: K numbers for each of them, not negative, not all zero
    :param weights_on: ``loss`` multiplies the losses; ``sampling`` draws each task's samples in proportion instead
    :param search: what gives the weights while it trains its members: `mtrl compare` takes these for runs of one method
    """

    def __init__(
        self,
        num_tasks: int,
        times: Sequence[float],
        weights: Sequence[Sequence[float]],
        weights_on: str = "loss",
        search: str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, "schedule", weights_on, generator)
        self.search = search
        self.times = [float(time) for time in times]
        rises = all(earlier < later for earlier, later in pairwise([*self.times, 1.0]))
        if self.times[:1] != [0.0] or not rises:
            raise ConfigurationError(
                f"schedule times must be shares of the budget that rise from 0 and stay below 1, found {self.times}."
            )
        if len(weights) != len(self.times):
            raise ConfigurationError(
                f"schedule needs weights for each of its {len(self.times)} times, found {len(weights)} rows of them."
            )
        # A setting, not a state: whoever resumes with another schedule means the other one.
        self.table = on_scale("schedule", weights, num_tasks)

    def shares(self, budget_used: float) -> Tensor:
        return self.table[bisect_right(self.times, budget_used) - 1]


def on_scale(name: str, weights: Sequence[Sequence[float]], num_tasks: int) -> Tensor:
    """Given weights as rows of sum K: ``[n, K]``.

    :param name: of the method, for the sentence
    :raises ConfigurationError: for a row that is no list of K weights
    """
    for row in weights:
        if len(row) != num_tasks:
            raise ConfigurationError(f"{name} needs {num_tasks} weights, one for each task, found {len(row)}.")
    given = torch.tensor([[float(weight) for weight in row] for row in weights], dtype=torch.float32)
    bad = ~given.isfinite().all(1) | (given < 0).any(1) | ~(given.sum(1) > 0)
    if bool(bad.any()):
        row = given[bad.int().argmax()].tolist()
        raise ConfigurationError(f"{name} weights must be finite, not negative and not all zero, found {row}.")
    return given * num_tasks / given.sum(1, keepdim=True)
