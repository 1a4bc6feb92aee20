"""Improvable gap balancing: more weight where more is left to gain. The learned agent is `igb_rl`."""

import torch
from torch import Tensor

from agents.balancers.base import Balancer, Tasks, register_balancer
from agents.balancers.options import require_whole
from agents.balancers.reference import ReferenceLosses


@register_balancer(
    "igb_v1",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="softmax of loss / early loss, on log losses",
)
class ImprovableGapV1(Balancer):
    """``lambda = K softmax(l / l_base)``, objective ``sum_k lambda_k log l_k`` (Dai et al. 2024, eq. 3, algorithm 1).

    ``weights_k = lambda_k / l_k``; lambda is one until the base losses are known. The paper's direction (a sum) is K
    times ours. With gaps in [0, 1] no two lambdas differ by more than a factor e; but a critic's loss may grow far
    above its base loss while learning succeeds, and then the softmax follows one task alone.
    Differs from the authors' code: base losses are means over a stretch of updates instead of the second epoch.

    :param base_start: updates before the base losses are measured (the first epoch)
    :param base_window: updates over which they are averaged (the second epoch)
    """

    needs_positive_losses = True

    def __init__(
        self,
        num_tasks: int,
        base_start: int = 1000,
        base_window: int = 1000,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole("igb_v1", 0, base_start=base_start)
        require_whole("igb_v1", 1, base_window=base_window)
        self.base = ReferenceLosses(num_tasks, base_start, base_window)

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses
        gaps = (losses / self.base.mean.to(losses)).clamp(max=torch.finfo(losses.dtype).max)
        importance = torch.where(self.base.ready, self.num_tasks * gaps.softmax(-1), 1.0)
        self.base.observe(losses)
        return importance / losses
