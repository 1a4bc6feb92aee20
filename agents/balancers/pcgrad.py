"""PCGrad and GradVac: pairwise gradient surgery, carried out on the coefficients of the task gradients."""

from typing import ClassVar

import torch
from torch import Tensor

from agents.balancing.gramian import GramianWeighting
from agents.balancing.options import require_positive
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import diagonal
from agents.errors import ConfigurationError


class Surgery:
    """K copies of the task gradients under change, ``h_i = sum_j coefficients[i, j] g_j``, known by inner products.

    :param gramian: ``[..., K, K]``
    """

    def __init__(self, gramian: Tensor) -> None:
        self.gramian = gramian
        self.coefficients = torch.eye(gramian.shape[-1], dtype=gramian.dtype).expand(gramian.shape).clone()
        self.products = gramian.clone()  # <h_i, g_j>
        squares = diagonal(gramian)
        self.inverse = torch.where(squares > 0, 1 / squares, torch.zeros_like(squares))

    def product(self, others: Tensor) -> Tensor:
        """``<h_i, g_others[i]>``.

        :param others: ``[..., K]``, one other task for every task
        """
        return self.products.gather(-1, others.unsqueeze(-1)).squeeze(-1)

    def add(self, others: Tensor, amounts: Tensor) -> None:
        """``h_i += amounts[i] * g_others[i]``."""
        rows = self.gramian.gather(-2, others.unsqueeze(-1).expand(self.gramian.shape))
        self.products += amounts.unsqueeze(-1) * rows
        self.coefficients.scatter_add_(-1, others.unsqueeze(-1), amounts.unsqueeze(-1))


class PairwiseSurgery(GramianWeighting):
    """Every task's gradient meets all others, in a random order of its own, and the results are averaged."""

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        surgery = Surgery(gramian)
        for others in self._random_order(gramian).unbind(-1):
            self.meet(surgery, others)
        return surgery.coefficients.sum(-2)

    def meet(self, surgery: Surgery, others: Tensor) -> None:
        """Change every ``h_i`` in the light of ``g_others[i]``."""
        raise NotImplementedError

    def _random_order(self, gramian: Tensor) -> Tensor:
        """Indices of the other tasks ``[..., K, K - 1]``, shuffled for every task."""
        keys = torch.rand(gramian.shape, generator=self.generator)
        keys.diagonal(dim1=-2, dim2=-1).fill_(2.0)  # the task itself comes last and is left out
        return keys.argsort(-1)[..., :-1]


@register_balancer(
    "pcgrad",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2001.06782",
    summary="every task gradient loses its component along the gradients it conflicts with",
)
class PCGrad(PairwiseSurgery):
    """For each i, ``h = g_i``; for j in random order, if ``h.g_j < 0``: ``h -= (h.g_j / ||g_j||^2) g_j``.

    Yu et al. 2020, algorithm 1. Here ``d = mean_i h_i`` as in the RL programs; the paper and most supervised programs
    take the sum, K times as long. Projections always refer to the original ``g_j``. Two tasks never end in conflict;
    three or more may, and then the order matters.
    Differs from the authors' code: the projections act on K x K coefficients instead of K gradient copies.
    """

    def meet(self, surgery: Surgery, others: Tensor) -> None:
        conflict = surgery.product(others).clamp(max=0)
        surgery.add(others, -conflict * surgery.inverse.gather(-1, others))


@register_balancer(
    "gradvac",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2010.05874",
    summary="raises the cosine of two task gradients to its running average, not just to zero",
)
class GradVac(PairwiseSurgery):
    """As PCGrad, towards a target cosine ``rho_ij``, the moving average of the cosines seen (Wang et al. 2021, alg. 1).

    If ``cos(h, g_j) < rho``, then ``h += g_j ||h|| (rho sqrt(1 - cos^2) / sqrt(1 - rho^2) - cos) / ||g_j||``, which
    brings the cosine to rho; after that ``rho <- (1 - beta) rho + beta cos``. With rho = 0, as at the first update, it
    is PCGrad.
    Here ``d = mean_i h_i``, the paper's sum is K times as long. One cosine for the whole parameter vector. Within a
    group of a scheduler the pairs of the group meet; ``rho_ij`` of two tasks that do not work together stands still.
    Differs from the paper: granularity by layer is not offered. Differs from LibMTL's code: that moves rho only in
    conflict, so that it never rises above zero.

    :param beta: step of the moving average; high follows every batch, low remembers long
    """

    task_buffers: ClassVar[dict[str, int]] = {"target": 2}
    scratch = frozenset({"_target"})
    target: Tensor

    def __init__(self, num_tasks: int, beta: float = 0.01, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        require_positive("gradvac", beta=beta)
        if beta > 1:
            raise ConfigurationError(f"gradvac: beta must be at most 1, found {beta!r}.")
        self.beta = beta
        self.register_buffer("target", torch.zeros(num_tasks, num_tasks, dtype=torch.float64))

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        self._target = self.target.to("cpu", torch.float64).expand(gramian.shape).clone()
        weights = super().weigh(gramian, precision)
        self.target = self._target.to(self.target)
        return weights

    def meet(self, surgery: Surgery, others: Tensor) -> None:
        length = (surgery.coefficients * surgery.products).sum(-1).clamp(min=0).sqrt()
        inverse = surgery.inverse.gather(-1, others).sqrt()  # 1 / ||g_j||
        cosine = surgery.product(others) * inverse / length.clamp(min=torch.finfo(length.dtype).tiny)
        cosine = cosine.clamp(-1, 1)
        target = self._target.gather(-1, others.unsqueeze(-1)).squeeze(-1)
        sine = (1 - target.square()).clamp(min=1e-12).sqrt()
        amount = length * inverse * (target * (1 - cosine.square()).sqrt() / sine - cosine)
        surgery.add(others, torch.where(cosine < target, amount, torch.zeros_like(amount)))
        moved = target.lerp(cosine, self.beta)
        self._target.scatter_(-1, others.unsqueeze(-1), moved.unsqueeze(-1))
