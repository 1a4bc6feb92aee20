"""UPGrad and DualProj: projections on the dual cone, the directions that conflict with no task."""

import torch
from torch import Tensor

from agents.balancing.gramian import GramianWeighting
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import project_on_dual_cone


@register_balancer(
    "upgrad",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2406.16232",
    summary="mean of the task gradients, each projected on the directions that harm no task",
)
class UPGrad(GramianWeighting):
    """``d = (1/K) sum_i argmin_{u: J u >= 0} ||u - g_i||`` (Quinton & Rey 2024, definition 1, mean preference).

    On the Gramian: weights are ``sum_i argmin_{v >= e_i} v^T G v``, the paper's direction. No task is ever in conflict
    with d, d grows linearly with every task's scale, and two tasks give PCGrad.
    Differs from the authors' code: exact active-set solutions of all K problems at once instead of one program each;
    no ridge of 1e-4, and small gradients are projected like large ones.
    """

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        own = torch.eye(gramian.shape[-1], dtype=gramian.dtype)
        return project_on_dual_cone(gramian.unsqueeze(-3), own).sum(-2)


@register_balancer(
    "dualproj",
    family="gradient",
    cost="O(K)",
    paper="arXiv 1706.08840",
    summary="mean gradient, projected on the directions that harm no task",
)
class DualProj(GramianWeighting):
    """``d = argmin_{u: J u >= 0} ||u - g_0||``, the mean gradient projected on the dual cone.

    The rule of gradient episodic memory (Lopez-Paz & Ranzato 2017, equation 11), as a balancer in arXiv 2406.16232.
    Weights are ``argmin_{v >= 1} v^T G v``, the paper's direction.
    Differs from the authors' code: no ridge, and small gradients are projected like large ones.
    """

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        return project_on_dual_cone(gramian, torch.ones_like(gramian[..., 0]))
