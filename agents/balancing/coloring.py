"""Which tasks may be updated together: interference graph, colouring, coverage, and the schedule of the threshold.

Pure functions on ``[K, K]`` and ``[M, K]`` matrices of K tasks and M groups; arXiv 2509.16959, sections 3 and 4.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.balancing.solvers import correlation
from agents.errors import ConfigurationError, unknown_name

SCHEDULES = ("log", "linear", "cosine", "constant")


def interference(gramian: Tensor) -> Tensor:
    """Interference coefficients ``rho_ij = -cos(g_i, g_j)`` in [-1, 1] ``[K, K]``, zero on the diagonal.

    A task without gradient interferes with none.
    """
    coefficients = -correlation(gramian)[0]
    coefficients.diagonal(dim1=-2, dim2=-1).zero_()
    return coefficients.clamp(-1, 1)


def over_pairs(coefficients: Tensor) -> Tensor:
    """The coefficients of all pairs of different tasks ``[K (K - 1) / 2]``."""
    size = len(coefficients)
    first, second = torch.triu_indices(size, size, offset=1, device=coefficients.device)
    return coefficients[first, second]


def conflict_graph(coefficients: Tensor, threshold: float) -> Tensor:
    """Edges ``rho_ij > threshold`` as a boolean matrix ``[K, K]``."""
    edges = coefficients > threshold
    return edges & ~torch.eye(len(edges), dtype=torch.bool, device=edges.device)


def welsh_powell(edges: Tensor) -> Tensor:
    """Greedy colours ``[K]`` such that no edge joins two tasks of one colour.

    Tasks in order of falling degree, the lower index first among equals, each with the first colour that no neighbour
    has: at most ``largest degree + 1`` colours.
    """
    colours = torch.full((len(edges),), -1)
    for task in edges.sum(-1).sort(descending=True, stable=True).indices.tolist():
        taken = set(colours[edges[task].cpu()].tolist())
        colours[task] = next(colour for colour in range(len(edges)) if colour not in taken)
    return colours


def groups_of(colours: Tensor) -> Tensor:
    """Groups ``[M, K]``: which tasks have each of the M colours."""
    return colours == torch.arange(int(colours.max()) + 1).unsqueeze(-1)


def cover(groups: Tensor, edges: Tensor, at_least: int) -> Tensor:
    """Groups ``[M, K]`` in which every task stands in `at_least` of them, as far as groups without conflict exist.

    Tasks join further groups, no group is added, so every task is still reached once in M updates.
    """
    groups = groups.clone()
    edges = edges.to(groups.device)
    for task in range(groups.shape[-1]):
        for group in groups:
            if int(groups[:, task].sum()) >= at_least:
                break
            if not bool((group & edges[task]).any()):
                group[task] = True
    return groups


def schedule_groups(gramian: Tensor, threshold: float, at_least: int = 1) -> Tensor:
    """The groups ``[M, K]`` to be updated in turn, from inner products ``[K, K]`` of smoothed task gradients."""
    edges = conflict_graph(interference(gramian), threshold)
    return cover(groups_of(welsh_powell(edges)), edges, at_least)


@dataclass(frozen=True)
class ThresholdSchedule:
    """Threshold over time: `initial` during the warm-up, then towards `final`.

    With the initial threshold 1 no two tasks conflict, and the warm-up is ordinary joint training.

    :param initial: threshold of the warm-up, in (0, 1]
    :param final: threshold in the end, in (0, 1]
    :param warmup: share of the budget that is the warm-up
    :param anneal: share of the budget from there until the final threshold; 0 jumps
    :param kind: ``log`` (geometric), ``linear``, ``cosine``, or ``constant`` (initial for ever)
    """

    initial: float = 1.0
    final: float = 0.25
    warmup: float = 0.0
    anneal: float = 0.0
    kind: str = "log"

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise unknown_name("threshold schedule", self.kind, SCHEDULES)
        for name in ("initial", "final"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ConfigurationError(f"The {name} threshold must lie above 0 and be at most 1, found {value!r}.")
        for name in ("warmup", "anneal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(
                    f"The threshold's {name} is a share of the budget, from 0 to 1, found {getattr(self, name)!r}."
                )

    def __call__(self, used: float) -> float:
        """The threshold when that share of the budget is used."""
        if used < self.warmup or self.kind == "constant":
            return self.initial
        part = min((used - self.warmup) / self.anneal, 1.0) if self.anneal else 1.0
        if self.kind == "log":
            return float(self.initial * (self.final / self.initial) ** part)
        if self.kind == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.initial + (self.final - self.initial) * part
