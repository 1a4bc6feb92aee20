"""What the loss-space methods compute, as the papers say it."""

import math
from types import SimpleNamespace

import pytest
import torch

from agents.balancers import BalancerError, Needs, make_balancer
from agents.balancers.go4align import group_means
from agents.balancing.buffer_adam import BufferAdam
from agents.errors import ConfigurationError
from tests.agents.balancers.balancer_cases import tasks_of

LOSSES = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)


def weights_of(name, losses=LOSSES, steps=1, **options):
    balancer = make_balancer(name, num_tasks=len(losses), **options).double()
    for _ in range(steps):
        weights = balancer(tasks_of(losses))
        if Needs.SECOND_LOOK in balancer.needs:
            balancer.observe(losses)
    return weights


# ------------------------------------------------------------------ memoryless methods


def test_scale_invariant_weights_are_inverse_losses():
    torch.testing.assert_close(weights_of("scale_invariant"), 1 / LOSSES)


def test_gls_is_the_gradient_of_the_geometric_mean():
    losses = LOSSES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.prod() ** (1 / 3), losses)
    torch.testing.assert_close(weights_of("gls") / 3, gradient)


def test_temperature_gives_more_weight_to_the_task_with_the_lower_temperature():
    balancer = make_balancer("temperature", num_tasks=3)
    weights = balancer(SimpleNamespace(losses=LOSSES, temperatures=torch.tensor([0.1, 0.2, 0.4])))
    # softmax(-log alpha) is proportional to 1 / alpha
    torch.testing.assert_close(weights, 3 * torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64) / 7)


def test_equal_temperatures_weigh_equally():
    balancer = make_balancer("temperature", num_tasks=3)
    weights = balancer(SimpleNamespace(losses=LOSSES, temperatures=torch.full((3,), 0.3)))
    torch.testing.assert_close(weights, torch.ones(3, dtype=torch.float64))


def test_temperature_without_temperatures_says_what_is_missing():
    with pytest.raises(BalancerError, match="temperatures"):
        make_balancer("temperature", num_tasks=3)(SimpleNamespace(losses=LOSSES))


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_random_weights_are_one_on_average(distribution):
    balancer = make_balancer("rlw", num_tasks=3, distribution=distribution)
    mean = torch.stack([balancer(tasks_of(LOSSES)) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, torch.ones(3, dtype=torch.float64), rtol=0.05, atol=0)


# ------------------------------------------------------------------ learned weights


def test_buffer_adam_is_torch_adam():
    values, parameter = torch.zeros(3), torch.nn.Parameter(torch.zeros(3))
    ours, theirs = BufferAdam(3, lr=0.025, weight_decay=0.01), torch.optim.Adam([parameter], 0.025, weight_decay=0.01)
    for step in range(20):
        gradient = torch.tensor([1.0, -3.0, math.sin(step)])
        ours.step(values, gradient)
        parameter.grad = gradient
        theirs.step()
    torch.testing.assert_close(values, parameter.detach())


def test_uncertainty_starts_at_the_plain_mean_and_learns_inverse_losses():
    torch.testing.assert_close(weights_of("uncertainty"), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(weights_of("uncertainty", steps=5000, lr=0.01), 1 / LOSSES, rtol=1e-3, atol=0)


# ------------------------------------------------------------------ methods with a window


def test_dwa_of_constant_losses_is_the_plain_mean():
    torch.testing.assert_close(weights_of("dwa", steps=9, iteration_window=3), torch.ones(3, dtype=torch.float64))


def test_dwa_ignores_the_scale_of_a_task_and_favours_the_slow_one():
    balancer = make_balancer("dwa", num_tasks=2, iteration_window=1, temperature=2.0).double()
    balancer(tasks_of(torch.tensor([4.0, 1000.0], dtype=torch.float64)))
    weights = balancer(tasks_of(torch.tensor([2.0, 1000.0], dtype=torch.float64)))
    expected = 2 * torch.tensor([0.5 / 2, 1.0 / 2], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(weights, expected)


def test_stch_golden_value():
    balancer = make_balancer("stch", num_tasks=2, mu=1.0, warmup=0, nadir_window=1).double()
    balancer(tasks_of(torch.tensor([2.0, 2.0], dtype=torch.float64)))
    weights = balancer(tasks_of(torch.tensor([1.0, 4.0], dtype=torch.float64)))
    torch.testing.assert_close(weights, 2 * torch.tensor([0.2 / 1, 0.8 / 4], dtype=torch.float64))


def test_stch_is_the_gradient_of_its_objective():
    nadir, mu = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64), 0.4
    balancer = make_balancer("stch", num_tasks=3, mu=mu, warmup=0, nadir_window=1).double()
    balancer(tasks_of(nadir))
    losses = LOSSES.clone().requires_grad_()
    objective = 3 * mu * torch.logsumexp((losses / nadir).log() / mu, 0)
    (gradient,) = torch.autograd.grad(objective, losses)
    torch.testing.assert_close(balancer(tasks_of(LOSSES)), gradient)


def test_stch_follows_the_worst_task_for_small_mu_and_all_for_large_mu():
    for mu, expected in ((1e-3, torch.tensor([0.0, 0.0, 3 / 8])), (1e6, 1 / LOSSES)):
        balancer = make_balancer("stch", num_tasks=3, mu=mu, warmup=0, nadir_window=1).double()
        balancer(tasks_of(torch.ones(3, dtype=torch.float64)))
        torch.testing.assert_close(balancer(tasks_of(LOSSES)), expected.double(), rtol=1e-5, atol=1e-9)


def test_stch_is_scale_invariant_until_the_nadir_is_known():
    torch.testing.assert_close(weights_of("stch", steps=4, warmup=2, nadir_window=2), 1 / LOSSES)


def test_igb_v1_measures_gaps_against_the_mean_loss_of_its_base_window():
    balancer = make_balancer("igb_v1", num_tasks=2, base_start=1, base_window=2).double()
    for losses in ([99.0, 99.0], [2.0, 1.0], [4.0, 1.0]):  # the base losses are 3 and 1
        weights = balancer(tasks_of(torch.tensor(losses, dtype=torch.float64)))
        torch.testing.assert_close(weights, 1 / torch.tensor(losses, dtype=torch.float64))
    losses = torch.tensor([1.5, 1.0], dtype=torch.float64)
    expected = 2 * torch.tensor([0.5, 1.0], dtype=torch.float64).softmax(0) / losses
    torch.testing.assert_close(balancer(tasks_of(losses)), expected)


# ------------------------------------------------------------------ GO4Align


def test_go4align_with_one_group_gives_every_task_the_same_weight():
    weights = weights_of("go4align", num_groups=1)
    torch.testing.assert_close(weights, weights.mean().expand(3))


def test_go4align_with_a_group_per_task_keeps_every_weight_and_equal_losses_weigh_one():
    risks = (-1e-4 * LOSSES).softmax(0)
    torch.testing.assert_close(weights_of("go4align", num_groups=3), LOSSES.sum() / LOSSES * risks)
    torch.testing.assert_close(weights_of("go4align", torch.full((3,), 7.0)), torch.ones(3), rtol=1e-5, atol=0)


def test_groups_are_those_that_the_eye_sees():
    values = torch.tensor([5.0, 1.0, 1.2, 5.2, 0.8])
    torch.testing.assert_close(group_means(values, 2), torch.tensor([5.1, 1.0, 1.0, 5.1, 1.0]))


# ------------------------------------------------------------------ FAMO


def test_famo_weights_are_positive_and_sum_to_the_number_of_tasks():
    weights = weights_of("famo", steps=20)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(), torch.tensor(3.0, dtype=torch.float64))


def famo_path(scales, steps=30):
    """Logits of FAMO on a fixed course of losses, each multiplied by its own constant."""
    balancer = make_balancer("famo", num_tasks=3, gamma=0.01).double()
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        losses = torch.rand(3, generator=generator, dtype=torch.float64) + 0.5
        balancer(tasks_of(losses * scales))
        balancer.observe(losses * scales * torch.tensor([0.9, 0.95, 0.99]))
    return balancer.logits.clone()


def test_famo_does_not_see_the_scale_of_a_loss():
    torch.testing.assert_close(famo_path(torch.ones(3)), famo_path(torch.tensor([1e3, 1.0, 0.1])), rtol=1e-5, atol=1e-6)


def test_famo_takes_weight_from_the_task_that_improved_most():
    logits = famo_path(torch.ones(3))
    assert logits[0] < logits[1] < logits[2]


def test_famo_feels_no_force_when_all_tasks_improve_alike():
    balancer = make_balancer("famo", num_tasks=3).double()
    balancer(tasks_of(LOSSES))
    balancer.observe(0.9 * LOSSES)
    assert balancer.adam.mean.abs().max() < 1e-8  # Adam makes a step of any force, so look at the force


def test_famo_decays_to_inverse_losses_when_nothing_improves():
    balancer = make_balancer("famo", num_tasks=3, gamma=0.01).double()
    balancer.logits += torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    for _ in range(3000):
        weights = balancer(tasks_of(LOSSES))
        balancer.observe(LOSSES)
    torch.testing.assert_close(weights, 3 / LOSSES / (1 / LOSSES).sum(), rtol=0.02, atol=0)


def test_famo_counts_losses_from_their_lower_bounds():
    shifted = weights_of("famo", LOSSES - 5.0, min_losses=[-5.0, -5.0, -5.0])
    torch.testing.assert_close(shifted, weights_of("famo"))
    with pytest.raises(BalancerError, match="task 1"):
        weights_of("famo", torch.tensor([1.0, -6.0, 1.0]), min_losses=[-5.0, -5.0, -5.0])


def test_famo_refuses_a_second_look_it_cannot_take():
    balancer = make_balancer("famo", num_tasks=3)
    balancer(tasks_of(LOSSES))
    with pytest.raises(BalancerError, match="task 2 has nan"):
        balancer.observe(torch.tensor([1.0, 1.0, float("nan")]))


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("uncertainty", {"lr": 0.0}, "lr .*0.0"),
        ("dwa", {"iteration_window": 0}, "iteration_window .*0"),
        ("dwa", {"temperature": -2.0}, "temperature .*-2.0"),
        ("stch", {"mu": 0.0}, "mu .*0.0"),
        ("stch", {"warmup": -1}, "warmup .*-1"),
        ("go4align", {"num_groups": 0}, "num_groups .*0"),
        ("famo", {"gamma": -1.0}, "gamma .*-1.0"),
        ("famo", {"lr": float("nan")}, "lr .*nan"),
        ("famo", {"min_losses": [0.0]}, "min_losses .*3"),
        ("igb_v1", {"base_window": 0.5}, "base_window .*0.5"),
        ("static", {"weights": [1.0, 2.0]}, "3 weights"),
        ("static", {"weights": [1.0, -2.0, 1.0]}, "negative"),
        ("rlw", {"distribution": "uniform"}, "choose from dirichlet, normal"),
    ],
)
def test_an_impossible_option_is_refused_with_its_value(name, options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_balancer(name, num_tasks=3, **options)
