"""GradNorm: weights that learn to give every task the gradient norm its training rate calls for."""

from typing import ClassVar

import torch
from torch import Tensor

from agents.balancing.balancer import Needs
from agents.balancing.buffer_adam import BufferAdam
from agents.balancing.gramian import GramianWeighting
from agents.balancing.options import require_not_negative, require_positive, require_whole
from agents.balancing.reference_losses import ReferenceLosses
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import diagonal
from agents.balancing.tasks import Tasks


@register_balancer(
    "gradnorm",
    family="gradient",
    cost="O(K)",
    paper="arXiv 1711.02257",
    summary="learned weights: tasks that lag behind get larger gradients",
)
class GradNorm(GramianWeighting):
    """Weights w minimise ``sum_k |w_k ||g_k|| - mean_j(w_j ||g_j||) r_k^alpha|``, the target held fixed.

    Chen et al. 2018, equations 1 and 2 and algorithm 1: ``r_k`` is the part of the initial loss that is left, relative
    to the mean over tasks. After every step of w they are brought back to sum K. The paper's sum over tasks is K times
    our mean.
    Within a group of a scheduler all of this holds for the tasks of the group: their weights have mean one, rates and
    targets are relative to the means over them, and the initial loss of a task is that of its own first updates.
    Differs from the paper: norms of the whole gradient of the balanced parameters, not of the last shared layer; Adam
    on w, so that its step does not depend on the scale of the gradients; weights are kept above 0.001.

    :param alpha: strength with which slow tasks are favoured; 0 makes all gradient norms equal
    :param lr: step size of w
    :param initial_updates: updates whose mean loss counts as the initial loss
    """

    needs = Needs.GRAMIAN | Needs.POSITIVE_LOSSES
    task_buffers: ClassVar[dict[str, int]] = {"learned": 1}
    learned: Tensor

    def __init__(
        self,
        num_tasks: int,
        alpha: float = 1.5,
        lr: float = 0.025,
        initial_updates: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_not_negative("gradnorm", alpha=alpha)
        require_positive("gradnorm", lr=lr)
        require_whole("gradnorm", 1, initial_updates=initial_updates)
        self.alpha = alpha
        self.register_buffer("learned", torch.ones(num_tasks))
        self.adam = BufferAdam(num_tasks, lr, per_task=True)
        self.initial = ReferenceLosses(num_tasks, 0, initial_updates)

    def forward(self, tasks: Tasks) -> Tensor:
        norms = diagonal(self.inspect(tasks)).sqrt().to(self.learned)
        weights = self.learned * (self.learned.shape[-1] / self.learned.sum(-1, keepdim=True))
        self.learned = weights.clone()
        self.initial.observe(tasks.losses)
        if bool(self.initial.ready.all()):
            self._learn(norms, tasks.losses.to(weights))
        return weights.to(tasks.losses)

    def _learn(self, norms: Tensor, losses: Tensor) -> None:
        norms = norms / norms.mean(-1, keepdim=True).clamp(min=torch.finfo(norms.dtype).tiny)
        left = losses / self.initial.mean
        rate = left / left.mean(-1, keepdim=True)
        weighted = self.learned * norms
        target = weighted.mean(-1, keepdim=True) * rate**self.alpha
        self.adam.step(self.learned, (weighted - target).sign() * norms)  # d/dw of the objective
        self.learned.clamp_(min=1e-3)
