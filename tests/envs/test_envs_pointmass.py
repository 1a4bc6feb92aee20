"""The point-mass toy: deterministic, solvable, and in conflict with itself by construction."""

import json

import numpy as np
import pytest

from envs import SuiteError, make_suite


def toward(env, targets):
    """The optimal action of each environment, to walk straight to its target."""

    def act(observations):
        return np.clip((targets[env.task_of_env] - observations[:, :2]) * 10.0, -1.0, 1.0).astype(np.float32)

    return act


def test_walking_to_the_target_solves_every_task_and_the_opposite_task_never(vec_env):
    suite = make_suite("pointmass")
    for targets, expected in ((suite.targets, True), (np.roll(suite.targets, 2, axis=0), False)):
        env = vec_env(suite, copies=2)
        act, observations = toward(env, targets), env.reset()
        for _ in range(suite.horizon):
            observations, _, dones, infos = env.step(act(observations))
        assert dones.all() and [info["is_success"] for info in infos] == [expected] * 8


def test_opposite_tasks_want_opposite_actions_at_the_origin():
    targets = make_suite("pointmass", num_tasks=6).targets
    assert np.allclose(targets[:3], -targets[3:])


def test_rewards_are_spread_by_the_asked_factor(vec_env):
    for spread in (1.0, 100.0):
        env = vec_env(make_suite("pointmass", reward_scale_spread=spread))
        env.reset()
        env.set_attr("positions", np.zeros((4, 2)))
        rewards = env.step(np.zeros((4, 2), np.float32))[1]
        assert rewards.max() / rewards.min() == pytest.approx(spread, rel=1e-5)


def test_difficulty_slows_the_task_with_the_smallest_rewards():
    suite = make_suite("pointmass", difficulty=1.0)
    assert suite.speeds.argmin() == suite.scales.argmin() == suite.radii.argmin() == 0
    assert suite.speeds[-1] == 1.0


def test_one_seed_gives_one_run(vec_env, random_actions):
    runs = []
    for seed in (0, 0, 1):
        env = vec_env(make_suite("pointmass"), seed=seed, copies=2)
        runs.append([env.reset(), *(env.step(action)[0] for action in random_actions(env, 60))])
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_the_space_contains_even_the_corners_of_the_arena(vec_env):
    env = vec_env(make_suite("pointmass"))
    env.reset()
    for _ in range(40):
        observations = env.step(np.ones((4, 2), np.float32))[0]
    assert all(env.observation_space.contains(row) for row in observations)


def test_stopping_at_success_ends_only_the_episodes_that_succeed(vec_env):
    suite = make_suite("pointmass")
    env = vec_env(suite, stop_at_success=True)
    act, observations = toward(env, suite.targets), env.reset()
    lengths = {}
    for _ in range(20):
        actions = act(observations)
        actions[0] = 0.0  # task 0 stays where it is
        observations, _, dones, infos = env.step(actions)
        lengths.update({i: infos[i]["episode"]["l"] for i in np.flatnonzero(dones)})
    assert set(lengths) == {1, 2, 3} and max(lengths.values()) < 20


def test_images_show_the_arena(vec_env):
    env = vec_env(make_suite("pointmass"), render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (192, 192, 3)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("num_tasks", 0, "at least 1, found 0"),
        ("horizon", -5, "at least 1, found -5"),
        ("reward_scale_spread", 0.5, "at least 1, found 0.5"),
        ("reward_scale_spread", float("nan"), "found nan"),
        ("difficulty", 2, "from 0 to 1, found 2"),
        ("difficulty", "hard", "from 0 to 1, found 'hard'"),
        ("reward_scale_spread", "wide", "at least 1, found 'wide'"),
    ],
)
def test_options_out_of_range_are_refused(option, value, words):
    with pytest.raises(SuiteError, match=words):
        make_suite("pointmass", **{option: value})


@pytest.mark.parametrize("steps", [0, 7, 13, 20])
def test_the_points_are_saved_whole_at_any_step(vec_env, steps):
    suite = make_suite("pointmass", horizon=10)
    env, other = vec_env(suite, copies=2), vec_env(suite, copies=2, stop_at_success=False)
    observations, generator = env.reset(), np.random.default_rng(0)
    for _ in range(steps):
        observations = env.step(generator.uniform(-1, 1, (8, 2)).astype(np.float32))[0]
    assert env.restorable
    assert np.array_equal(other.load_state_dict(json.loads(json.dumps(env.state_dict()))), observations)
    for _ in range(25):
        actions = generator.uniform(-1, 1, (8, 2)).astype(np.float32)
        (*ours, our_infos), (*theirs, their_infos) = env.step(actions), other.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        for info in (*our_infos, *their_infos):
            info.get("episode", {}).pop("t", None)
        assert str(our_infos) == str(their_infos)


def test_the_target_return_is_that_of_the_straight_way(vec_env):
    suite = make_suite("pointmass", horizon=20, difficulty=0.5)
    env = vec_env(suite, copies=10)
    act, observations, returns = toward(env, suite.targets), env.reset(), np.zeros(40)
    for _ in range(suite.horizon):
        observations, rewards, _, _ = env.step(act(observations))
        returns += rewards
    means = returns.reshape(10, 4).mean(0)  # starts are spread around the origin
    assert np.abs(means / env.target_returns - 1).max() < 0.1
    assert np.isnan(suite.make_vec_env(seed=0, stop_at_success=True).target_returns).all()
