"""Rollouts by task: advantages against slow sums and Stable-Baselines3, time-outs, stratified minibatches."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from agents import ConfigurationError
from agents.rollout import TaskRollout, explained_variance, minibatches, normalised, permutations

STATE, ACTION, GAMMA, LAMBDA = 3, 2, 0.9, 0.8


def value_of(states, task):
    """A fixed function of state and task stands for the critic."""
    return (states.sum(-1) + 10.0 * task[:, None]).sin()


def random_rollout(steps=12, tasks=3, copies=2, seed=0, interleaved=True):
    """A full rollout of random episodes, what went in, and the observations after it."""
    generator = np.random.default_rng(seed)
    numbers = np.arange(tasks)
    task_of_env = np.tile(numbers, copies) if interleaved else np.repeat(numbers, copies)
    envs = tasks * copies
    rollout = TaskRollout(steps, STATE, ACTION, task_of_env, "cpu")
    history = []
    for _ in range(steps):
        observations = generator.normal(size=(envs, STATE + tasks)).astype(np.float32)
        dones, cut = generator.random(envs) < 0.3, generator.random(envs) < 0.5
        infos = [{"TimeLimit.truncated": bool(done and timeout)} for done, timeout in zip(dones, cut, strict=True)]
        for info, done in zip(infos, dones, strict=True):
            if done:
                info["terminal_observation"] = generator.normal(size=STATE + tasks).astype(np.float32)
        actions = torch.from_numpy(generator.normal(size=(envs, ACTION)).astype(np.float32))
        log_probabilities = torch.from_numpy(generator.normal(size=envs).astype(np.float32))
        rewards = generator.normal(size=envs).astype(np.float32)
        history.append((observations, actions, log_probabilities, rewards, dones, infos))
        rollout.add(*history[-1])
    assert rollout.full
    return rollout, history, generator.normal(size=(envs, STATE + tasks)).astype(np.float32), task_of_env


def advantage_slowly(history, last, env, task, step):
    """Sum of discounted TD errors of one environment from one step to the end of its episode or of the rollout."""

    def value(observation):
        return value_of(torch.from_numpy(observation[:STATE])[None, None], torch.tensor([task])).item()

    total, factor = 0.0, 1.0
    for now in range(step, len(history)):
        observations, _, _, rewards, dones, infos = history[now]
        if not dones[env]:
            following = value(history[now + 1][0][env] if now + 1 < len(history) else last[env])
        elif infos[env]["TimeLimit.truncated"]:
            following = value(infos[env]["terminal_observation"])
        else:
            following = 0.0
        total += factor * (rewards[env] + GAMMA * following - value(observations[env]))
        if dones[env]:
            break
        factor *= GAMMA * LAMBDA
    return total


@pytest.mark.parametrize("interleaved", [True, False])
def test_advantages_sum_td_errors_to_the_end_of_each_episode_whatever_ended_it(interleaved):
    rollout, history, last, task_of_env = random_rollout(interleaved=interleaved)
    ends = [
        info["TimeLimit.truncated"] for step in history for info, done in zip(step[5], step[4], strict=True) if done
    ]
    assert {True, False} == set(ends), "the episodes must end in both ways, or nothing is tested"
    sample = rollout.evaluate(value_of, last, GAMMA, LAMBDA)
    advantages = sample.advantages.unflatten(1, (2, 12))
    for task in range(3):
        for copy, env in enumerate(np.flatnonzero(task_of_env == task)):
            expected = [advantage_slowly(history, last, env, task, step) for step in range(12)]
            torch.testing.assert_close(advantages[task, copy], torch.tensor(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sample.returns, sample.advantages + sample.values)


def test_a_rollout_hands_out_by_task_what_was_stored_by_environment():
    rollout, history, last, task_of_env = random_rollout()
    sample = rollout.evaluate(value_of, last, GAMMA, LAMBDA)
    for task in range(3):
        for copy, env in enumerate(np.flatnonzero(task_of_env == task)):
            for step in range(12):
                row = copy * 12 + step
                observations, actions, log_probabilities = history[step][:3]
                assert torch.equal(sample.states[task, row], torch.from_numpy(observations[env, :STATE]))
                assert torch.equal(sample.actions[task, row], actions[env])
                assert sample.log_probabilities[task, row] == log_probabilities[env]
                expected = value_of(sample.states[task, row][None, None], torch.tensor([task])).item()
                assert sample.values[task, row].item() == pytest.approx(expected, abs=1e-6)


def test_a_rollout_can_be_filled_again_and_remembers_nothing_of_the_first():
    rollout, _, last, _ = random_rollout(seed=1)
    rollout.restart()
    assert not rollout.full
    fresh, history, last, _ = random_rollout(seed=2)
    for step in history:
        rollout.add(*step)
    for found, expected in zip(
        rollout.evaluate(value_of, last, GAMMA, LAMBDA), fresh.evaluate(value_of, last, GAMMA, LAMBDA), strict=True
    ):
        assert torch.equal(found, expected)


def test_advantages_of_one_task_are_those_of_stable_baselines3():
    steps, envs = 20, 3
    rollout, history, last, _ = random_rollout(steps, tasks=1, copies=envs, seed=3)
    box = spaces.Box(-1, 1, (STATE,))
    theirs = RolloutBuffer(steps, box, spaces.Box(-1, 1, (ACTION,)), "cpu", LAMBDA, GAMMA, envs)
    starts = np.ones(envs)

    def values(observations):
        return value_of(torch.from_numpy(observations[None, :, :STATE]), torch.zeros(1, dtype=torch.long))[0]

    for observations, actions, log_probabilities, rewards, dones, infos in history:
        rewards = rewards.copy()
        for env, info in enumerate(infos):
            if info["TimeLimit.truncated"]:  # as OnPolicyAlgorithm.collect_rollouts does
                rewards[env] += GAMMA * values(info["terminal_observation"][None]).item()
        theirs.add(observations[:, :STATE], actions.numpy(), rewards, starts, values(observations), log_probabilities)
        starts = dones
    theirs.compute_returns_and_advantage(values(last), starts)
    sample = rollout.evaluate(value_of, last, GAMMA, LAMBDA)
    for name in ("advantages", "returns"):
        expected = torch.from_numpy(getattr(theirs, name)).T.flatten()
        torch.testing.assert_close(getattr(sample, name)[0], expected, rtol=1e-5, atol=1e-5)


def test_an_epoch_of_minibatches_shows_every_transition_of_every_task_once():
    rollout, _, last, _ = random_rollout()
    sample = rollout.evaluate(value_of, last, GAMMA, LAMBDA)
    order = permutations(3, 24, torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in order.tolist()}) == 3, "every task has an order of its own"
    batches = list(minibatches(sample, order, 10))
    assert [batch.returns.shape for batch in batches] == [(3, 10), (3, 10), (3, 4)]
    for name, whole in sample._asdict().items():
        shown = torch.cat([getattr(batch, name) for batch in batches], 1)
        for task in range(3):
            assert torch.equal(shown[task], whole[task, order[task]]), name


@pytest.mark.parametrize(("how", "dims"), [("per_task", 1), ("all", (0, 1))])
def test_normalised_advantages_have_mean_zero_and_variance_one(how, dims):
    advantages = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [10], [0.1], [5]]
    )
    found = normalised(advantages + 3.0, how)
    torch.testing.assert_close(found.mean(dims), torch.zeros_like(found.mean(dims)), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std(dims), torch.ones_like(found.std(dims)))


def test_equal_advantages_are_normalised_to_zero_and_none_leaves_them():
    advantages = torch.full((2, 5), 3.0)
    assert torch.equal(normalised(advantages, "per_task"), torch.zeros(2, 5))
    assert normalised(advantages, "none") is advantages
    with pytest.raises(ConfigurationError, match="per_task"):
        normalised(advantages, "per_tusk")


def test_explained_variance_is_one_for_perfect_values_and_zero_for_constant_ones():
    returns = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    values = returns.clone()
    values[1], returns[2] = 7.0, 1.0
    found = explained_variance(values, returns)
    assert found[0] == 1.0 and found[1] == pytest.approx(0.0, abs=1e-6) and found[2].isnan()


def test_tasks_with_unequal_numbers_of_environments_are_refused():
    with pytest.raises(ConfigurationError, match="between 1 and 2"):
        TaskRollout(4, STATE, ACTION, np.array([0, 0, 1]), "cpu")
    with pytest.raises(ConfigurationError, match="num_steps=0"):
        TaskRollout(0, STATE, ACTION, np.array([0, 1]), "cpu")
