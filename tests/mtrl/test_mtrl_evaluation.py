"""Success is counted as the protocol says, and as Stable-Baselines3 counts it."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy

from envs import make_suite
from mtrl import MTSAC, evaluate, make_env
from mtrl.datasets import MetaWorldExperts
from mtrl.errors import ConfigError
from mtrl.evaluation import EvaluationResult, wilson_interval


class Towards:
    """Moves every point straight at the target of the task that its one-hot names; the last task it leaves alone."""

    def __init__(self, num_tasks: int, idle: int | None = None) -> None:
        angles = 2 * np.pi * np.arange(num_tasks) / num_tasks
        self.targets = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.idle = idle

    def predict(self, observation: Any, *, deterministic: bool = True, **_: Any) -> tuple[np.ndarray, None]:
        tasks = observation[:, 2:].argmax(axis=1)
        actions = np.clip(20 * (self.targets[tasks] - observation[:, :2]), -1, 1)
        actions[tasks == self.idle] = 0
        return actions.astype(np.float32), None


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_equal_the_published_table(successes: int, episodes: int, low: float, high: float) -> None:
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=5e-5)


def test_wilson_intervals_are_the_roots_of_the_score_equation() -> None:
    z, episodes = 1.959963984540054, 50
    for successes in range(1, episodes):
        for p in wilson_interval(successes, episodes):
            score = (successes / episodes - p) / math.sqrt(p * (1 - p) / episodes)
            assert abs(score) == pytest.approx(z, rel=1e-9)


@pytest.mark.parametrize(("successes", "episodes"), [(3, 2), (-1, 2), (0, 0)])
def test_wilson_refuses_impossible_counts(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError, match=f"found {successes} of {episodes}"):
        wilson_interval(successes, episodes)


def test_a_policy_that_goes_to_the_target_succeeds_and_one_that_stands_still_does_not() -> None:
    suite = make_suite("pointmass")
    result = evaluate(Towards(4, idle=2), suite, episodes=10, seed=3)
    assert result.task_success == {"point-0": 1.0, "point-1": 1.0, "point-2": 0.0, "point-3": 1.0}
    assert result.success_rate == 0.75
    frame = result.to_frame()
    assert frame.loc["mean", "success"] == 0.75
    assert frame.loc["mean", "episodes"] == 40
    assert tuple(frame.loc["point-2", ["low", "high"]]) == pytest.approx(wilson_interval(0, 10))


@pytest.mark.parametrize("copies", [1, 3, 50])
def test_fifty_episodes_visit_each_of_fifty_goals_once(copies: int) -> None:
    result = evaluate(Towards(4), make_suite("pointmass"), episodes=50, copies=copies, stop_at_success=True)
    assert result.success.shape == (4, 50)
    for goals in result.goals:
        assert sorted(goals) == list(range(50))


def test_the_seed_fixes_the_goals_whatever_the_copies() -> None:
    suite = make_suite("pointmass")
    returns = [
        np.sort(evaluate(Towards(4), suite, episodes=50, seed=seed, copies=copies).returns, axis=1)
        for seed, copies in ((1, 1), (1, 4), (2, 1))
    ]
    assert np.allclose(returns[0], returns[1], rtol=1e-5)
    assert not np.allclose(returns[0], returns[2], rtol=1e-3)


def test_a_given_environment_starts_its_sweep_again_at_every_evaluation() -> None:
    env = make_suite("pointmass").make_vec_env(seed=1, copies=2, goal_order="sweep")
    first, second = (evaluate(Towards(4), env, episodes=5) for _ in range(2))
    assert np.array_equal(first.returns, second.returns)


def test_success_at_the_last_step_is_not_reported_of_episodes_that_stop_at_their_first_success() -> None:
    suite = make_suite("pointmass")
    whole = evaluate(Towards(4), suite, episodes=4)
    cut = evaluate(Towards(4), suite, episodes=4, stop_at_success=True)
    assert whole.success_at_end is not None
    assert whole.success_at_end.all()
    assert cut.success_at_end is None
    assert (cut.lengths < whole.lengths).all()


def test_an_episode_that_a_fault_cut_off_is_not_counted() -> None:
    class BreaksOnce(gymnasium.Env):  # type: ignore[type-arg]
        observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        steps = 0

        def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(2, np.float32), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            BreaksOnce.steps += 1
            if BreaksOnce.steps == 7:
                raise RuntimeError("it broke")
            return np.zeros(2, np.float32), 1.0, False, False, {"success": True}

    env = make_suite("gym", tasks={"one": BreaksOnce}, horizon=5).make_vec_env(seed=0, max_restarts=1)
    result = evaluate(Towards(2), env, episodes=3)
    assert result.lengths.tolist() == [[5, 5, 5]] and BreaksOnce.steps == 17
    env.close()


def test_no_episodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        evaluate(Towards(4), make_suite("pointmass"), episodes=0)


def test_success_at_any_step_is_not_success_at_the_last_step() -> None:
    flags = np.array([[True, True], [False, True]])
    ends = np.array([[False, True], [False, False]])
    zeros = np.zeros((2, 2))
    frame = EvaluationResult(("a", "b"), flags, ends, zeros, zeros, zeros).to_frame()
    assert list(frame["success"]) == [1.0, 0.5, 0.75]
    assert list(frame["success_at_end"]) == [0.5, 0.0, 0.25]


def _agent() -> MTSAC:
    return MTSAC("MultiTaskPolicy", make_env("pointmass", seed=1), policy_kwargs={"hidden_sizes": [8]}, seed=1)


def test_sb3_evaluate_policy_finds_the_same_returns_as_our_evaluator() -> None:
    model = _agent()
    env = make_suite("pointmass", horizon=10).make_vec_env(seed=1, goal_order="sweep")
    ours = evaluate(model, env, episodes=5)
    theirs, lengths = evaluate_policy(model, env, n_eval_episodes=20, return_episode_rewards=True)
    assert sorted(theirs) == pytest.approx(sorted(ours.returns.ravel()), rel=1e-4)
    assert set(lengths) == {10}


def test_sb3_eval_callback_finds_the_same_success_rate_as_our_evaluator() -> None:
    model = _agent()
    env = make_suite("pointmass", horizon=5, difficulty=0.0).make_vec_env(seed=1, goal_order="sweep")
    callback = EvalCallback(env, n_eval_episodes=8, eval_freq=1, verbose=0)
    model.learn(4, callback=callback, log_interval=None)
    ours = evaluate(model, env, episodes=2)
    assert callback.last_mean_reward == pytest.approx(ours.returns.mean(), rel=1e-4)
    assert np.mean(callback._is_success_buffer) == ours.success_rate


def test_scripted_experts_solve_every_mt10_task() -> None:
    # Three goals each: over many goals, the expert of peg-insert-side misses about one in ten.
    suite = make_suite("mt10")
    result = evaluate(MetaWorldExperts(suite.task_names), suite, 3, seed=1, copies=1, workers=2, stop_at_success=True)
    assert result.task_success == dict.fromkeys(suite.task_names, 1.0)
