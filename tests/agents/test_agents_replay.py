"""The replay buffer: one ring per task, stratified and independent samples, time-outs that are not terminal."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agents import ConfigurationError
from agents.replay import TaskReplayBuffer, samples_per_task


def buffer(capacity=10, num_tasks=2, copies=1, state_size=3, action_size=2, seed=0):
    return TaskReplayBuffer(
        capacity * num_tasks,
        state_size,
        action_size,
        np.tile(np.arange(num_tasks), copies),
        torch.Generator().manual_seed(seed),
        torch.device("cpu"),
    )


def add(replay, number, dones=None, infos=None, rewards=None):
    """Store a vector step whose numbers name the step (tens) and the environment (units)."""
    count = len(replay.task_of_env)
    state_size, action_size = replay.sizes[:2]
    label = np.arange(count, dtype=np.float32) + 10 * number
    observations = np.repeat(label[:, None], state_size + replay.num_tasks, axis=1)
    replay.add(
        observations,
        observations + 0.5,
        np.repeat(label[:, None], action_size, axis=1),
        label if rewards is None else rewards,
        np.zeros(count, bool) if dones is None else np.array(dones),
        [{}] * count if infos is None else infos,
    )


def filled(steps=10, **options):
    replay = buffer(**options)
    for number in range(steps):
        add(replay, number)
    return replay


def test_every_task_gets_exactly_its_share_of_every_batch():
    replay = filled(num_tasks=3)
    for samples in (1, 4, 7):
        sample = replay.sample(3 * samples)
        assert sample.states.shape == (3, samples, 3) and sample.actions.shape == (3, samples, 2)
        assert sample.rewards.shape == sample.terminals.shape == (3, samples)
        for task in range(3):
            assert torch.all(sample.states[task] % 10 == task) and torch.all(sample.rewards[task] % 10 == task)


def test_the_parts_of_a_transition_stay_together():
    sample = filled().sample(40)
    label = sample.rewards[..., None]
    assert torch.equal(sample.states, label.expand(-1, -1, 3))
    assert torch.equal(sample.next_states, (label + 0.5).expand(-1, -1, 3))
    assert torch.equal(sample.actions, label.expand(-1, -1, 2))
    assert not sample.terminals.any()


def test_two_tasks_draw_independently():
    sample = filled(steps=100, capacity=100).sample(2 * 500)
    steps = torch.div(sample.rewards, 10, rounding_mode="floor")
    assert not torch.equal(steps[0], steps[1])
    correlation = np.corrcoef(steps.numpy())[0, 1]
    assert abs(correlation) < 0.15  # 3.4 standard deviations of 500 independent pairs


def test_every_stored_transition_is_equally_likely():
    replay = filled(steps=20, capacity=20)
    counts = np.zeros((2, 20))
    for _ in range(100):
        steps = torch.div(replay.sample(2 * 200).rewards, 10, rounding_mode="floor").long()
        for task in range(2):
            counts[task] += np.bincount(steps[task], minlength=20)
    expected = 100 * 200 / 20
    chi_square = ((counts - expected) ** 2 / expected).sum(axis=1)  # 19 degrees of freedom
    assert np.all(chi_square < 43.8) and np.all(chi_square > 4.9)  # 99.9 % quantile; and not suspiciously even


def test_only_what_is_stored_is_drawn_while_the_ring_fills():
    replay = buffer(capacity=10)
    replay.rows.fill_(torch.nan)
    for number in range(3):
        add(replay, number)
        assert replay.size() == number + 1
        assert torch.isfinite(replay.sample(2 * 200).rewards).all()


def test_a_full_ring_forgets_the_oldest_first():
    replay = filled(steps=13, capacity=10)
    assert replay.size() == 10
    for task in range(2):
        assert sorted(replay.rows[task, :, 5].tolist()) == [10 * number + task for number in range(3, 13)]


@pytest.mark.parametrize("copies", [2, 3])
def test_several_copies_of_a_task_share_its_ring(copies):
    steps, capacity = 5, 8  # 10 or 15 transitions, and 3 copies do not divide the ring
    replay = filled(steps=steps, capacity=capacity, copies=copies)
    assert replay.size() == 8
    for task in range(2):
        everything = [10 * number + task + 2 * copy for number in range(steps) for copy in range(copies)]
        assert sorted(replay.rows[task, :, 5].tolist()) == sorted(everything[-capacity:])


def test_a_time_out_is_not_a_terminal_state():
    replay = buffer(num_tasks=3)
    infos = [{"TimeLimit.truncated": True}, {"TimeLimit.truncated": False}, {}]
    add(replay, 0, dones=[True, True, False], infos=infos)
    assert replay.sample(3).terminals.flatten().tolist() == [0.0, 1.0, 0.0]


def test_raw_rewards_are_stored_and_samples_scaled(small_agent, transitions):
    agent = small_agent(reward_scale="std")
    raw = []
    for _, _, following, rewards, dones, infos in transitions(agent.env, 20):
        agent._last_obs = following
        agent._store_transition(agent.replay_buffer, np.zeros((4, 2), np.float32), following, rewards, dones, infos)
        raw.append(rewards)
    raw = np.array(raw).T
    stored = agent.replay_buffer.rows[:, :20, 4].numpy()
    np.testing.assert_array_equal(stored, raw)
    sample = agent.replay_buffer.sample(4 * 50)
    scaled = agent.reward_scale.scaled(sample.rewards, agent.temperature.value())
    torch.testing.assert_close(scaled, sample.rewards / torch.from_numpy(raw.std(axis=1))[:, None], rtol=1e-4, atol=0)


def test_the_last_observation_of_an_episode_is_the_next_state_not_the_first_of_the_next(pointmass, small_agent):
    agent = small_agent(env=pointmass(horizon=3))
    agent.learn(4 * 4, log_interval=None)
    states, _, _, following, terminals = agent.replay_buffer.rows[:, :4].split(agent.replay_buffer.sizes, dim=-1)
    assert torch.equal(following[:, :2], states[:, 1:3])  # within the episode
    gap = (following[:, 2] - states[:, 3]).abs().amax(-1)  # the environments have reset in between
    step = (following[:, 2] - states[:, 2]).abs().amax(-1)
    assert torch.all(step <= 0.1 + 1e-6) and torch.all(gap > 0) and not terminals.any()


def test_the_ring_stores_the_state_without_the_one_hot(small_agent):
    agent = small_agent()
    agent.learn(40, log_interval=None)
    assert agent.replay_buffer.rows.shape == (4, 1000, 2 + 2 + 1 + 2 + 1)
    assert agent.replay_buffer.rows.dtype == torch.float32


def test_actions_are_stored_scaled_to_one_whatever_their_bounds():
    from agents import MTSAC
    from envs import make_suite

    with make_env_closing(make_suite("gym", tasks=["Pendulum-v1"])) as env:  # torques within [-2, 2]
        agent = MTSAC("MultiTaskPolicy", env, learning_starts=30, buffer_size=200, batch_size=4, seed=0, device="cpu")
        taken = []
        original = env.step_async
        env.step_async = lambda actions: (taken.append(actions.copy()), original(actions))[1]
        agent.learn(60, log_interval=None)
    stored = agent.replay_buffer.rows[0, :60, 3].numpy()
    np.testing.assert_allclose(np.array(taken).flatten(), 2 * stored, atol=1e-6)
    assert np.abs(stored[:30]).max() > 0.8 and np.abs(stored).max() <= 1.0


class make_env_closing:
    def __init__(self, suite):
        self.env = suite.make_vec_env(seed=0)

    def __enter__(self):
        return self.env

    def __exit__(self, *_):
        self.env.close()


def test_mt50_with_two_hundred_thousand_transitions_per_task_takes_at_most_3_5_gb(monkeypatch):
    # The refusal names what would be needed; nothing is allocated.
    monkeypatch.setattr("agents.replay.psutil.virtual_memory", lambda: SimpleNamespace(available=1e9))
    with pytest.raises(ConfigurationError) as refusal:
        buffer(capacity=200_000, num_tasks=50, state_size=39, action_size=4)
    assert "10,000,000 transitions needs 3.4 GB and 1.0 GB of memory are free" in str(refusal.value)
    replay = buffer(capacity=20, num_tasks=50, state_size=39, action_size=4)
    assert replay.rows.nbytes / 20 * 200_000 <= 3.5e9


def test_the_size_that_a_refusal_advises_fits(monkeypatch):
    monkeypatch.setattr("agents.replay.psutil.virtual_memory", lambda: SimpleNamespace(available=1e6))
    with pytest.raises(ConfigurationError, match="choose buffer_size of at most") as refusal:
        buffer(capacity=1_000_000)
    advised = int(str(refusal.value).split()[-1].rstrip(".").replace(",", ""))
    assert buffer(capacity=advised // 2).rows.nbytes <= 1e6


@pytest.mark.parametrize(("batch_size", "near"), [(7, 6), (8, 9), (0, 3), (-3, 3), (1, 3)])
def test_a_batch_that_tasks_cannot_share_evenly_is_refused_with_one_that_they_can(batch_size, near):
    with pytest.raises(ConfigurationError, match=f"batch_size={batch_size} .* 3 tasks .* such as {near}"):
        samples_per_task(batch_size, 3)


def test_a_ring_without_room_for_every_copy_is_refused():
    with pytest.raises(ConfigurationError, match="buffer_size=2 leaves 1 transitions .* at least 2 per task"):
        TaskReplayBuffer(2, 1, 1, np.array([0, 1, 0, 1]), torch.Generator(), torch.device("cpu"))


def test_an_empty_ring_cannot_be_sampled():
    with pytest.raises(ConfigurationError, match="no transition"):
        buffer().sample(4)


def test_equal_generators_draw_equal_samples():
    draws = [filled(seed=seed).sample(40).rewards for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
