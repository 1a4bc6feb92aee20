"""DB-MTL: balanced losses by their logarithm, balanced gradients by a common length."""

import torch
from torch import Tensor

from agents.balancing.balancer import Direction, Needs
from agents.balancing.gradient_memory import GradientMemory, gradient_norms, only_gradient
from agents.balancing.options import require_not_negative
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks
from agents.errors import ConfigurationError

EPSILON = 1e-8


@register_balancer(
    "db_mtl",
    family="gradient",
    cost="O(K), memory of K gradients",
    paper="arXiv 2308.12029",
    summary="smoothed gradients of log losses, all stretched to the longest",
)
class DualBalancing(Direction):
    """``b_k = g + (beta / t^beta_sigma) (b_k - g)``, ``g = grad log l_k``; ``d = mean_k max_j ||b_j|| b_k / ||b_k||``.

    Lin et al. 2023, equations 1 to 3 and algorithm 1; the paper's sum is K times our mean. Not a weighting of the
    current gradients: the direction is composed. One task gets its plain gradient; a task without gradient has no part.
    Within a group of a scheduler j and k are of the group, and t counts the updates of a task: averages of tasks at
    rest stand still.

    :param beta: memory of the gradient averages; 0 takes the gradients of this batch alone
    :param beta_sigma: how fast that memory shortens
    """

    needs = Needs.GRADIENTS | Needs.POSITIVE_LOSSES

    def __init__(
        self, num_tasks: int, beta: float = 0.9, beta_sigma: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_tasks, generator)
        require_not_negative("db_mtl", beta=beta, beta_sigma=beta_sigma)
        if beta >= 1:
            raise ConfigurationError(f"db_mtl: beta must be below 1, found {beta!r}.")
        self.beta, self.beta_sigma = beta, beta_sigma
        self.memory = GradientMemory(num_tasks)

    @property
    def cancels_weights(self) -> str:
        return "it brings the gradients of all log losses to one length"

    def direction(self, tasks: Tasks) -> Tensor:
        gradient_norms(self, tasks)
        self.memory.clocks += 1
        if self.num_tasks == 1:
            return only_gradient(tasks)
        share = 1 - self.beta / self.memory.clocks**self.beta_sigma
        smooth = self.memory.blend(tasks, share, 1 / (tasks.losses + EPSILON))  # of the log losses
        lengths = smooth.norm(dim=-1)
        stretch = lengths.amax(-1, keepdim=True) / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        self._weights = stretch / (tasks.losses + EPSILON)
        return (stretch.unsqueeze(-2) @ smooth).squeeze(-2) / smooth.shape[-2]
