"""Smooth Tchebycheff scalarization: a soft maximum of the losses relative to a nadir point."""

import torch
from torch import Tensor

from agents.balancing.balancer import Needs, Weighting
from agents.balancing.options import require_positive, require_whole
from agents.balancing.reference_losses import ReferenceLosses
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks


@register_balancer(
    "stch",
    family="loss",
    cost="O(1)",
    paper="arXiv 2402.19078",
    summary="smooth maximum of the log losses relative to their early values",
)
class SmoothTchebycheff(Weighting):
    """Minimise ``K mu log sum_k (l_k / nadir_k)^(1/mu)`` (Lin et al. 2024, as its multitask code has it).

    ``weights_k = K softmax(log(l / nadir) / mu)_k / l_k``; ``1 / l_k`` until the nadir is known. The published
    objective's direction is K times ours. Small mu follows the worst task; large mu is `scale_invariant`; mu = 1 gives
    *static* weights proportional to ``1 / nadir``.
    Differs from the authors' code: warm-up and nadir count updates instead of epochs (there: 4 epochs, then one).

    :param mu: smoothness of the maximum
    :param warmup: updates before the nadir is measured
    :param nadir_window: updates over which the nadir is averaged
    """

    needs = Needs.POSITIVE_LOSSES

    def __init__(
        self,
        num_tasks: int,
        mu: float = 1.0,
        warmup: int = 4000,
        nadir_window: int = 1000,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_positive("stch", mu=mu)
        require_whole("stch", 0, warmup=warmup)
        require_whole("stch", 1, nadir_window=nadir_window)
        self.mu = mu
        self.nadir = ReferenceLosses(num_tasks, warmup, nadir_window)

    @property
    def dulls_weights(self) -> str:
        return "it measures losses against their own past, which has been weighted too"

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses
        shares = ((losses.log() - self.nadir.mean.to(losses).log()) / self.mu).softmax(-1)
        shares = torch.where(self.nadir.ready, shares, 1 / self.num_tasks)
        self.nadir.observe(losses)
        return self.num_tasks * shares / losses
