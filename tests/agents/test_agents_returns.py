"""Rewards on the scale of returns: against returns-to-go worked out step by step on whole episodes."""

import numpy as np
import pytest
import torch

from agents import ConfigurationError
from agents.reward_scale import RunningEpisodes, make_reward_scale

GAMMA = 0.9


def returns_to_go(rewards, truncated, gamma=GAMMA):
    """Of every step of an episode, each summed on its own."""
    beyond = np.mean(rewards) / (1 - gamma) if truncated else 0.0
    steps = len(rewards)
    return [
        sum(gamma ** (i - t) * rewards[i] for i in range(t, steps)) + gamma ** (steps - t) * beyond
        for t in range(steps)
    ]


def random_steps(task, steps, seed=0, mean=0.0):
    """Vector steps whose episodes end at random, half of them by a time-out."""
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        rewards = generator.normal(mean, 10.0**task).astype(np.float32)
        dones = generator.random(len(task)) < 0.05
        infos = [{"TimeLimit.truncated": bool(done and generator.random() < 0.5)} for done in dones]
        yield rewards, dones, infos


@pytest.mark.parametrize("mean", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("task", [[0, 1, 2], [0, 1, 0, 1]], ids=["one copy", "two copies"])
def test_the_scale_is_the_largest_return_to_go_of_all_episodes_that_ended(task, mean):
    task = np.array(task)
    scale = make_reward_scale("return", task.max() + 1, gamma=GAMMA, target_entropy=-2.0, limit=5.0)
    running, largest = [[] for _ in task], np.zeros(task.max() + 1)
    for rewards, dones, infos in random_steps(task, 400, mean=mean):
        scale.observe(rewards, task, dones, infos)
        for env, (reward, done) in enumerate(zip(rewards, dones, strict=True)):
            running[env].append(float(reward))
            if done:
                found = returns_to_go(running[env], infos[env]["TimeLimit.truncated"])
                largest[task[env]] = max(largest[task[env]], max(found), -min(found))
                running[env] = []
    np.testing.assert_allclose(scale.largest, largest, rtol=1e-12)
    temperatures = torch.linspace(0.1, 0.3, len(largest))
    # The room for entropy: alpha / (1 - gamma) * target entropy / 2
    expected = (largest + temperatures.numpy() / (1 - GAMMA) * 1.0) / 5.0
    rewards = torch.ones(len(largest), 4)
    np.testing.assert_allclose(scale.scaled(rewards, temperatures)[:, 0], 1 / expected, rtol=1e-6)
    part = torch.tensor([1])
    of_part = scale.scaled(rewards[part], temperatures[part], part)
    torch.testing.assert_close(of_part, scale.scaled(rewards, temperatures)[part])


def test_scaled_returns_lie_within_the_limit():
    task = np.zeros(1, int)
    scale = make_reward_scale("return", 1, gamma=GAMMA, limit=10.0)
    for steps in random_steps(task, 300, mean=5.0):
        scale.observe(steps[0], task, *steps[1:])
    rewards = np.random.default_rng(3).normal(5.0, 1.0, 50).astype(np.float32)
    scale.observe(rewards[:1], task, np.array([False]), [{}])
    for reward in rewards[1:-1]:
        scale.observe(reward[None], task, np.array([False]), [{}])
    scale.observe(rewards[-1:], task, np.array([True]), [{"TimeLimit.truncated": True}])
    scaled = scale.scaled(torch.from_numpy(rewards)[None], torch.zeros(1))[0].numpy()
    assert np.abs(returns_to_go(scaled, True)).max() <= 10.0 + 1e-4


def test_until_a_tasks_first_episode_has_ended_its_rewards_are_left_alone():
    scale = make_reward_scale("return", 2, gamma=GAMMA, target_entropy=-2.0)
    scale.observe(np.array([1.0, 1.0]), np.arange(2), np.array([True, False]), [{}, {}])
    assert scale.scale(torch.full((2,), 0.5)).tolist() == [pytest.approx((1.0 + 0.5 * 10.0) / 10.0), 1.0]


def test_an_episode_lost_to_a_fault_counts_for_nothing_and_the_next_one_starts_anew():
    episodes, running = RunningEpisodes(GAMMA), np.array([False])
    episodes.observe(np.array([100.0]), running, [{}])
    fault = {"fault": "it fell over", "TimeLimit.truncated": True}
    assert episodes.observe(np.array([100.0]), np.array([True]), [fault]) == {}
    episodes.observe(np.array([1.0]), running, [{}])
    assert episodes.observe(np.array([2.0]), np.array([True]), [{}]) == {0: pytest.approx(1.0 + GAMMA * 2.0)}


def test_episodes_of_any_length_have_room():
    rewards = np.random.default_rng(0).normal(1, 1, 1_300)
    episodes = RunningEpisodes(0.99)
    for step, reward in enumerate(rewards):
        found = episodes.observe(reward[None], np.array([step == 1_299]), [{"TimeLimit.truncated": False}])
    expected = np.abs(returns_to_go(rewards[-400:], False, 0.99)).max()  # what came before is worth less than 2 %
    assert found[0] >= expected and episodes.state_dict()["rewards"].shape == (1, 0)


def test_a_scale_put_down_in_the_middle_of_episodes_goes_on():
    task, whole = np.arange(3), make_reward_scale("return", 3, gamma=GAMMA)
    steps = list(random_steps(task, 90))
    for rewards, dones, infos in steps[:50]:
        whole.observe(rewards, task, dones, infos)
    half = make_reward_scale("return", 3, gamma=GAMMA)
    half.load_state_dict(whole.state_dict())
    half.load_episodes_state({name: value.clone() for name, value in whole.episodes_state().items()})
    assert whole.episodes_state()["lengths"].max() > 0
    for scale in (whole, half):
        for rewards, dones, infos in steps[50:]:
            scale.observe(rewards, task, dones, infos)
    assert torch.equal(whole.largest, half.largest) and (whole.largest > 0).all()


def test_a_run_of_the_loop_sees_the_episodes_that_the_environments_made(small_agent):
    agent = small_agent(reward_scale="return", learning_starts=10_000, buffer_size=4_000)
    agent.learn(4 * 150, log_interval=None)
    rows, horizon = agent.replay_buffer.rows, 50
    rewards = rows[:, :150, 2 + 2].reshape(4, 3, horizon).double().numpy()
    expected = [max(np.abs(returns_to_go(episode, True, 0.99)).max() for episode in of_task) for of_task in rewards]
    np.testing.assert_allclose(agent.reward_scale.largest, expected, rtol=1e-6)


def test_a_new_start_of_the_environments_is_a_new_start_of_the_episodes(small_agent):
    agent = small_agent(reward_scale="return", learning_starts=10_000)
    for _ in range(2):
        agent.learn(4 * 30, log_interval=None)
        assert agent.reward_scale.episodes_state()["lengths"].tolist() == [30] * 4
    agent.learn(4 * 10, log_interval=None, reset_num_timesteps=False)
    assert agent.reward_scale.episodes_state()["lengths"].tolist() == [40] * 4


def test_values_of_a_categorical_critic_are_scaled_into_its_support(small_agent):
    options = {"critic": "categorical", "critic_kwargs": {"v_min": -3.0, "v_max": 7.0}}
    assert small_agent(reward_scale="return", policy_kwargs=options).reward_scale.limit == 7.0
    assert small_agent(reward_scale="return").reward_scale.limit == 10.0


def test_returns_without_a_discount_have_no_scale(small_agent):
    with pytest.raises(ConfigurationError, match="reward_scale='return' needs a discount gamma below 1, found 1"):
        small_agent(reward_scale="return", gamma=1.0)
