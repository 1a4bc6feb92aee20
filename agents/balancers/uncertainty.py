"""Uncertainty weighting: weights learned as inverse variances of the tasks' noise."""

import torch
from torch import Tensor

from agents.balancing.balancer import Needs, Weighting
from agents.balancing.buffer_adam import BufferAdam
from agents.balancing.options import require_positive
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks


@register_balancer(
    "uncertainty",
    family="loss",
    cost="O(1)",
    paper="arXiv 1705.07115",
    summary="learned inverse variances: each weight drifts towards 1 / loss",
)
class Uncertainty(Weighting):
    """Minimise ``sum_k (exp(-s_k) l_k + s_k) / 2``, also over ``s_k = log sigma_k^2`` (Kendall et al. 2018).

    Stationary at ``exp(-s_k) = 1 / l_k``: a smoothed `scale_invariant`. The paper's direction is K/2 times ours.
    Unbounded below for a negative loss, hence refused for actors.
    Differs from the authors' code: s has an Adam of its own, as in the RL variant of arXiv 2306.03792 (step size 0.01
    in its configuration), instead of sharing the model's optimiser.

    :param lr: step size of s
    """

    needs = Needs.POSITIVE_LOSSES
    log_variances: Tensor

    def __init__(self, num_tasks: int, lr: float = 0.01, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        require_positive("uncertainty", lr=lr)
        self.register_buffer("log_variances", torch.zeros(num_tasks))
        self.adam = BufferAdam(num_tasks, lr)

    def forward(self, tasks: Tasks) -> Tensor:
        weights = (-self.log_variances).exp().to(tasks.losses)
        self.adam.step(self.log_variances, 0.5 * (1 - weights * tasks.losses))  # d/ds of the objective
        return weights
