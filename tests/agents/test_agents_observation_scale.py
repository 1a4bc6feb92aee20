"""Scaled observations: moments against numpy, the limit, and what a saved policy keeps."""

import copy

import numpy as np
import pytest
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd

from agents import MTSAC, ConfigurationError, load_policy, save_policy
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


# ---------------------------------------------------------------------- in MTSAC

RUNNING = {"observation_scale": "running"}


def test_mtsac_counts_the_states_it_stores_and_every_one_once(small_agent):
    agent = small_agent(policy_kwargs=RUNNING, env_num_tasks=2).learn(200)
    buffer, scale = agent.replay_buffer, agent.policy.scale
    stored = buffer.size() * agent.num_tasks
    assert scale.count == agent.num_timesteps == stored == 200
    rows = buffer.rows[:, : buffer.size(), : agent.policy.state_size].flatten(0, 1).double()
    torch.testing.assert_close(scale.mean, rows.mean(0), rtol=1e-6, atol=1e-9)


def test_an_update_on_scaled_states_is_the_plain_update_on_states_scaled_before(small_agent, random_sample):
    scaled, plain = small_agent(policy_kwargs=RUNNING), small_agent()
    sample = random_sample(scaled)
    scaled.policy.observe(3 * sample.states + 1)
    before = sample._replace(
        states=scaled.policy.scale(sample.states), next_states=scaled.policy.scale(sample.next_states)
    )
    noise = torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(1))
    scaled.update(sample, noise)
    plain.update(before, noise)
    for ours, theirs in zip(scaled.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_scale_is_in_the_agents_file_and_in_that_of_its_policy(small_agent, tmp_path):
    agent = small_agent(policy_kwargs=RUNNING).learn(120)
    observations = agent.env.reset() * np.float32(5)
    expected = agent.predict(observations, deterministic=True)[0]
    agent.save(tmp_path / "agent.zip")
    loaded = MTSAC.load(tmp_path / "agent.zip", device="cpu")
    alone = load_policy(save_policy(agent, tmp_path / "policy.zip"), "cpu")
    for other in (loaded, alone):
        assert np.array_equal(other.predict(observations, deterministic=True)[0], expected)
    agent.policy.scale.mean += 1.0
    assert not np.array_equal(agent.predict(observations, deterministic=True)[0], expected)


def test_by_default_mtsac_leaves_states_alone_and_its_files_as_they_were(small_agent):
    agent = small_agent().learn(80)
    assert not any(name.startswith("scale") for name in agent.policy.state_dict())
    with pytest.raises(ConfigurationError, match="Unknown observation_scale 'std'"):
        small_agent(policy_kwargs={"observation_scale": "std"})
