"""The reward scale of a task is the standard deviation of all its rewards."""

import numpy as np
import pytest
import torch

from agents import ConfigurationError
from agents.reward_scale import make_reward_scale


def observed(rewards, task, kind="std"):
    """Scale after vector steps of rewards ``[T, N]``."""
    scale = make_reward_scale(kind, int(task.max()) + 1)
    for row in rewards:
        scale.observe(row, task, np.zeros(len(task), bool), [{}] * len(task))
    return scale


def scaled(scale, rewards):
    return scale.scaled(rewards, torch.ones(len(rewards)))


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (5.0, 1e-3), (1e6, 1.0), (-1e6, 1.0)])
def test_it_equals_numpys_standard_deviation_of_everything_seen(mean, spread, copies):
    task = np.tile(np.arange(4), copies)
    rewards = np.random.default_rng(0).normal(mean, spread, (500, 4 * copies)).astype(np.float32)
    scale = observed(rewards, task).scale()
    expected = [rewards[:, task == k].astype(np.float64).std() for k in range(4)]
    np.testing.assert_allclose(scale, expected, rtol=1e-6)


def test_the_textbook_formula_in_float32_would_fail_here():
    rewards = np.random.default_rng(0).normal(1e6, 1.0, (500, 1)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        naive = np.sqrt((rewards**2).mean() - rewards.mean() ** 2)
    exact = rewards.astype(np.float64).std()
    assert not abs(naive - exact) < 0.5 * exact
    assert observed(rewards, np.array([0])).scale().item() == pytest.approx(exact, rel=1e-6)


def test_tasks_that_have_seen_unequal_numbers_of_rewards_keep_their_own_scale():
    generator = np.random.default_rng(0)
    scale, seen = make_reward_scale("std", 3), [[], [], []]
    for _ in range(200):
        task = generator.integers(0, 3 if generator.random() < 0.1 else 2, generator.integers(1, 6))
        rewards = generator.normal(0, 10.0**task)
        scale.add(torch.as_tensor(rewards), torch.as_tensor(task))
        for k, reward in zip(task, rewards, strict=True):
            seen[k].append(reward)
    assert len(seen[2]) < len(seen[1])
    np.testing.assert_allclose(scale.scale(), [np.std(rewards) for rewards in seen], rtol=1e-6)


def test_scaled_rewards_have_unit_deviation_and_keep_their_sign():
    rewards = np.random.default_rng(0).normal(3, [1.0, 100.0], (300, 2)).astype(np.float32)
    found = scaled(observed(rewards, np.arange(2)), torch.from_numpy(rewards.T.copy()))
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(2), rtol=1e-5, atol=0)
    assert torch.equal(found.sign(), torch.from_numpy(rewards.T.copy()).sign())  # divided, not centred


@pytest.mark.parametrize("rewards", [[], [2.0], [2.0, 2.0, 2.0]])
def test_a_task_without_two_different_rewards_is_left_alone(rewards):
    scale = observed(np.array(rewards)[:, None], np.array([0]))
    assert scale.scale().tolist() == [1.0]
    assert scaled(scale, torch.tensor([[2.0, -1.0]])).tolist() == [[2.0, -1.0]]


def test_none_is_the_identity():
    rewards = np.random.default_rng(0).normal(0, 100, (50, 2))
    scale = observed(rewards, np.arange(2), "none")
    sample = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    assert scaled(scale, sample) is sample


def test_the_scale_survives_a_save():
    scale = observed(np.random.default_rng(0).normal(0, 7, (50, 2)), np.arange(2))
    copy = make_reward_scale("std", 2)
    copy.load_state_dict(scale.state_dict())
    assert torch.equal(copy.scale(), scale.scale()) and copy.scale()[0] != 1


def test_an_unknown_kind_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="Unknown reward_scale 'stdd': .*did you mean 'std'"):
        make_reward_scale("stdd", 2)


def test_the_reward_of_a_lost_step_is_none():
    scale = make_reward_scale("std", 2)
    lost = [{"fault": "it broke"}, {}]
    for first, second in ((1.0, 1.0), (3.0, 2.0)):
        scale.observe(np.array([first, second]), np.array([0, 1]), np.zeros(2, bool), [{}, {}])
        scale.observe(np.array([99.0, second]), np.array([0, 1]), np.array([True, False]), lost)
    assert scale.scale().tolist() == [1.0, 0.5] and scale.count.tolist() == [2, 4]
