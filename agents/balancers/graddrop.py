"""GradDrop: every coordinate follows one sign, drawn with the odds of the tasks' votes."""

import torch
from torch import Tensor

from agents.balancers.base import Balancer, Tasks, gradient_blocks, register_balancer
from agents.balancers.gradient_memory import gradient_norms
from agents.errors import ConfigurationError

PIECE = 2**14  # coordinates at a time: as many as stay in a processor's cache


@register_balancer(
    "graddrop",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2010.06808",
    summary="keeps the positive or the negative entries of every coordinate, drawn by sign purity",
)
class GradDrop(Balancer):
    """Per coordinate ``P = (1 + sum_k g_k / sum_k |g_k|) / 2`` and ``U ~ U(0, 1)``: keep the positive entries if
    ``P > U``, else the negative ones (Chen et al. 2020, equation 1 and algorithm 1).

    Here ``d = mean_k (leak g_k + (1 - leak) kept g_k)``; the paper's sum is K times as long. Not a weighting: the
    direction is composed. A coordinate on which all tasks agree passes unchanged.
    Differs from the paper: signs of parameter gradients, as in the RL programs of arXiv 2201.04122, instead of
    gradients of a shared representation times its sign; one leak for all tasks.

    :param leak: part of every gradient that always passes
    """

    composes_direction = True
    uses_gradients = True
    any_tasks = True

    def __init__(self, num_tasks: int, leak: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        if not 0 <= leak <= 1:
            raise ConfigurationError(f"graddrop: leak must lie between 0 and 1, found {leak!r}.")
        self.leak = leak

    def direction(self, tasks: Tasks) -> Tensor:
        self._weights = torch.ones_like(tasks.losses)
        parts = (part for _, rows in gradient_blocks(tasks) for part in rows.split(PIECE, dim=-1))
        direction = torch.cat([self._combine(part) for part in parts], dim=-1)
        if not bool(direction.isfinite().all()):
            gradient_norms(self, tasks)  # says which task it is
        return direction

    def _combine(self, rows: Tensor) -> Tensor:
        """Direction ``[M]`` on M coordinates of the task gradients ``rows [K, M]``."""
        size = rows.shape[-2]
        total = rows.sum(-2)
        if size == 1:
            return total
        votes = rows.abs().sum(-2)
        positive = (votes + total) / 2  # the sum of the positive entries; P is its share of the votes
        kept = torch.where(self._uniform(votes).mul_(votes) < positive, positive, total - positive)
        return (kept if self.leak == 0 else kept.lerp(total, self.leak)) / size

    def _uniform(self, like: Tensor) -> Tensor:
        """``U(0, 1)`` of a tensor's shape, made on its device from a seed of this balancer's generator."""
        generator = self.generator
        if like.device.type != "cpu":
            seed = int(torch.randint(2**62, (), generator=self.generator))
            generator = torch.Generator(like.device).manual_seed(seed)
        return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
