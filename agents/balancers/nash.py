"""Nash-MTL: the update as the Nash bargaining solution between the tasks."""

from typing import ClassVar

import torch
from torch import Tensor

from agents.balancing.balancer import Needs
from agents.balancing.gramian import GramianWeighting
from agents.balancing.options import require_not_negative, require_whole
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import power_balance
from agents.balancing.tasks import Tasks
from agents.selection import Selection


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
    Within a group of a scheduler the group bargains. Its weights are kept for updates of exactly this group; a group
    that is new, or has lost a task to another bargain, bargains again, since the solution depends on who takes part.

    :param update_every: updates for which the weights are kept; 50 or 100 cost little success in the paper
    :param max_norm: bound on the length of d; 0 for none
    """

    task_buffers: ClassVar[dict[str, int]] = {"kept": 1}
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
        self.register_buffer("kept", torch.ones(num_tasks))
        # On the host, since they decide whether gradients are computed at all.
        self._left = torch.zeros(num_tasks, dtype=torch.int64)  # updates for which a task's weight still stands
        self._bargain = torch.zeros(num_tasks, dtype=torch.int64)  # number of the bargain that it comes from

    def needs_now(self, selection: Selection) -> Needs:
        return Needs.NOTHING if self._stands(selection.active) else self.needs

    def forward(self, tasks: Tasks) -> Tensor:
        parties = tasks.selection.active
        if not self._stands(parties):
            self.kept = super().forward(tasks)
            self._agree(parties)
        self._left[parties] -= 1
        return self.kept.to(tasks.losses)

    def _stands(self, parties: Tensor) -> bool:
        """Whether the weights of these tasks, boolean ``[K]``, come from one bargain of just them and still stand."""
        same = torch.equal(self._bargain == self._bargain[parties][0], parties)
        return same and bool((self._left[parties] > 0).all())

    def _agree(self, parties: Tensor) -> None:
        """Take note of a new bargain; one that loses a task to it does not stand any more."""
        self._left[torch.isin(self._bargain, self._bargain[parties])] = 0
        self._left[parties] = self.update_every
        self._bargain[parties] = self._bargain.max() + 1

    @property
    def cancels_weights(self) -> str:
        return "its bargain does not depend on how large the gradient of a task is"

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        size = gramian.shape[-1]
        clip = min(1.0, self.max_norm / size**0.5) if self.max_norm > 0 else 1.0
        return size * clip * power_balance(gramian, 1.0, ridge=max(precision, 1e-9))

    def get_extra_state(self) -> Tensor:
        return torch.stack([self._left, self._bargain])

    def set_extra_state(self, state: Tensor) -> None:
        self._left, self._bargain = (row.clone() for row in state.cpu())
