"""The two-objective toy problem: who reaches the Pareto front, who is stuck, and where they end.

Ten published steps of Adam are made in one, its memory shortened alike; who arrives is the same as in the published
protocol. Along the front, where the directions vanish, longer steps drift further.
"""

from functools import cache

import numpy as np
import pytest
import torch

from agents.balancers import list_balancers, make_balancer
from benchmarks.toy import ENTRIES, entry, run_entry
from benchmarks.toy_problem import FRONT, STARTS, descend, distance_to_front, evaluate
from tests.grids import grid

LABELS = [method.label for method in ENTRIES]
NEAR = ((-7.5, -0.5), (0.0, 0.0))
FAR = (9.0, 9.0)
# Methods that the first log valley catches on their way from (9, 9), and those that leave it in 25 000 steps.
STUCK = ["unitary", "rlw", "graddrop", "dwa", "scale_invariant", "gls", "stch"]
FREE = ["mgda none", "mgda l2", "imtl_g", "nash_mtl", "aligned_mtl", "fairgrad 2", "famo", "gradnorm", "moco"]
SHOWN = ["unitary", "gls", "famo", "mgda l2", "cagrad 0.5"]  # by `make test`: a descent takes seconds


@cache
def descent(label, starts=(*NEAR, FAR), steps=25_000, s=0.1, speed=10.0):
    return run_entry(entry(label), starts=starts, steps=steps, speed=speed, every=5, s=s)


# ------------------------------------------------------------------ the problem


def test_the_objectives_have_their_published_values():
    losses, jacobian = evaluate(np.array([(-8.5, 7.5), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0), (0.0, 0.0)]))
    expected = [[0.6552, 7.9008], [0.7944, 6.6915], [0.0389, -4.7545], [-0.8831, 2.8143], [0, 0]]
    np.testing.assert_allclose(losses, expected, atol=5e-5)
    slopes = [
        [[-0.02854, 0.00072], [-0.07399, 0.00874]],
        [[0.00714, 0.00020], [0.24994, 0.00165]],
        [[-0.07103, -0.07094], [-0.02449, 9.16076]],
        [[0.01848, 0.75792], [1.47877, -2.33004]],
        [[0.0, 1.08564], [0.0, 10.85638]],
    ]
    np.testing.assert_allclose(jacobian, slopes, atol=1e-5)


def test_the_jacobian_is_the_derivative_of_the_losses():
    points = np.random.default_rng(0).uniform(-9, 9, (50, 2))
    _, jacobian = evaluate(points)
    for axis in range(2):
        ahead, behind = points.copy(), points.copy()
        ahead[:, axis] += 1e-6
        behind[:, axis] -= 1e-6
        slope = (evaluate(ahead)[0] - evaluate(behind)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[:, :, axis], slope, rtol=1e-4, atol=1e-6)


def test_the_front_is_where_it_was_computed():
    expected = [-8.3551, -8.3568, -8.3620, -8.3705, -8.3822, -8.3969, -8.4144, -8.4345]
    np.testing.assert_allclose(np.interp(np.arange(8), *FRONT), expected, atol=1e-4)


def test_every_method_takes_part_in_the_toy():
    alone = {
        "temperature",
        "igb_v1_rl",
        "igb_rl",
        "igb_rl_random",
    }  # nothing to look at: no agent, no episodes
    alone |= {"igb_rl_frozen", "igb_rl_permuted"}  # follow a run of such an agent
    alone |= {"schedule"}  # there is no budget
    alone |= {"igb_v2"}  # has one memory, for one course and not for all starts at once
    schedulers = {record.name for record in list_balancers() if record.family == "scheduler"}
    registered = {record.name for record in list_balancers()}
    assert {method.balancer for method in ENTRIES} - {"igb_v1+cagrad"} == registered - alone - schedulers


# ------------------------------------------------------------------ the methods


@grid("label", LABELS, always=SHOWN)
def test_starts_near_the_front_reach_it(label):
    assert (descent(label).reached[:2]).all(), descent(label)


@grid("label", FREE, always=["famo", "mgda l2"])
def test_these_methods_reach_the_front_from_afar(label):
    assert descent(label).reached[2]


@grid("label", STUCK, always=["unitary", "gls"])
def test_these_methods_are_still_stuck_in_the_valley(label):
    assert descent(label).points[2, 1] > 1.0 and not descent(label).reached[2]


@grid(
    ("label", "low", "high"),
    [("unitary", -5.78, -5.68), ("cagrad 0.5", -5.78, -5.68), ("famo", -1.0, 1.0)],
    every=2,
)
def test_where_on_the_front_a_method_ends(label, low, high):
    ended = descent(label, starts=((-8.5, 7.5),), steps=50_000).points
    assert distance_to_front(ended) < 0.1
    assert low < ended[0, 0] < high


@pytest.mark.slow
@pytest.mark.exhaustive
def test_nash_mtl_stays_near_the_point_where_it_met_the_front():
    ended = descent("nash_mtl", starts=((-8.5, 7.5),), steps=50_000, speed=2.5).points
    assert -3.2 < ended[0, 0] < -2.6


@grid("label", ["famo", "imtl_g", "nash_mtl", "mgda l2"], always=["mgda l2"])
def test_the_scale_of_an_objective_keeps_no_scale_free_method_from_the_front(label):
    descents = [descent(label, starts=(FAR,), steps=30_000, s=s) for s in (1.0, 10.0)]
    assert all(found.reached.all() for found in descents)
    if label in ("nash_mtl", "mgda l2"):  # their directions do not change at all
        np.testing.assert_allclose(descents[0].points, descents[1].points, atol=1e-4)


# ------------------------------------------------------------------ the harness


@pytest.mark.parametrize("label", LABELS)
def test_starts_in_a_batch_do_not_see_each_other(label):
    together = run_entry(entry(label), starts=STARTS, steps=60, speed=10.0)
    if entry(label).balancer in ("pcgrad", "gradvac", "graddrop"):
        return  # they draw random numbers for every start
    alone = [run_entry(entry(label), starts=(start,), steps=60, speed=10.0).points[0] for start in STARTS]
    np.testing.assert_allclose(together.points, np.stack(alone), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("label", ["rlw", "graddrop", "pcgrad"])
def test_random_methods_repeat_themselves_bit_for_bit(label):
    first = run_entry(entry(label), steps=300, speed=10.0)
    second = run_entry(entry(label), steps=300, speed=10.0)
    assert np.array_equal(first.points, second.points)


def test_one_published_step_at_a_time_is_pytorchs_adam():
    points = torch.nn.Parameter(torch.tensor(STARTS, dtype=torch.float64))
    adam = torch.optim.Adam([points], lr=1e-3)
    for _ in range(20):
        _, jacobian = evaluate(points.detach().numpy())
        points.grad = torch.from_numpy(jacobian.mean(1))
        adam.step()
    ours = descend(make_balancer("unitary", num_tasks=2), steps=20)
    np.testing.assert_allclose(ours.points, points.detach().numpy(), rtol=1e-9, atol=1e-12)
