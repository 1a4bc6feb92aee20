"""ConFIG: the direction with the same positive cosine to every task gradient."""

import torch
from torch import Tensor

from agents.balancing.gramian import GramianWeighting, per_unit_gradient
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import correlation, pseudo_solve, quadratic, times


@register_balancer(
    "config",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2408.11104",
    summary="equal cosine with every task gradient, length from the sum of projections",
)
class ConFIG(GramianWeighting):
    """``u = pinv(U) 1`` for the matrix U of unit gradients; ``d = (sum_i g_i.u / ||u||) u / ||u||``.

    Liu, Chu & Thuerey 2025, equations 2 to 4. The direction lies in the span of the gradients, so U enters through its
    cosines alone: ``u = U^T x`` with ``x = pinv(U U^T) 1``. Our d is the paper's divided by K, which makes it the plain
    gradient where all tasks agree. Gradients that sum to zero after normalisation leave no such direction: the update
    falls back to unitary weights.
    Differs from the authors' code: on cosines, gradients count as linearly dependent from a relative distance of about
    the root of the precision on. The version with momentum is not offered.
    """

    @property
    def cancels_weights(self) -> str:
        return "it looks at unit gradients and gives them equal parts"

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        cosines, norms = correlation(gramian)
        size = gramian.shape[-1]
        unit = pseudo_solve(cosines, (norms > 0).to(norms), 8 * size * precision)
        projections = (norms * times(cosines, unit)).sum(-1, keepdim=True)
        length = quadratic(cosines, unit).unsqueeze(-1)
        weights = per_unit_gradient(unit, gramian) * projections / length
        return torch.where(length > 1e-12, weights, torch.full_like(weights, float("nan")))
