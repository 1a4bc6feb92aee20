"""Gradient-space methods against TorchJD's on random Jacobians: any number of tasks, rank and scale.

TorchJD regularises (quadratic programs by 1e-4), stops early (MGDA by Frank-Wolfe, Nash after 20 programs) and treats a
Gramian with trace below 1e-4 as zero, so it sees the gradients at scale one and ours are given at every scale.
"""

import importlib.util

import pytest
import torch

from agents.balancers import make_balancer
from tests.agents.balancers.balancer_cases import direction_of, tasks_of
from tests.grids import grid

torchjd = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed")
torch.set_num_threads(1)

SHAPES = [(tasks, parameters) for tasks in (2, 3, 10, 50) for parameters in (3, 100, 10_000)]
DIAGONAL = [(2, 3), (10, 100), (50, 10_000)]
SCALES = (1e-6, 1.0, 1e6)


def needs(*modules):
    """Skip where a solver of TorchJD is missing, and name it: ecos has no wheel for Python 3.13."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"TorchJD solves this with {', '.join(missing)}, not installed")


def gradients(num_tasks, parameters, seed=0):
    generator = torch.Generator().manual_seed(1000 * num_tasks + parameters + seed)
    jacobian = torch.randn(num_tasks, parameters, generator=generator, dtype=torch.float64)
    return jacobian + 0.2 * torch.randn(parameters, generator=generator, dtype=torch.float64)


def independent(shapes=SHAPES):
    """The shapes with room for linearly independent gradients, where solutions are unique."""
    return [(tasks, parameters) for tasks, parameters in shapes if tasks <= parameters]


def ours(name, jacobian, **options):
    balancer = make_balancer(name, num_tasks=len(jacobian), **options)
    return direction_of(balancer, tasks_of(torch.ones(len(jacobian), dtype=jacobian.dtype), jacobian))


def compare(name, aggregator, shape, *, sums=False, tolerance=1e-6, **options):
    """Directions agree at every scale, relative to the length of TorchJD's or, where that is tiny, of a gradient."""
    jacobian = gradients(*shape)
    theirs = aggregator(jacobian) / (len(jacobian) if sums else 1)
    length = theirs.norm() + 1e-3 * jacobian.norm(dim=-1).mean()
    for scale in SCALES:
        found = ours(name, scale * jacobian, **options) / scale
        assert (found - theirs).norm() <= tolerance * length, scale


def quadprog_projector():
    from torchjd.linalg import QuadprogProjector

    return QuadprogProjector(norm_eps=0.0, reg_eps=1e-9)


@grid("shape", SHAPES, always=DIAGONAL)
def test_mgda_is_never_longer_than_theirs_and_close_to_it(shape):
    jacobian = gradients(*shape)
    theirs = torchjd.MGDA(epsilon=1e-7, max_iters=300)(jacobian)
    for scale in SCALES:
        found = ours("mgda", scale * jacobian, norm="none") / scale
        assert found.norm() <= theirs.norm() * (1 + 1e-9) + 1e-9
        assert (found - theirs).norm() <= 0.03 * jacobian.norm(dim=-1).mean()


@pytest.mark.parametrize("parameters", [3, 100, 10_000])
def test_pcgrad_of_two_tasks(parameters):
    for seed in range(5):
        jacobian = gradients(2, parameters, seed)
        jacobian[1] -= jacobian[0]  # in conflict
        theirs = torchjd.PCGrad()(jacobian) / 2
        for scale in SCALES:
            torch.testing.assert_close(ours("pcgrad", scale * jacobian) / scale, theirs, rtol=1e-6, atol=1e-9)


@needs("cvxpy", "clarabel")
@pytest.mark.parametrize("c", [0.5, 0.9])
@grid("shape", SHAPES, always=DIAGONAL)
def test_cagrad(shape, c):
    compare("cagrad", torchjd.CAGrad(c=c), shape, c=c, rescale=0, tolerance=2e-3)


@grid("shape", independent(), always=DIAGONAL)
def test_imtl_g(shape):
    compare("imtl_g", torchjd.IMTLG(), shape)


@needs("cvxpy", "ecos")
@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
@grid("shape", independent(), always=[(2, 3), (10, 100)])
def test_nash_mtl(shape):
    jacobian = gradients(*shape)
    theirs = torchjd.NashMTL(n_tasks=len(jacobian))(jacobian)
    for scale in SCALES:
        assert (ours("nash_mtl", scale * jacobian) - theirs).norm() < 0.01
    unclipped = torchjd.NashMTL(n_tasks=len(jacobian), max_norm=0.0)(jacobian)
    assert (ours("nash_mtl", jacobian, max_norm=0.0) - unclipped).norm() < 0.01 * unclipped.norm()


@pytest.mark.parametrize("scale_mode", ["min", "median", "rmse"])
@grid("shape", independent(), always=DIAGONAL)
def test_aligned_mtl(shape, scale_mode):
    compare("aligned_mtl", torchjd.AlignedMTL(scale_mode=scale_mode), shape, scale_mode=scale_mode)


@needs("quadprog", "qpsolvers")
@grid("shape", SHAPES, always=DIAGONAL)
@pytest.mark.parametrize(("name", "theirs"), [("upgrad", "UPGrad"), ("dualproj", "DualProj")])
def test_projections_on_the_dual_cone(name, theirs, shape):
    compare(name, getattr(torchjd, theirs)(projector=quadprog_projector()), shape, tolerance=1e-4)


@needs("scipy")
@pytest.mark.parametrize("alpha", [1.0, 2.0])
@grid("shape", independent(), always=DIAGONAL)
def test_fairgrad(shape, alpha):
    jacobian = gradients(*shape)
    theirs = torchjd.FairGrad(alpha=alpha)(jacobian / jacobian.norm(dim=-1).mean())
    for scale in SCALES:
        found = ours("fairgrad", scale * jacobian, alpha=alpha)
        assert torch.cosine_similarity(found, theirs, dim=0) > 1 - 1e-5
    same_scale = ours("fairgrad", jacobian / jacobian.norm(dim=-1).mean(), alpha=alpha)
    assert (same_scale - theirs).norm() < 1e-2 * theirs.norm()


@grid("shape", SHAPES, always=DIAGONAL)
def test_config(shape):
    compare("config", torchjd.ConFIG(), shape, sums=True)


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
def test_graddrop_has_the_same_distribution(num_tasks):
    jacobian = gradients(num_tasks, 6)
    balancer = make_balancer("graddrop", num_tasks=num_tasks)
    tasks = tasks_of(torch.ones(num_tasks), jacobian)
    found = torch.stack([balancer.balance(tasks).direction for _ in range(600)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([torchjd.GradDrop()(jacobian) / num_tasks for _ in range(600)])
    for coordinate in range(6):
        assert set(found[:, coordinate].round(decimals=9).tolist()) == set(
            theirs[:, coordinate].round(decimals=9).tolist()
        )
    spread = theirs.std(0) + 1e-12
    assert ((found.mean(0) - theirs.mean(0)).abs() <= 5 * spread * (2 / 600) ** 0.5 + 1e-9).all()
