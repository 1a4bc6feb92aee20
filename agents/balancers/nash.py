"""Nash-MTL: the update as the Nash bargaining solution between the tasks."""

import torch
from torch import Tensor

from agents.balancers.base import Tasks, register_balancer
from agents.balancers.gramian import GramianWeighting
from agents.balancers.options import require_not_negative, require_whole
from agents.balancers.solvers import power_balance


@register_balancer(
    "nash_mtl",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2202.01017",
    summary="bargaining solution: every task gains by the same factor of its own scale",
)
class NashMTL(GramianWeighting):
    """Find ``a > 0`` with ``G a = 1 / a``; ``d = sum_k a_k g_k`` (Navon et al. 2022, claim 3.1 and algorithm 1).

    Then ``||d|| = sqrt(K)`` whatever the gradients, and the authors' code clips it to `max_norm`. Weights are ``K a``
    after clipping: the paper's direction. Invariant to the scale of any task.
    Differs from the authors' code: an exact Newton solution of the convex potential ``a^T G a / 2 - sum log a``
    instead of 20 convex programs; a tiny ridge lets d shrink to zero at a Pareto-stationary point, where theirs has no
    solution; a task with zero gradient is left out of the bargain, with weight 0.

    :param update_every: updates for which the weights are kept; 50 or 100 cost little success in the paper
    :param max_norm: bound on the length of d; 0 for none
    """

    kept: Tensor

    def __init__(
        self,
        num_tasks: int,
        update_every: int = 1,
        max_norm: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole("nash_mtl", 1, update_every=update_every)
        require_not_negative("nash_mtl", max_norm=max_norm)
        self.update_every = update_every
        self.max_norm = max_norm
        self.any_tasks = update_every == 1  # type: ignore[misc]
        self.register_buffer("kept", torch.ones(num_tasks))
        self._updates = 0

    def wants_gradients(self) -> bool:
        return self._updates % self.update_every == 0

    def forward(self, tasks: Tasks) -> Tensor:
        if self.update_every == 1:
            return super().forward(tasks)
        if self.wants_gradients():
            self.kept = super().forward(tasks)
        self._updates += 1
        return self.kept.to(tasks.losses)

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        size = gramian.shape[-1]
        clip = min(1.0, self.max_norm / size**0.5) if self.max_norm > 0 else 1.0
        return size * clip * power_balance(gramian, 1.0, ridge=max(precision, 1e-9))

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self._updates)

    def set_extra_state(self, state: Tensor) -> None:
        self._updates = int(state)
