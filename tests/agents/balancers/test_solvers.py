"""The solvers on a K x K Gramian: their optimality conditions, at every size, rank and scale."""

import time

import pytest
import torch

from agents.balancers.cagrad import conflict_averse
from agents.balancing.solvers import (
    min_norm_point,
    nonnegative_qp,
    power_balance,
    project_on_dual_cone,
    project_on_simplex,
    pseudo_solve,
    quadratic,
    shifted,
    times,
)
from tests.grids import grid

torch.set_num_threads(1)
KINDS = ("random", "agreeing", "rank two", "twins", "opposites", "spread", "one zero")
SIZES = (2, 3, 10, 50)
SCALES = (1e-12, 1.0, 1e12)


def rows(kind, size, seed=0, parameters=100):
    """Task gradients ``[K, P]`` of a kind that is hard for some solver."""
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(size, parameters, generator=generator, dtype=torch.float64)
    if kind == "agreeing":
        jacobian = jacobian + jacobian[:1]
    if kind == "rank two":
        jacobian = jacobian[:, :2] @ jacobian[:2]
    if kind == "twins":
        jacobian[1] = jacobian[0]
    if kind == "opposites":
        jacobian[1] = -jacobian[0]
    if kind == "spread":
        jacobian *= torch.logspace(-3, 3, size, dtype=torch.float64)[:, None]
    if kind == "one zero":
        jacobian[-1] = 0
    return jacobian


def gramian_of(kind, size, scale=1.0, seed=0):
    jacobian = rows(kind, size, seed)
    return scale * jacobian @ jacobian.T


# Every fifth: each kind, size and scale is among them.
EVERY = grid(("kind", "size", "scale"), [(k, n, s) for k in KINDS for n in SIZES for s in SCALES], every=5)


@EVERY
def test_the_min_norm_point_satisfies_its_optimality_conditions(kind, size, scale):
    gramian = gramian_of(kind, size, scale)
    weights = min_norm_point(gramian)
    assert (weights >= 0).all() and weights.sum().item() == pytest.approx(1)
    products = gramian @ weights
    square = weights @ products
    assert square >= -1e-9 * gramian.diagonal().min()
    norms = gramian.diagonal().sqrt()
    slack = 1e-6 * norms * torch.maximum(square.clamp(min=0).sqrt(), 1e-3 * norms.min())
    assert (products - square >= -slack).all(), "every task gains at least ||d||^2"
    assert ((products - square).abs() <= slack)[weights > 1e-9].all(), "and exactly that where it has weight"


@EVERY
def test_the_projection_on_the_dual_cone_harms_no_task_and_moves_only_along_binding_ones(kind, size, scale):
    gramian = gramian_of(kind, size, scale)
    norms = gramian.diagonal().sqrt()
    for floor in (torch.ones(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)[0]):
        weights = project_on_dual_cone(gramian, floor)
        direction_norm = quadratic(gramian, floor).sqrt()
        products = gramian @ weights
        slack = 1e-7 * norms * direction_norm
        assert (products >= -slack).all()
        added = weights - floor
        assert (added >= 0).all()
        assert (added * products <= 1e-6 * direction_norm**2).all(), "tasks without conflict are not called upon"


@pytest.mark.parametrize("size", SIZES)
def test_a_nonnegative_quadratic_program_satisfies_its_optimality_conditions_for_any_linear_part(size):
    generator = torch.Generator().manual_seed(size)
    for kind in ("random", "agreeing", "spread"):
        gramian = gramian_of(kind, size)
        linear = torch.randn(20, size, generator=generator, dtype=torch.float64) * gramian.diagonal().sqrt()
        point = nonnegative_qp(gramian, linear)
        slope = times(gramian, point) + linear
        assert (point >= 0).all()
        assert (slope >= -1e-7 * linear.abs().amax(-1, keepdim=True)).all()
        assert ((point * slope).abs().sum(-1) <= 1e-7 * (point * linear).abs().sum(-1) + 1e-12).all()


@pytest.mark.parametrize("start", ["empty", "full", "solution"])
def test_the_guess_of_the_active_set_does_not_change_the_solution(start):
    gramian = gramian_of("random", 10, seed=3)
    linear = -gramian.mean(-1) - 30
    plain = nonnegative_qp(gramian, linear)
    guess = {"empty": plain < 0, "full": plain >= 0, "solution": plain > 0}[start]
    torch.testing.assert_close(nonnegative_qp(gramian, linear, guess), plain)


@grid("exponent", [1.0, 0.5, 0.2, 1.5], every=2)
@pytest.mark.parametrize("scale", SCALES)
@grid("size", SIZES, always=[2, 50])
@pytest.mark.parametrize("kind", ["random", "agreeing", "twins"])
def test_power_balance_solves_its_equation(kind, size, scale, exponent):
    gramian = gramian_of(kind, size, scale)
    weights = power_balance(gramian, exponent)
    assert (weights > 0).all()
    torch.testing.assert_close(gramian @ weights, weights**-exponent, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_power_balance_across_six_orders_of_magnitude_between_tasks(size, exponent):
    gramian = gramian_of("spread", size)
    weights = power_balance(gramian, exponent)
    torch.testing.assert_close(gramian @ weights, weights**-exponent, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_power_balance_with_zero_in_the_hull_yields_a_direction_near_zero_or_owns_up(size):
    jacobian = rows("random", size, seed=1)
    jacobian[-1] = -jacobian[:-1].sum(0)
    gramian = jacobian @ jacobian.T
    weights = power_balance(gramian, 1.0)
    if weights.isfinite().all():
        assert (weights > 0).all()
        assert quadratic(gramian, weights) < 1e-3 * size  # ||d||^2 = K where a solution exists
    else:
        assert weights.isnan().all()


def test_power_balance_leaves_out_tasks_without_gradient():
    weights = power_balance(gramian_of("one zero", 3), 1.0)
    assert weights[2] == 0
    torch.testing.assert_close(weights[:2], power_balance(gramian_of("one zero", 3)[:2, :2], 1.0))


@grid("c", [0.01, 0.4, 0.9, 1.0, 3.0], every=2)
@grid("size", SIZES, always=[2, 50])
@pytest.mark.parametrize("kind", ["random", "agreeing", "twins", "spread"])
def test_the_conflict_averse_direction_is_the_optimum_of_primal_and_dual(kind, size, c):
    gramian = gramian_of(kind, size)
    weights, multiplier = conflict_averse(gramian, c)
    mean_norm = gramian.mean().sqrt().item()
    assert (multiplier * quadratic(gramian, weights).sqrt()).item() == pytest.approx(c * mean_norm, rel=1e-6), (
        "on the sphere"
    )
    direction = 1 / size + multiplier * weights
    dual = weights @ gramian.mean(-1) + c * mean_norm * quadratic(gramian, weights).sqrt()
    gains = gramian @ direction
    slack = 1e-6 * dual.abs() + 1e-8 * gramian.diagonal().sqrt() * mean_norm
    assert (gains - dual >= -slack).all(), "the worst gain equals the dual optimum: no direction is better"


def test_a_conflict_averse_direction_vanishes_where_zero_is_in_the_hull_and_c_is_at_least_one():
    jacobian = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    weights, multiplier = conflict_averse(gramian, 1.5)
    direction = (0.5 + multiplier * weights) @ jacobian
    assert direction.norm() < 1e-6


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_the_min_norm_point_does_not_depend_on_the_scale_of_the_gradients(scale):
    for kind in KINDS:
        gramian = gramian_of(kind, 10)
        plain, scaled = min_norm_point(gramian), min_norm_point(scale * gramian)
        apart = quadratic(gramian, plain - scaled).sqrt()
        assert apart <= 1e-6 * gramian.diagonal().min().sqrt(), kind


def test_problems_solved_together_are_solved_as_alone():
    stack = torch.stack([gramian_of(kind, 5, seed=seed) for seed, kind in enumerate(("random", "agreeing", "spread"))])
    own = torch.eye(5, dtype=torch.float64)
    for solve in (
        min_norm_point,
        lambda gramian: power_balance(gramian, 0.5),
        lambda gramian: project_on_dual_cone(gramian.unsqueeze(-3), own),
        lambda gramian: conflict_averse(gramian, 0.7)[0],
    ):
        alone = torch.stack([solve(gramian) for gramian in stack])
        torch.testing.assert_close(solve(stack), alone, rtol=1e-7, atol=1e-9)
        nested = solve(stack.reshape(1, 3, 1, 5, 5))
        torch.testing.assert_close(nested.reshape(alone.shape), alone, rtol=1e-7, atol=1e-9)


def test_shifted_is_the_gramian_of_the_shifted_rows():
    jacobian = rows("random", 4)
    moved = jacobian + 0.3 * jacobian.mean(0)
    gramian = shifted(jacobian @ jacobian.T, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(gramian, moved @ moved.T)


@pytest.mark.parametrize("kind", KINDS)
def test_pseudo_solve_agrees_with_the_pseudo_inverse(kind):
    gramian = gramian_of(kind, 10)
    right = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.linalg.pinv(gramian, hermitian=True, rtol=1e-12) @ right
    torch.testing.assert_close(pseudo_solve(gramian, right, 1e-12), expected, rtol=1e-6, atol=1e-9)


def test_the_projection_on_the_simplex_is_the_nearest_point():
    generator = torch.Generator().manual_seed(0)
    points = 3 * torch.randn(50, 6, generator=generator, dtype=torch.float64)
    nearest = project_on_simplex(points)
    assert (nearest >= 0).all()
    torch.testing.assert_close(nearest.sum(-1), torch.ones(50, dtype=torch.float64))
    corners = torch.eye(6, dtype=torch.float64)
    gap = ((points - nearest).unsqueeze(1) * (corners - nearest.unsqueeze(1))).sum(-1)
    assert (gap <= 1e-12).all(), "no corner lies on the far side"
    torch.testing.assert_close(project_on_simplex(1e30 * points[0]).sum().item(), 1.0)


@pytest.mark.parametrize(
    "solve",
    [
        min_norm_point,
        lambda gramian: power_balance(gramian, 1.0),
        lambda gramian: project_on_dual_cone(gramian.unsqueeze(-3), torch.eye(50, dtype=torch.float64)),
        lambda gramian: conflict_averse(gramian, 0.5),
    ],
)
def test_fifty_tasks_cost_milliseconds(solve):
    gramian = gramian_of("random", 50)
    spent = []
    for _ in range(5):
        start = time.process_time()
        solve(gramian)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.05, "about 5 ms on a quiet machine"
