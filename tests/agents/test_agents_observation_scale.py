"""Scaled observations: moments against numpy, the limit, and what a saved policy keeps."""

import copy

import numpy as np
import pytest
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd

from agents import ConfigurationError
from agents.observations import ObservationScale


def stream(count=6, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.tensor([1.0, 100.0, 1e-2, 0.0]), torch.tensor([0.0, -50.0, 2.0, 0.0])
    return [torch.randn(3, 5 + i, size, generator=generator) * scale + shift for i in range(count)]


def test_statistics_are_the_moments_of_all_states_seen():
    scale, parts = ObservationScale(4), stream()
    for part in parts:
        scale.update(part)
    rows = torch.cat([part.flatten(0, 1) for part in parts]).double()
    assert scale.count == len(rows)
    torch.testing.assert_close(scale.mean, rows.mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scale.variance, rows.var(0, correction=0), rtol=1e-9, atol=1e-15)


def test_statistics_are_those_of_stable_baselines3_but_for_its_initial_pseudo_count():
    scale, theirs = ObservationScale(4), RunningMeanStd(epsilon=1e-12, shape=(4,))
    for part in stream():
        scale.update(part)
        theirs.update(part.flatten(0, 1).numpy().astype(np.float64))
    np.testing.assert_allclose(scale.mean, theirs.mean, rtol=1e-9)
    np.testing.assert_allclose(scale.variance, theirs.var, rtol=1e-9, atol=1e-12)


def test_scaled_states_have_mean_zero_and_variance_one_and_constant_numbers_become_zero():
    scale, (states,) = ObservationScale(4), stream(1)
    scale.update(states)
    found = scale(states).flatten(0, 1)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.std(0, correction=0), torch.tensor([1.0, 1, 1, 0]), rtol=1e-3, atol=1e-6)


def test_far_outliers_are_cut_off_and_before_any_update_only_that_happens():
    scale = ObservationScale(2, limit=8.0)
    assert torch.equal(scale(torch.tensor([[3.0, -70.0]])), torch.tensor([[3.0, -8.0]]))
    scale.update(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(scale(torch.tensor([[1e9, -1e9]])), torch.tensor([[8.0, -8.0]]))


def test_statistics_travel_with_the_state_dict():
    scale, other = ObservationScale(4), ObservationScale(4)
    for part in stream():
        scale.update(part)
    other.load_state_dict(copy.deepcopy(scale.state_dict()))
    (states,) = stream(1, seed=1)
    assert torch.equal(other(states), scale(states))
    other.update(states)
    scale.update(states)
    assert torch.equal(other.variance, scale.variance)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_states_keep_their_precision(precision):
    scale = ObservationScale(4)
    scale.update(stream(1)[0])
    assert scale(torch.zeros(2, 4, dtype=precision)).dtype == precision


def test_a_limit_of_zero_is_refused():
    with pytest.raises(ConfigurationError, match="greater than 0"):
        ObservationScale(2, limit=0.0)
