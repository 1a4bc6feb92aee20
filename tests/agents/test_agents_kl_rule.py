"""A learning rate that follows the divergence of the policy."""

import pytest

from agents.kl_rule import adapted_to_kl


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.021, 1e-3 / 1.5), (0.019, 1e-3), (0.01, 1e-3), (0.006, 1e-3), (0.004, 1e-3 * 1.5), (0.0, 1e-3 * 1.5)],
)
def test_it_moves_only_when_steps_are_twice_or_half_the_wanted_size(kl, expected):
    assert adapted_to_kl(1e-3, kl, desired_kl=0.01) == pytest.approx(expected)


def test_it_stays_within_its_bounds():
    low = high = 1e-3
    for _ in range(50):
        low = adapted_to_kl(low, 1.0, 0.01, lowest=1e-4, highest=2e-3)
        high = adapted_to_kl(high, 0.0, 0.01, lowest=1e-4, highest=2e-3)
    assert (low, high) == (1e-4, 2e-3)


def test_it_settles_where_the_divergence_is_near_the_wanted_one():
    """A policy whose divergence grows with the square of the learning rate."""
    for start in (1e-5, 1e-2):
        rate = start
        for _ in range(40):
            rate = adapted_to_kl(rate, 1e4 * rate**2, desired_kl=0.01)
        assert 0.005 <= 1e4 * rate**2 <= 0.02
