"""FairGrad: alpha-fair gains of the tasks."""

import torch
from torch import Tensor

from agents.balancing.gramian import GramianWeighting
from agents.balancing.options import require_positive
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import power_balance


@register_balancer(
    "fairgrad",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2402.15638",
    summary="alpha-fair gains: from plain averaging over bargaining to max-min",
)
class FairGrad(GramianWeighting):
    """Find ``w > 0`` with ``G w = w^(-1 / alpha)``; ``d = sum_k w_k g_k`` (Ban & Ji 2024, equation 6 and algorithm 1).

    Weights are ``K w``: the paper's direction, whose length depends on the scale of the losses. alpha -> 0 is linear,
    1 is Nash-MTL without its normalisation, infinity is max-min. The default is that of the RL runs; the supervised
    ones use 1.
    Differs from the authors' code: an exact Newton solution of the convex potential
    ``w^T G w / 2 - sum w^(1 - 1/alpha) / (1 - 1/alpha)``, where their RL code takes 20 gradient steps; a task with zero
    gradient gets weight 0.

    :param alpha: fairness; high cares for the worst task
    """

    def __init__(self, num_tasks: int, alpha: float = 2.0, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        require_positive("fairgrad", alpha=alpha)
        self.alpha = alpha

    @property
    def dulls_weights(self) -> str:
        return "a fair share depends on the size of a gradient by a small power"

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        return gramian.shape[-1] * power_balance(gramian, 1 / self.alpha, ridge=max(precision, 1e-9))
