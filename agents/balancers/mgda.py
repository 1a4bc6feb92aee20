"""MGDA: the point of smallest norm in the convex hull of the task gradients."""

import torch
from torch import Tensor

from agents.balancing.gramian import GramianWeighting, per_unit_gradient
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import correlation, min_norm_point
from agents.errors import unknown_name


@register_balancer(
    "mgda",
    family="gradient",
    cost="O(K)",
    paper="arXiv 1810.04650",
    summary="smallest convex combination of the task gradients: a descent direction for every task",
)
class MGDA(GramianWeighting):
    """``min_w ||sum_k w_k g_k||^2`` over the simplex (Desideri 2012; Sener & Koltun 2018, equation 3).

    Weights are ``K w``, so the direction is the paper's. With ``norm="l2"``, the setting of the RL programs of
    arXiv 2201.04122, the gradients are brought to unit length first and the direction is the min-norm point of those.
    Small gradients dominate without normalisation, and a task with zero gradient stops the update with or without.
    Differs from the authors' code: an exact active-set solution instead of Frank-Wolfe steps; and with ``l2`` their
    code finds the weights on unit gradients but applies them to the raw ones, for two tasks plain averaging.

    :param norm: ``none`` or ``l2``
    """

    def __init__(self, num_tasks: int, norm: str = "l2", generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        if norm not in ("none", "l2"):
            raise unknown_name("mgda norm", norm, ("none", "l2"))
        self.norm = norm

    @property
    def cancels_weights(self) -> str:
        return "it looks at unit gradients" if self.norm == "l2" else ""

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        size = gramian.shape[-1]
        if self.norm == "none":
            return size * min_norm_point(gramian)
        return size * per_unit_gradient(min_norm_point(correlation(gramian)[0]), gramian)
