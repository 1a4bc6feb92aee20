"""Weights that are given, not found: fixed, or over the course of training; on the losses, or on what is sampled."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from agents.balancing.balancer import Balancer, Tasks, register_balancer
from agents.errors import ConfigurationError, unknown_name

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


class GivenWeights(Balancer):
    """Weights that do not depend on the losses. A subclass says in `given` what they are.

    With ``weights_on='loss'`` they multiply the losses. With ``weights_on='sampling'`` every update has K groups of
    B samples, and the tasks get them in proportion to their weights: an update of one task's samples alone, or without
    a task, is possible. Both directions are equal in expectation; sampling has the larger variance, and spends no
    computation on tasks of small weight. A task without samples in an update keeps its temperature.
    """

    def __init__(self, num_tasks: int, weights_on: str, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        if weights_on not in ACTS_ON:
            raise unknown_name("weights_on", weights_on, ACTS_ON)
        sampling = weights_on == "sampling"
        self.schedules = self.stands_last = self.repeats_tasks = sampling  # type: ignore[misc]
        self._counts = torch.ones(num_tasks, dtype=torch.long)  # of this update, on the host
        self._leader: tuple[GivenWeights, ...] = ()  # in a tuple, so that it is no submodule

    def given(self, progress: Any) -> Tensor:
        """The weights ``[K]`` at this moment, of sum K.

        :param progress: tells ``budget_used``; None at the beginning
        """
        raise NotImplementedError

    def next_tasks(self, progress: Any = None) -> Tensor | None:
        if not self.repeats_tasks:
            return None
        self._counts = draw_counts(self.given(progress).cpu(), self.generator)
        return None if self.group is None else torch.arange(self.num_tasks).repeat_interleave(self._counts)

    @property
    def group(self) -> Tensor | None:
        at_work = self._counts > 0  # K groups for K tasks: each has one, or some have none
        return None if bool(at_work.all()) else at_work

    def within_group(self) -> Balancer:
        return self if self.repeats_tasks else super().within_group()

    def follow(self, leader: Balancer) -> None:
        assert isinstance(leader, GivenWeights)
        self._leader = (leader,)

    def check(self, tasks: Tasks) -> None:
        at_work = self._decider.group
        losses = tasks.losses if at_work is None else tasks.losses.where(at_work.to(tasks.losses.device), 0.0)
        self.refuse_unusable(losses, getattr(tasks, "task_names", ()))

    @property
    def _decider(self) -> "GivenWeights":
        return self._leader[0] if self._leader else self

    def forward(self, tasks: Tasks) -> Tensor:
        if self.repeats_tasks:
            return self._decider._counts.to(tasks.losses)
        return self.given(getattr(tasks, "progress", None)).to(tasks.losses)


@register_balancer(
    "static", family="loss", cost="O(1)", paper="arXiv 2310.08910", summary="fixed weights, given by you"
)
class Static(GivenWeights):
    """Fixed weights, put on the scale of a mean: ``K * given / sum(given)`` (Royer et al. 2023, scalarization).

    :param weights: K numbers, not negative, not all zero; only their ratios matter
    :param weights_on: ``loss`` multiplies the losses; ``sampling`` draws each task's samples in proportion instead
    """

    fixed: Tensor

    def __init__(
        self,
        num_tasks: int,
        weights: Sequence[float],
        weights_on: str = "loss",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, weights_on, generator)
        # A setting, not a state, like the table of `schedule`.
        self.register_buffer("fixed", on_scale("static", [weights], num_tasks).squeeze(0), persistent=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "fixed", None)  # files of earlier versions hold it
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def given(self, progress: Any) -> Tensor:
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

    table: Tensor

    def __init__(
        self,
        num_tasks: int,
        times: Sequence[float],
        weights: Sequence[Sequence[float]],
        weights_on: str = "loss",
        search: str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, weights_on, generator)
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
        # A setting, not a state: whoever goes on with another schedule means the other one.
        self.register_buffer("table", on_scale("schedule", weights, num_tasks), persistent=False)

    def given(self, progress: Any) -> Tensor:
        return self.table[bisect_right(self.times, getattr(progress, "budget_used", 0.0)) - 1]


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
