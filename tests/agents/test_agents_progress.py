"""What is known of every task's progress: raw returns and successes of training episodes, and nothing else."""

import numpy as np
import pytest
import torch

from agents.progress import TaskProgress


def ended(task, value, success=0.0, tasks=2):
    """Dones and infos of a vector step at which one task's episode ended."""
    infos = [{} for _ in range(tasks)]
    infos[task] = {"episode": {"r": value}, "is_success": success}
    return np.arange(tasks) == task, infos


def after(values, task=0, random=0, **options):
    """The progress after episodes with these returns, the first of them made at random."""
    progress = TaskProgress(np.array([0, 1]), 2, **options)
    for index, value in enumerate(values):
        progress.observe(*ended(task, value, float(value > 5)), random_actions=index < random)
    return progress


def test_nothing_is_known_of_a_task_before_its_first_episode():
    progress = after([1.0])
    for values in (progress.returns, progress.successes, progress.random_returns, progress.best_returns):
        assert values[1].isnan() and not values[0].isnan()
    assert progress.episodes.tolist() == [1, 0]


def test_totals_are_sums_over_episodes_so_that_the_means_of_a_window_are_those_of_its_own():
    progress = after([2.0, 8.0])
    before = progress.totals
    for value in (1.0, 9.0, 6.0):
        progress.observe(*ended(0, value, float(value > 5)))
    returned, return_sum, judged, successes = (progress.totals - before)[:, 0].tolist()
    assert (returned, judged) == (3, 3) and return_sum / returned == pytest.approx(16 / 3) and successes == 2
    assert progress.totals[:, 1].tolist() == [0.0] * 4


def test_an_episode_that_no_rule_judges_counts_as_no_failure():
    progress = TaskProgress(np.array([0]), 1)
    dones, infos = np.array([True]), [{"is_success": False, "success_is_judged": False, "episode": {"r": 3.0}}]
    progress.observe(dones, infos)
    assert progress.totals.squeeze(1).tolist() == [1.0, 3.0, 0.0, 0.0]


def test_a_progress_saved_before_there_were_totals_continues_with_none():
    state = after([3.0]).state_dict()
    del state["by_task"]["return_sum"]
    progress = after([5.0])
    progress.load_state_dict(state)
    assert progress.totals[1].tolist() == [0.0, 0.0] and progress.episodes.tolist() == [1.0, 0.0]


def test_the_baseline_is_the_mean_of_the_random_episodes_or_else_the_first_episode():
    assert after([2.0, 4.0, 50.0, 60.0], random=2).random_returns[0].item() == pytest.approx(3.0)
    assert after([2.0, 4.0, 50.0, 60.0]).random_returns[0].item() == pytest.approx(2.0)


def test_the_best_is_the_highest_percentile_so_far_and_is_never_forgotten():
    best = after([10.0] * 20).best_returns[0].item()
    assert best == pytest.approx(10.0)
    assert after([10.0] * 20 + [0.0] * 40).best_returns[0].item() == pytest.approx(10.0)
    assert after([0.0] * 40 + [10.0]).best_returns[0].item() < 5  # one lucky episode is not what a task can reach


def test_a_restored_progress_continues_identically():
    first, second = after([3.0, 8.0, 1.0, 9.0], random=1), TaskProgress(np.array([0, 1]), 2)
    first.budget_used = 0.4
    second.load_state_dict(first.state_dict())
    for progress in (first, second):
        progress.observe(*ended(1, 4.0))
        progress.observe(*ended(0, 7.0, 1.0))
    for name in ("returns", "successes", "episodes", "totals", "random_returns", "best_returns"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert second.budget_used == 0.4


@pytest.mark.parametrize("reward_scale", ["none", "std", 0.01])
def test_returns_are_raw_whatever_scales_the_rewards(small_agent, reward_scale):
    agent = small_agent(learning_starts=10_000, reward_scale=reward_scale)
    agent.learn(4 * 60, log_interval=None)
    returned, return_sum = agent.progress.totals[:2]
    assert (return_sum / returned).tolist() == pytest.approx(agent.progress.returns.tolist(), rel=1e-5)
    assert agent.progress.returns[-1] > 50 * agent.progress.returns[0]  # the suite's rewards differ a hundredfold


def test_the_agent_tells_random_episodes_apart_and_how_much_of_the_budget_is_used(small_agent):
    agent = small_agent(learning_starts=4 * 100)
    agent.learn(4 * 200, log_interval=None)
    assert agent.progress.episodes.tolist() == [4, 4, 4, 4]
    assert agent.progress.budget_used == 1.0
    assert agent.progress._by_task["random_episodes"].tolist() == [2, 2, 2, 2]


def test_a_lost_step_is_no_episode():
    progress = after([1.0, 2.0])
    progress.observe(np.array([True, False]), [{"fault": "it broke", "TimeLimit.truncated": True}, {}])
    assert progress.episodes.tolist() == [2, 0]


def test_an_agent_that_learns_on_begins_with_what_is_left_of_the_larger_budget(small_agent):
    agent = small_agent(learning_rate=lambda left: left, gradient_steps=1)
    agent.learn(400, log_interval=None)
    assert agent.progress.budget_used == 1.0
    rates, train = [], agent.train

    def noted(*arguments):
        train(*arguments)
        rates.append(agent.actor_optimizer.param_groups[0]["lr"])

    agent.train = noted
    agent.learn(400, log_interval=None, reset_num_timesteps=False)
    assert rates[0] == pytest.approx(0.5) and rates[-1] < 0.01
