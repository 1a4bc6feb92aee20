"""Kinds of critics: distributions over atoms against slow and closed forms, and one value of an ensemble."""

import itertools
import math

import pytest
import torch

from agents import ConfigurationError
from agents.critics import CategoricalValue, ScalarValue, make_value
from agents.precision import autocast

M = 11  # atoms at -5, -4, ..., 5
RANGE = {"num_atoms": M, "v_min": -5.0, "v_max": 5.0}


def categorical(reduction="min", **options):
    return CategoricalValue(reduction, **{**RANGE, **options}).double()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def project_slowly(probabilities, atoms, shift, discount):
    """C51's projection of one distribution, atom by atom as in the paper's algorithm 1."""
    low, high, distance = atoms[0], atoms[-1], atoms[1] - atoms[0]
    found = [0.0] * len(atoms)
    for probability, atom in zip(probabilities, atoms, strict=True):
        place = (min(max(shift + discount * atom, low), high) - low) / distance
        lower, upper = math.floor(place), math.ceil(place)
        if lower == upper:
            found[lower] += probability
        else:
            found[lower] += probability * (upper - place)
            found[upper] += probability * (place - lower)
    return found


def test_the_projection_is_that_of_a_loop_over_atoms():
    value = categorical()
    probabilities, shift = normal(3, 7, M).softmax(-1), 4.0 * normal(3, 7, seed=1)
    shift[0, :3] = torch.tensor([0.0, 5.0, -40.0])  # on an atom, at the end, beyond
    discounts = torch.full((3, 7), 0.9, dtype=torch.float64)
    discounts[0], discounts[1, :2] = 1.0, 0.0
    found = value.projection(probabilities.clone(), shift, discounts)
    for group in range(3):
        for sample in range(7):
            expected = project_slowly(
                probabilities[group, sample].tolist(),
                value.atoms.tolist(),
                shift[group, sample].item(),
                discounts[group, sample].item(),
            )
            torch.testing.assert_close(found[group, sample], torch.tensor(expected, dtype=torch.float64))


def test_a_projection_within_the_support_keeps_the_mean_and_all_of_them_the_mass():
    value = categorical()
    outputs, rewards = normal(2, 4, 6, M), 0.4 * normal(4, 6, seed=1)
    target = value.target(outputs, rewards, torch.full((4, 6), 0.9, dtype=torch.float64), torch.zeros(4, 6))
    torch.testing.assert_close(target.sum(-1), torch.ones(4, 6, dtype=torch.float64))
    narrow = value.projection(torch.eye(M, dtype=torch.float64)[[3, 7]][None], torch.tensor([[0.3, -0.7]]).double(),
                              torch.tensor([[0.9, 0.9]]).double())  # fmt: skip
    torch.testing.assert_close(value._mean(narrow), torch.tensor([[0.3 - 0.9 * 2, -0.7 + 0.9 * 2]]).double())


def test_beyond_a_terminal_state_there_is_the_reward_alone():
    value = categorical()
    rewards = torch.tensor([[2.25, -1.0, 70.0]], dtype=torch.float64)
    target = value.target(normal(2, 1, 3, M), rewards, torch.zeros(1, 3), 100.0 * torch.ones(1, 3))
    torch.testing.assert_close(target[0, 0, 7:9], torch.tensor([0.75, 0.25], dtype=torch.float64))
    assert target[0, 1, 4] == pytest.approx(1.0) and target[0, 2, -1] == pytest.approx(1.0)


def test_the_entropy_of_the_next_action_moves_the_target():
    value = categorical()
    surely_one = torch.full((2, 1, 1, M), -1e3, dtype=torch.float64)
    surely_one[..., 6] = 1e3  # the atom at 1
    target = value.target(surely_one, torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[3.0]]))
    torch.testing.assert_close(value._mean(target), torch.tensor([[0.5 + 0.5 * (1.0 + 3.0)]]).double())


@pytest.mark.parametrize("sigma", [0.3, 0.75, 2.0])
def test_hl_gauss_is_the_mass_of_a_gaussian_in_every_bin(sigma):
    value = categorical(target="hl_gauss", sigma=sigma)
    outputs, rewards = normal(2, 1, 5, M), torch.tensor([[0.0, 0.3, -2.0, 4.9, 80.0]], dtype=torch.float64)
    discounts = torch.full((1, 5), 0.9, dtype=torch.float64)
    target = value.target(outputs, rewards, discounts, torch.zeros(1, 5))
    expected_value = rewards + discounts * value.reduced(outputs)
    for found, centre in zip(target[0], expected_value[0].clamp(-5, 5).tolist(), strict=True):
        below = [0.5 * (1 + math.erf((atom - 0.5 - centre) / (sigma * math.sqrt(2)))) for atom in range(-5, 7)]
        bins = [(high - low) / (below[-1] - below[0]) for low, high in itertools.pairwise(below)]
        torch.testing.assert_close(found, torch.tensor(bins, dtype=torch.float64))
    inside = value.histogram(torch.tensor([[1.3]], dtype=torch.float64))
    if sigma == 0.75:  # narrower ones fall into too few bins, wider ones are cut off
        assert value._mean(inside).item() == pytest.approx(1.3, abs=0.05)


def test_the_value_of_an_ensemble_is_the_smaller_or_the_mean_one():
    outputs = normal(3, 2, 4, M)
    atoms = torch.arange(-5.0, 6.0, dtype=torch.float64)
    each = (outputs.softmax(-1) * atoms).sum(-1)
    torch.testing.assert_close(categorical("min").reduced(outputs), each.amin(0))
    torch.testing.assert_close(categorical("mean").reduced(outputs), each.mean(0))
    assert torch.equal(ScalarValue("min").reduced(outputs[..., :1]), outputs[..., 0].amin(0))
    assert torch.equal(ScalarValue("mean").reduced(outputs[..., :1]), outputs[..., 0].mean(0))


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_the_distribution_of_an_ensemble_is_that_of_the_smaller_mean_or_the_averaged_one(reduction):
    value, outputs = categorical(reduction), normal(3, 2, 4, M)
    probabilities = outputs.softmax(-1)
    means = (probabilities * value.atoms).sum(-1)
    unmoved = value.target(outputs, torch.zeros(2, 4), torch.ones(2, 4), torch.zeros(2, 4))
    for group in range(2):
        for sample in range(4):
            of_critics = probabilities[:, group, sample]
            chosen = of_critics[means[:, group, sample].argmin()] if reduction == "min" else of_critics.mean(0)
            torch.testing.assert_close(unmoved[group, sample], chosen)


def test_the_loss_is_the_cross_entropy_summed_over_critics_and_averaged_over_samples():
    value, outputs, target = categorical(), normal(2, 3, 4, M), normal(3, 4, M, seed=1).softmax(-1)
    expected = torch.zeros(3, dtype=torch.float64)
    for critic in range(2):
        for group in range(3):
            rows = torch.nn.functional.cross_entropy(outputs[critic, group], target[group])
            expected[group] += rows
    torch.testing.assert_close(value.losses(outputs, target), expected)


def test_the_loss_is_never_negative_and_smallest_at_the_target():
    value, target = categorical(), normal(1, 4, M, seed=1).softmax(-1)
    outputs = target.log()[None].requires_grad_()
    value.losses(outputs, target).sum().backward()
    assert outputs.grad.abs().max() < 1e-12
    sure = torch.full((2, 1, 4, M), -1e4, dtype=torch.float64)
    sure[..., 3] = 1e4
    assert value.losses(sure, torch.eye(M, dtype=torch.float64)[3].expand(1, 4, M)).item() >= 0.0


def test_values_and_spread_of_a_categorical_critic_are_in_units_of_values():
    value, outputs, target = categorical(), normal(2, 3, 4, M), normal(3, 4, M, seed=1).softmax(-1)
    values, targets = value.values(outputs), (target * value.atoms).sum(-1)
    metrics, scalar = value.metrics(outputs, target), ScalarValue()
    expected = scalar.metrics(values[..., None], targets)
    for name in ("q_value", "q_max_abs", "target_variance"):
        torch.testing.assert_close(metrics[name], expected[name])
    torch.testing.assert_close(metrics["squared_error"], scalar.losses(values[..., None], targets))
    assert (metrics["q_max_abs"] <= 5.0).all() and "squared_error" not in expected


@pytest.mark.parametrize("kind", ["projection", "hl_gauss"])
def test_under_bfloat16_a_distribution_is_computed_in_float32(kind):
    value = CategoricalValue(**RANGE, target=kind)
    outputs, rewards = normal(2, 3, 4, M).float(), normal(3, 4, seed=1).float()
    inputs = (outputs, rewards, torch.full((3, 4), 0.9), torch.zeros(3, 4))
    plain = value.target(*inputs)
    with autocast("bfloat16", torch.device("cpu")):
        cast = value.target(*inputs)
        assert torch.equal(cast, plain) and torch.equal(value.losses(outputs, plain), value.losses(outputs, cast))
        assert value.losses(outputs, cast).dtype == value.reduced(outputs).dtype == torch.float32


@pytest.mark.parametrize("kind", ["projection", "hl_gauss"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_not_finite_is_not_clipped_away(kind, number):
    value, rewards = categorical(target=kind), torch.zeros(1, 2, dtype=torch.float64)
    rewards[0, 1] = number
    target = value.target(normal(2, 1, 2, M), rewards, torch.full((1, 2), 0.9).double(), torch.zeros(1, 2))
    assert target[0, 0].isfinite().all() and not target[0, 1].isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "categoric",
            {},
            "Unknown critic 'categoric': choose from categorical, popart, scalar.*did you mean 'categorical'",
        ),
        ("categorical", {"atoms": 3}, "Unknown option of critic 'categorical' 'atoms': .*did you mean 'num_atoms'"),
        ("scalar", {"num_atoms": 3}, "Unknown option of critic 'scalar' 'num_atoms'"),
        ("categorical", {"num_atoms": 1}, "num_atoms must be at least 2, found 1"),
        ("categorical", {"v_min": 3.0, "v_max": 3.0}, "v_min must be smaller than v_max, found 3 and 3"),
        ("categorical", {"target": "hl-gauss"}, "Unknown target of the categorical critic .*did you mean 'hl_gauss'"),
        ("categorical", {"sigma": 0.0}, "sigma must be greater than 0, found 0"),
        ("scalar", {"reduction": "max"}, "Unknown ensemble_reduction 'max': choose from mean, min"),
    ],
)
def test_what_is_no_critic_is_refused(name, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_value(name, **options)


@pytest.mark.parametrize("target", ["projection", "hl_gauss"])
def test_known_values_become_distributions_with_these_means(target):
    value = categorical(target=target)
    values = torch.tensor([[0.0, 1.25, -3.0], [2.5, -0.75, 0.1]], dtype=torch.float64)
    found = value.target_of(values)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(value._mean(found), values, rtol=0, atol=1e-2)
    atoms = (found > 1e-12).sum(-1)
    assert (atoms <= 2).all() if target == "projection" else (atoms > 2).all()
    assert ScalarValue().target_of(values) is values
