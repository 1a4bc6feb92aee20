"""Aligned-MTL: gradients made orthogonal and equally long by the nearest such system."""

import torch
from torch import Tensor

from agents.balancing.gramian import GramianWeighting
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import times
from agents.errors import unknown_name

SCALE_MODES = ("min", "median", "rmse")


@register_balancer(
    "aligned_mtl",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2305.19000",
    summary="replaces the gradients by the nearest orthogonal system, all of one length",
)
class AlignedMTL(GramianWeighting):
    """``B = sqrt(s) V diag(l)^(-1/2) V^T`` for ``G = V diag(l) V^T``; ``d = J^T B p`` with ``p = 1/K``.

    Senushkin et al. 2023, theorem 2 and algorithm 1. All singular values of ``B J`` equal ``sqrt(s)``. Weights are
    ``B 1``, the paper's direction for a mean; LibMTL sums, K times as long. With ``scale_mode="min"`` one small
    gradient or two parallel ones make the whole step small.
    Differs from the authors' code: eigenvalues below ``K * precision`` of the largest count as zero; the precision is
    that of the gradients, not of the solver.

    :param scale_mode: s is the ``min``, the ``median`` or the mean (``rmse``, of singular values) of the eigenvalues
    """

    def __init__(self, num_tasks: int, scale_mode: str = "min", generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        if scale_mode not in SCALE_MODES:
            raise unknown_name("aligned_mtl scale_mode", scale_mode, SCALE_MODES)
        self.scale_mode = scale_mode

    @property
    def dulls_weights(self) -> str:
        return "it brings the principal parts of the gradients to one length"

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        size = gramian.shape[-1]
        values, vectors = torch.linalg.eigh(gramian)  # ascending
        kept = values > size * precision * values[..., -1:]
        inverse = torch.where(kept, values, torch.ones_like(values)).rsqrt() * kept
        balanced = times(vectors, inverse * vectors.sum(-2))
        return self._scale(values, kept).sqrt() * balanced

    def _scale(self, values: Tensor, kept: Tensor) -> Tensor:
        """The common squared length ``[..., 1]``; not a number where no gradient is left."""
        rank = kept.sum(-1, keepdim=True)
        if self.scale_mode == "rmse":
            return (values * kept).sum(-1, keepdim=True) / rank
        first = values.shape[-1] - rank
        chosen = first if self.scale_mode == "min" else first + (rank - 1).clamp(min=0) // 2
        scale = values.gather(-1, chosen.clamp(max=values.shape[-1] - 1))
        return torch.where(rank > 0, scale, torch.full_like(scale, float("nan")))
