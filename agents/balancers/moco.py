"""MoCo: min-norm weights that follow smoothed gradients, for noisy batches."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.balancing.balancer import Direction, Needs
from agents.balancing.gradient_memory import GradientMemory, gradient_norms, only_gradient
from agents.balancing.options import require_not_negative, require_positive
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import project_on_simplex, times
from agents.balancing.tasks import Tasks
from agents.errors import ConfigurationError, unknown_name


@dataclass(frozen=True)
class MoCoOptions:
    """What a user can set of `MoCo`.

    :param beta: step of the gradient averages
    :param beta_sigma: how fast that step shrinks with time
    :param gamma: step of the weights
    :param gamma_sigma: how fast that step shrinks with time
    :param rho: pull of the weights towards uniform
    :param norm: ``loss`` or ``none``
    """

    beta: float = 0.5
    beta_sigma: float = 0.5
    gamma: float = 0.1
    gamma_sigma: float = 0.5
    rho: float = 0.0
    norm: str = "loss"

    def __post_init__(self) -> None:
        require_positive("moco", beta=self.beta, gamma=self.gamma)
        require_not_negative("moco", beta_sigma=self.beta_sigma, gamma_sigma=self.gamma_sigma, rho=self.rho)
        if self.beta > 1:
            raise ConfigurationError(f"moco: beta must be at most 1, found {self.beta!r}.")
        if self.norm not in ("loss", "none"):
            raise unknown_name("moco norm", self.norm, ("loss", "none"))


@register_balancer(
    "moco",
    family="gradient",
    cost="O(K), memory of K gradients",
    paper="openreview dLAYGdKTi2",
    summary="min-norm weights, followed step by step on moving averages of the gradients",
)
class MoCo(Direction):
    """``y_k += beta_t (g_k - y_k)``; ``w = Proj(w - gamma_t (Y Y^T + rho I) w)``; ``d = Y^T w`` (Fernando et al. 2023).

    Algorithm 1, with ``beta_t = beta / t^beta_sigma`` and ``gamma_t = gamma / t^gamma_sigma``, w on the simplex. The
    direction is the paper's. With ``norm="loss"`` every gradient has the length of its loss, as in the authors' code
    within LibMTL; ``none`` is the paper's text. Not a weighting of the current gradients: the direction is composed.
    Differs from the authors' code: projection on the simplex as in the paper, where the code applies a softmax, which
    keeps the weights near uniform as long as the losses are small. One task gets its plain gradient.
    Within a group of a scheduler w is on the simplex of the group, starting from what its tasks had, relative to each
    other; t of an average counts the updates of its task, and t of w is the smallest of them in the group.
    """

    Options = MoCoOptions
    task_buffers: ClassVar[dict[str, int]] = {"shares": 1}
    shares: Tensor

    def __init__(self, num_tasks: int, options: MoCoOptions, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        self.options = options
        self.memory = GradientMemory(num_tasks)
        self.register_buffer("shares", torch.full((num_tasks,), 1 / num_tasks))

    @property
    def needs(self) -> Needs:
        return Needs.GRADIENTS | (Needs.POSITIVE_LOSSES if self.options.norm == "loss" else Needs.NOTHING)

    def direction(self, tasks: Tasks) -> Tensor:
        options, norms = self.options, gradient_norms(self, tasks)
        self.memory.clocks += 1
        if self.num_tasks == 1:
            return only_gradient(tasks)
        scale = tasks.losses / torch.where(norms > 0, norms, torch.ones_like(norms)) if options.norm == "loss" else None
        smooth = self.memory.blend(tasks, options.beta / self.memory.clocks**options.beta_sigma, scale)
        size = smooth.shape[-2]
        shares = _on_simplex(self.shares.to(smooth))
        slope = times(smooth @ smooth.mT, shares) + options.rho * shares
        step = options.gamma / self.memory.clocks.amin(-1, keepdim=True).to(smooth) ** options.gamma_sigma
        shares = project_on_simplex(shares - step * slope)
        self.shares = shares * (size / self.num_tasks)  # so that those of all groups sum to one
        self._weights = size * shares
        return (shares.unsqueeze(-2) @ smooth).squeeze(-2)


def _on_simplex(shares: Tensor) -> Tensor:
    """Shares of some tasks, relative to each other; equal ones where they have none."""
    total = shares.sum(-1, keepdim=True)
    return torch.where(total > 0, shares / total, 1 / shares.shape[-1])
