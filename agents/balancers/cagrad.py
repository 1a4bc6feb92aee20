"""CAGrad and SDMGrad: between the mean gradient and the min-norm point of the hull."""

import torch
from torch import Tensor

from agents.balancing.gramian import GramianWeighting
from agents.balancing.options import require_not_negative
from agents.balancing.registry import register_balancer
from agents.balancing.solvers import diagonal, face_solve, min_norm_point, quadratic, shifted
from agents.errors import ConfigurationError

_TINY = torch.finfo(torch.float64).tiny
_FAR = 1e9  # multiplier beyond which the min-norm point of the hull counts as zero


def conflict_averse(gramian: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Solve CAGrad's dual ``min_w  g_w.g_0 + c ||g_0|| ||g_w||`` over the simplex.

    Its solution is the min-norm point of the rows ``g_i + g_0 / lambda`` for the multiplier ``lambda`` at which
    ``lambda ||g_w|| = c ||g_0||``. The left side grows with lambda, and on a face of the simplex the root is known in
    closed form: a few exact min-norm solutions find the face and the root.

    :returns: w ``[..., K]`` and lambda ``[...]``, with ``d = g_0 + lambda g_w``
    """
    radius = c * gramian.mean((-2, -1)).clamp(min=0).sqrt()
    # Gradients that all but cancel leave the radius known to fewer digits.
    known = 1e-10 + 4e-15 * diagonal(gramian).amax(-1) / gramian.mean((-2, -1)).clamp(min=_TINY)
    scale = c + torch.zeros_like(radius)  # lambda where w is uniform
    low, high = torch.zeros_like(scale), torch.full_like(scale, float("inf"))
    passive = None
    for _ in range(50):
        weights = min_norm_point(shifted(gramian, 1 / scale), passive)
        passive = weights > 0
        reach = scale * quadratic(gramian, weights).sqrt()
        left = quadratic(gramian, 1 / gramian.shape[-1] + scale.unsqueeze(-1) * weights)  # ||d||^2
        stationary = (left <= 1e-14 * gramian.mean((-2, -1))) | (scale >= _FAR * (1 + c))
        done = ((reach - radius).abs() <= known * radius) | ((reach < radius) & stationary)
        if bool(done.all()):
            break
        low, high = torch.where(reach < radius, scale, low), torch.where(reach > radius, scale, high)
        root = _root_on_face(gramian, passive, radius)
        between = torch.where(high.isinf(), scale * 8, torch.where(low > 0, (low * high).sqrt(), scale / 8))
        following = torch.where((root > low) & (root < high), root, between)
        scale = torch.where(done, scale, following)
    return weights, scale


def _root_on_face(gramian: Tensor, passive: Tensor, radius: Tensor) -> Tensor:
    """The lambda with ``lambda ||g_w(lambda)|| = radius`` if the tasks of positive weight stay the same.

    On a face ``w(lambda) = w_inf + p / lambda``, where ``g_w_inf`` and ``g_p`` are orthogonal.
    """
    right = torch.stack([torch.ones_like(gramian[..., 0]), -gramian.mean(-1)], dim=-1)
    flat, slope = face_solve(gramian, right, passive).unbind(-1)
    flat_sum = flat.sum(-1, keepdim=True)
    limit = flat / flat_sum
    change = slope - limit * slope.sum(-1, keepdim=True)
    return ((radius**2 - quadratic(gramian, change)) / quadratic(gramian, limit)).sqrt()


@register_balancer(
    "cagrad",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2110.14048",
    summary="best direction for the worst task within a ball around the mean gradient",
)
class CAGrad(GramianWeighting):
    """``max_d min_i g_i.d  s.t. ||d - g_0|| <= c ||g_0||`` (Liu et al. 2021, equation 3 and algorithm 1).

    ``d = g_0 + lambda g_w`` with the dual solution w, so the weights are ``1 + K lambda w``, on the paper's scale.
    c = 0 is unitary scalarization, a large c is MGDA; a direction that conflicts with no task is promised for c >= 1.
    Differs from the authors' code: the dual is solved exactly, where their RL code takes 20 gradient steps. The RL runs
    used c = 0.9 on MT10 and 0.5 on MT50.

    :param c: radius of the ball, relative to the mean gradient
    :param rescale: 0 keeps d; 1 divides it by ``1 + c^2``, as the authors' code; 2 divides it by ``1 + c``
    """

    def __init__(
        self, num_tasks: int, c: float = 0.9, rescale: int = 1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_tasks, generator)
        require_not_negative("cagrad", c=c)
        if rescale not in (0, 1, 2):
            raise ConfigurationError(
                f"cagrad: rescale must be 0 (not), 1 (by 1 + c^2) or 2 (by 1 + c), found {rescale!r}."
            )
        self.c = c
        self.divisor = (1.0, 1 + c**2, 1 + c)[rescale]

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        if self.c == 0:
            return torch.ones_like(gramian[..., 0])
        weights, scale = conflict_averse(gramian, self.c)
        return (1 + gramian.shape[-1] * scale.unsqueeze(-1) * weights) / self.divisor


@register_balancer(
    "sdmgrad",
    family="gradient",
    cost="O(K)",
    paper="arXiv 2305.18409",
    summary="min-norm point drawn towards the mean gradient by a fixed multiplier",
)
class SDMGrad(GramianWeighting):
    """``min_w ||g_w||^2 / 2 + lamda g_w.g_0`` over the simplex; ``d = (g_w + lamda g_0) / (1 + lamda)``.

    Xiao et al. 2023, equation 6 and algorithm 1. Weights are ``(K w + lamda) / (1 + lamda)``, the paper's direction.
    It is MGDA with weights floored at ``lamda / (K (1 + lamda))``, and CAGrad with a fixed multiplier. The default is
    that of the RL runs; 0.3 elsewhere.
    Differs from the authors' code: solved exactly, not by 20 projected gradient steps, and with one batch for the
    product and the direction instead of independent ones (the OS variant, which samples tasks, is not offered).

    :param lamda: pull towards the mean gradient; 0 is MGDA, large is unitary scalarization
    """

    def __init__(self, num_tasks: int, lamda: float = 0.6, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        require_not_negative("sdmgrad", lamda=lamda)
        self.lamda = lamda

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        lamda = torch.full_like(gramian[..., 0, 0], self.lamda)
        return (gramian.shape[-1] * min_norm_point(shifted(gramian, lamda)) + self.lamda) / (1 + self.lamda)
