"""Small convex problems on a Gramian ``G [..., K, K]`` of task gradients, solved exactly in float64.

Every solver is deterministic, takes any number of leading dimensions and works on a matrix scaled to a unit diagonal,
so that neither the size of the gradients nor the spread between tasks matters. Active-set and Newton methods are used
throughout: a handful of K x K factorisations each, instead of thousands of first-order steps.
"""

import numpy as np
import torch
from torch import Tensor

_RIDGE = 1e-11  # added to a unit diagonal: makes rank-deficient problems uniquely solvable
_SLACK = 1e-9  # relative size up to which a sign is counted as zero
_TINY = torch.finfo(torch.float64).tiny


def diagonal(gramian: Tensor) -> Tensor:
    """Squared gradient norms ``[..., K]``, never negative."""
    return gramian.diagonal(dim1=-2, dim2=-1).clamp(min=0)


def quadratic(gramian: Tensor, weights: Tensor) -> Tensor:
    """``w^T G w [...]``, the squared norm of the weighted sum of gradients, never negative."""
    return (weights * times(gramian, weights)).sum(-1).clamp(min=0)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Batched ``matrix @ vector``: ``[..., K, K]`` and ``[..., K]`` to ``[..., K]``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def correlation(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines ``[..., K, K]`` and gradient norms ``[..., K]``; a zero gradient has cosine 0 with every other."""
    norms = diagonal(gramian).sqrt()
    inverse = torch.where(norms > 0, 1 / norms.clamp(min=_TINY), torch.zeros_like(norms))
    return gramian * inverse.unsqueeze(-1) * inverse.unsqueeze(-2), norms


def nonnegative_qp(gramian: Tensor, linear: Tensor, passive: Tensor | None = None) -> Tensor:
    """``argmin_{v >= 0} v^T G v / 2 + q^T v`` by block principal pivoting (Judice and Pires 1994).

    :param gramian: ``[..., K, K]``, positive semidefinite
    :param linear: q ``[..., K]``
    :param passive: guess of the coordinates that are not zero, ``[..., K]``
    :returns: ``[..., K]``
    """
    cosines, norms = correlation(gramian)
    scale = torch.where(norms > 0, norms, torch.ones_like(norms))
    matrix = cosines.clone()
    matrix.diagonal(dim1=-2, dim2=-1).fill_(1 + _RIDGE)
    linear = linear / scale
    shape = np.broadcast_shapes(matrix.shape[:-1], linear.shape)  # torch's own takes longer than the solution
    matrix = matrix.expand(*shape, shape[-1]).reshape(-1, shape[-1], shape[-1])
    linear = linear.expand(shape).reshape(-1, shape[-1])
    guess = linear < 0 if passive is None else passive.expand(shape).reshape(-1, shape[-1])
    return _pivot(matrix, linear, guess).reshape(shape) / scale


def _pivot(matrix: Tensor, linear: Tensor, passive: Tensor) -> Tensor:
    """Exchange all coordinates of wrong sign at once; one at a time where that stops to help (Kim and Park 2011)."""
    count, size = linear.shape
    solution = torch.zeros_like(linear)
    fewest = torch.full((count,), size + 1)
    patience = torch.full((count,), 3)
    todo = torch.arange(count)
    for _ in range(20 * size + 100):
        point, wrong = _complementary(matrix, linear, passive)
        solution[todo] = point.clamp(min=0)
        number = wrong.sum(-1)
        open_ = number > 0
        if not bool(open_.any()):
            break
        if not bool(open_.all()):  # continue with the others alone
            todo, matrix, linear, passive = todo[open_], matrix[open_], linear[open_], passive[open_]
            fewest, patience, wrong, number = fewest[open_], patience[open_], wrong[open_], number[open_]
        patience = torch.where(number < fewest, 3, patience - 1)
        fewest = fewest.minimum(number)
        last = size - 1 - wrong.flip(-1).int().argmax(-1)
        one = torch.nn.functional.one_hot(last, size).bool()
        passive = passive ^ torch.where((patience >= 0).unsqueeze(-1), wrong, one & wrong)
    return solution


def _complementary(matrix: Tensor, linear: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    """The point with zero gradient on the passive coordinates and zeros elsewhere, and which signs are wrong."""
    point = torch.zeros_like(linear)
    most = int(passive.sum(-1).max())
    if most > 0:
        kept, order = passive.to(linear.dtype).sort(dim=-1, descending=True, stable=True)
        kept, order = kept[:, :most], order[:, :most]  # solve for the passive coordinates only
        rows = torch.arange(len(linear)).reshape(-1, 1, 1)
        block = matrix[rows, order.unsqueeze(-1), order.unsqueeze(-2)] * kept.unsqueeze(-1) * kept.unsqueeze(-2)
        block.diagonal(dim1=-2, dim2=-1).add_(1 - kept)
        right = -linear.gather(-1, order) * kept
        point.scatter_(-1, order, torch.linalg.solve_ex(block, right.unsqueeze(-1))[0].squeeze(-1))
    slope = times(matrix, point) + linear
    value = torch.where(passive, point, slope)
    size = torch.where(passive, point.abs().amax(-1, keepdim=True), linear.abs().amax(-1, keepdim=True))
    return point, value < -_SLACK * size


def min_norm_point(gramian: Tensor, passive: Tensor | None = None) -> Tensor:
    """Weights ``[..., K]`` on the simplex of the point of smallest norm in the convex hull of the gradients.

    With ``y = argmin_{y >= 0} y^T (G + c 1 1^T) y / 2 - 1^T y``, the optimality conditions of ``y / sum(y)`` are those
    of the min-norm point; ``c`` of the size of the smallest gradient keeps the smallest task in sight.
    """
    if gramian.shape[-1] == 2:
        return _min_norm_of_two(gramian)
    squares = diagonal(gramian)
    smallest = squares.amin(-1)
    zero = squares <= 1e-32 * squares.amax(-1, keepdim=True)  # a zero gradient is the min-norm point itself
    lifted = gramian + smallest[..., None, None].clamp(min=_TINY)
    shares = nonnegative_qp(lifted, -torch.ones_like(squares), passive)
    shares = torch.where(zero.any(-1, keepdim=True), zero.to(shares.dtype), shares)
    return shares / shares.sum(-1, keepdim=True)


def _min_norm_of_two(gramian: Tensor) -> Tensor:
    """The point of smallest norm between two gradients, where the line meets its normal or at the nearer end."""
    excess = diagonal(gramian).flip(-1) - gramian[..., :1, 1]
    shares = excess.clamp(min=0)
    total = shares.sum(-1, keepdim=True)
    return torch.where(total > 0, shares / total.clamp(min=_TINY), 0.5)


def face_solve(gramian: Tensor, right: Tensor, passive: Tensor) -> Tensor:
    """Solutions x of ``(G + c 1 1^T) x = b`` with x zero outside the passive coordinates; c as in `min_norm_point`.

    :param right: M right sides b ``[..., K, M]``
    :param passive: ``[..., K]``
    """
    squares = diagonal(gramian)
    lifted = gramian + squares.amin(-1)[..., None, None].clamp(min=_TINY)
    cosines, norms = correlation(lifted)
    scale = (passive / norms).unsqueeze(-1)
    keep = passive.to(gramian.dtype)
    block = cosines * keep.unsqueeze(-1) * keep.unsqueeze(-2)
    block.diagonal(dim1=-2, dim2=-1).fill_(1 + _RIDGE)
    return torch.linalg.solve_ex(block, right * scale)[0] * scale


def shifted(gramian: Tensor, shift: Tensor) -> Tensor:
    """Gramian of the rows ``g_i + shift * g_0`` with the mean gradient ``g_0``.

    :param shift: ``[...]``
    """
    with_mean = gramian.mean(-1)
    cross = with_mean.unsqueeze(-1) + with_mean.unsqueeze(-2)
    shift = shift[..., None, None]
    return gramian + shift * cross + shift**2 * with_mean.mean(-1)[..., None, None]


def project_on_dual_cone(gramian: Tensor, floor: Tensor) -> Tensor:
    """``argmin_{v >= p} v^T G v``: weights of the projection of ``J^T p`` on the dual cone ``{d: J d >= 0}``.

    :param floor: p ``[..., K]``
    """
    return floor + nonnegative_qp(gramian, times(gramian, floor))


def power_balance(gramian: Tensor, exponent: float, ridge: float = 1e-9, steps: int = 60) -> Tensor:
    """The ``w > 0`` with ``G w = w^(-exponent)``: minimum of a convex potential, by Newton's method with line search.

    Tasks with zero gradient get weight 0. Not finite where no solution was found (zero in the hull of the gradients,
    without ridge).

    :param ridge: relative to the diagonal; a solution always exists with one
    :returns: ``[..., K]``
    """
    squares = diagonal(gramian)
    alive = squares > 0
    squares = torch.where(alive, squares, torch.ones_like(squares))
    unit = squares ** (-1 / (1 + exponent))  # the solution for orthogonal gradients
    right = unit ** (1 - exponent)
    matrix = gramian * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    matrix.diagonal(dim1=-2, dim2=-1).copy_(right * (1 + ridge))
    point = torch.ones_like(squares)
    for _ in range(steps):
        demand = right * point ** (-exponent)
        slope = times(matrix, point) - demand
        rounding = 1e-14 * times(matrix.abs(), point)
        done = (slope.abs() <= 1e-10 * demand + rounding).all(-1, keepdim=True)
        if bool(done.all()):
            break
        curvature = matrix + torch.diag_embed(exponent * demand / point)
        step = -torch.linalg.solve_ex(curvature, slope.unsqueeze(-1))[0].squeeze(-1)
        point = torch.where(done, point, _line_search(matrix, right, exponent, point, step, slope))
    demand = right * point ** (-exponent)
    failed = ((times(matrix, point) - demand).abs() > 1e-4 * demand).any(-1, keepdim=True)
    solution = torch.where(alive, point * unit, torch.zeros_like(point))
    return torch.where(failed, torch.full_like(solution, float("nan")), solution)


def _line_search(matrix: Tensor, right: Tensor, exponent: float, point: Tensor, step: Tensor, slope: Tensor) -> Tensor:
    """The longest of ten halved steps that stays positive and lowers the potential by a tenth of its promise."""
    length = (0.99 * (point / -step.clamp(max=-_TINY)).amin(-1)).clamp(max=1.0)
    start = _potential(matrix, right, exponent, point)
    start = start + 1e-13 * start.abs()
    promise = 0.1 * (slope * step).sum(-1)
    for _ in range(10):
        found = point + length.unsqueeze(-1) * step
        enough = _potential(matrix, right, exponent, found) <= start + length * promise
        if bool(enough.all()):
            break
        length = torch.where(enough, length, length / 2)
    return found


def _potential(matrix: Tensor, right: Tensor, exponent: float, point: Tensor) -> Tensor:
    """The potential ``[...]`` whose minimum solves ``A x = b x^(-exponent)``."""
    barrier = point.log() if exponent == 1 else point ** (1 - exponent) / (1 - exponent)
    return quadratic(matrix, point) / 2 - (right * barrier).sum(-1)


def pseudo_solve(matrix: Tensor, right: Tensor, tolerance: float) -> Tensor:
    """``pinv(A) b`` of a symmetric positive semidefinite matrix.

    :param tolerance: eigenvalues below this part of the largest count as zero
    """
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > tolerance * values[..., -1:]
    inverse = torch.where(kept, 1 / values.clamp(min=_TINY), torch.zeros_like(values))
    return times(vectors, inverse * times(vectors.mT, right))


def project_on_simplex(point: Tensor) -> Tensor:
    """The nearest point ``[..., K]`` with no negative entry and sum one (Duchi et al. 2008)."""
    point = point - point.amax(-1, keepdim=True)
    ordered = point.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, point.shape[-1] + 1, dtype=point.dtype, device=point.device)
    positive = (ordered - excess / count > 0).sum(-1, keepdim=True).clamp(min=1)
    return (point - excess.gather(-1, positive - 1) / positive).clamp(min=0)
