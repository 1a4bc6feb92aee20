"""GradDrop: every coordinate follows one sign, drawn with the odds of the tasks' votes."""

import numpy as np
import torch
from torch import Tensor

from agents.balancing.balancer import Direction
from agents.balancing.gradient_memory import gradient_norms
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks
from agents.errors import ConfigurationError

PIECE = 2**15  # coordinates at a time: few enough for a processor's cache, enough for its threads


@register_balancer(
    "graddrop",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2010.06808",
    summary="keeps the positive or the negative entries of every coordinate, drawn by sign purity",
)
class GradDrop(Direction):
    """Per coordinate ``P = (1 + sum_k g_k / sum_k |g_k|) / 2`` and ``U ~ U(0, 1)``: keep the positive entries if
    ``P > U``, else the negative ones (Chen et al. 2020, equation 1 and algorithm 1).

    Here ``d = mean_k (leak g_k + (1 - leak) kept g_k)``; the paper's sum is K times as long. Not a weighting: the
    direction is composed. A coordinate on which all tasks agree passes unchanged.
    Differs from the paper: signs of parameter gradients, as in the RL programs of arXiv 2201.04122, instead of
    gradients of a shared representation times its sign; one leak for all tasks.

    :param leak: part of every gradient that always passes
    """

    def __init__(self, num_tasks: int, leak: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        if not 0 <= leak <= 1:
            raise ConfigurationError(f"graddrop: leak must lie between 0 and 1, found {leak!r}.")
        self.leak = leak

    def direction(self, tasks: Tasks) -> Tensor:
        self._weights = torch.ones_like(tasks.losses)
        odds = Uniform(self.generator, tasks.losses.device)
        parts = (part for _, rows in tasks.blocks() for part in rows.split(PIECE, dim=-1))
        direction = torch.cat([self._combine(part, odds) for part in parts], dim=-1)
        if not bool(direction.sum().isfinite()):
            gradient_norms(self, tasks)  # says which task it is
        return direction

    def _combine(self, rows: Tensor, odds: "Uniform") -> Tensor:
        """Direction ``[M]`` on M coordinates of the task gradients ``rows [K, M]``.

        The positive entries sum to ``(total + votes) / 2``, the negative ones to ``(total - votes) / 2``, and ``P > U``
        is ``total > (2 U - 1) votes``: one of the two sums, chosen by the sign of a difference.
        """
        size = rows.shape[-2]
        total = rows.sum(-2)
        if size == 1:
            return total
        votes = rows.abs().sum(-2)
        margin = odds.like(votes).mul_(2).sub_(1).mul_(votes).sub_(total)
        kept = (total - votes.copysign_(margin)).mul_(0.5)
        return (kept if self.leak == 0 else kept.lerp_(total, self.leak)).div_(size)


class Uniform:
    """``U(0, 1)`` on a device, from a seed of a balancer's generator.

    On a processor NumPy draws it: torch's own generator there takes longer than all the arithmetic of the method.
    """

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        seed = int(torch.randint(2**62, (), generator=generator))
        self._numpy = np.random.Generator(np.random.SFC64(seed)) if device.type == "cpu" else None
        self._torch = torch.Generator(device).manual_seed(seed) if device.type != "cpu" else None

    def like(self, other: Tensor) -> Tensor:
        """Numbers of a tensor's shape and precision."""
        if self._numpy is None:
            return torch.rand(other.shape, generator=self._torch, dtype=other.dtype, device=other.device)
        precision = np.float64 if other.dtype == torch.float64 else np.float32
        return torch.from_numpy(self._numpy.random(other.shape, dtype=precision)).to(other.dtype)
