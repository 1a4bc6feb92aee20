"""IMTL: impartial multitask learning, by loss (L), by gradient (G), and both."""

from typing import ClassVar

import torch
from torch import Tensor

from agents.balancing.balancer import Needs, Weighting
from agents.balancing.buffer_adam import BufferAdam
from agents.balancing.gramian import GramianWeighting, per_unit_gradient
from agents.balancing.options import require_positive
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import correlation, pseudo_solve
from agents.balancing.tasks import Tasks


@register_balancer(
    "imtl_l",
    family="loss",
    cost="O(1)",
    paper="openreview IMPnRXEWpvr",
    summary="learned scales that bring every loss to one",
)
class ImtlL(Weighting):
    """Minimise ``sum_k (exp(s_k) l_k - s_k)``, also over s (Liu et al. 2021, equation 7).

    Weights are ``exp(s_k)``, which drift towards ``1 / l_k``; the paper's sum over tasks is K times our mean.
    Unbounded below for a negative loss, hence refused for actors.
    Differs from the authors' code: s has an Adam of its own instead of sharing the model's optimiser.

    :param lr: step size of s
    """

    needs = Needs.POSITIVE_LOSSES
    task_buffers: ClassVar[dict[str, int]] = {"scales": 1}
    scales: Tensor

    def __init__(self, num_tasks: int, lr: float = 0.025, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        require_positive("imtl_l", lr=lr)
        self.register_buffer("scales", torch.zeros(num_tasks))
        self.adam = BufferAdam(num_tasks, lr, per_task=True)

    def forward(self, tasks: Tasks) -> Tensor:
        weights = self.scales.exp().to(tasks.losses)
        self.adam.step(self.scales, weights * tasks.losses - 1)  # d/ds of the objective
        return weights


@register_balancer(
    "imtl_g",
    family="gradient",
    cost="O(K)",
    paper="openreview IMPnRXEWpvr",
    summary="equal projections of the direction on all unit task gradients",
)
class ImtlG(GramianWeighting):
    """``d = sum_k a_k g_k``, ``sum a = 1``, with the same ``d.g_k / ||g_k||`` for every task (Liu et al. 2021, eq. 6).

    In closed form ``a = v / sum(v)``, ``v = pinv(G) sqrt(diag G)``; weights are ``K a``, the paper's direction.
    Weights may be negative, and grow without bound as ``sum(v)`` approaches zero: the failure of IMTL in RL that
    arXiv 2201.04122 reports. Where ``sum(v)`` is zero, the update falls back to unitary weights.
    Differs from the authors' code: the pseudo-inverse of the matrix of cosines instead of a linear system relative to
    the first task, so that no task is special and rank deficiency does no harm.
    """

    @property
    def cancels_weights(self) -> str:
        return "it asks for equal projections on unit gradients"

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        cosines, norms = correlation(gramian)
        size = gramian.shape[-1]
        unit = pseudo_solve(cosines, (norms > 0).to(norms), 8 * size * precision)
        shares = torch.where(norms > 0, per_unit_gradient(unit, gramian), torch.zeros_like(unit))
        total = shares.sum(-1, keepdim=True)
        lost = total.abs() <= 1e-12 * shares.abs().sum(-1, keepdim=True)
        return torch.where(lost, torch.full_like(shares, float("nan")), size * shares / total)


@register_balancer(
    "imtl",
    family="gradient",
    cost="O(K)",
    paper="openreview IMPnRXEWpvr",
    summary="both parts of IMTL: scaled losses, and equal projections of their gradients",
)
class Imtl(ImtlG):
    """IMTL-G on the losses as IMTL-L has scaled them (Liu et al. 2021, algorithm 1): `imtl_l`, then `imtl_g`.

    Within a group of a scheduler the scales of the group alone are learned, and projections are equal within the group.

    :param lr: step size of the loss scales
    """

    needs = Needs.GRAMIAN | Needs.POSITIVE_LOSSES

    def __init__(self, num_tasks: int, lr: float = 0.025, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        self.loss_part = ImtlL(num_tasks, lr)

    def forward(self, tasks: Tasks) -> Tensor:
        scales = self.loss_part(tasks)
        return scales * super().forward(tasks.weighted(scales))
