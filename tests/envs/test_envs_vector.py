"""The vector keeps Stable-Baselines3's VecEnv contract, with and without worker processes."""

import gc
import json

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from envs import MultiTaskVecEnv, SuiteError, make_suite

both_modes = pytest.mark.parametrize("workers", [0, 2])


def zeros(env):
    return np.zeros((env.num_envs, *env.action_space.shape), np.float32)


@both_modes
def test_observations_rewards_and_dones_have_the_promised_shapes(counters, vec_env, workers):
    env = vec_env(counters(), copies=3, workers=workers)
    assert isinstance(env, MultiTaskVecEnv) and isinstance(env, VecEnv)
    observations = env.reset()
    assert observations.shape == (6, 4 + 2) and observations.dtype == np.float32
    observations, rewards, dones, infos = env.step(zeros(env))
    assert observations.shape == (6, 6) and observations.dtype == np.float32
    assert rewards.shape == (6,) and rewards.dtype == np.float32
    assert dones.shape == (6,) and dones.dtype == np.bool_ and len(infos) == 6
    assert all(env.observation_space.contains(row) for row in observations)


@both_modes
def test_the_one_hot_names_the_task_of_each_environment(counters, vec_env, workers):
    env = vec_env(counters(), copies=2, workers=workers)
    assert env.task_of_env.tolist() == [0, 1, 0, 1]
    for observations in (env.reset(), env.step(zeros(env))[0]):
        assert observations[:, -2:].argmax(axis=1).tolist() == env.task_of_env.tolist()
        assert observations[:, -2:].sum() == 4


def test_a_smaller_state_is_padded_with_zeros(counters, vec_env):
    env = vec_env(counters())
    env.reset()
    observations = env.step(zeros(env))[0]
    assert observations[0, 1] == 1.0  # the state of three numbers
    assert observations[0, 3] == 0.0  # what fills it up to four


@both_modes
def test_a_time_out_is_not_a_terminal_state(counters, vec_env, workers):
    env = vec_env(counters(ends_at=4), workers=workers)
    env.reset()
    for _ in range(4):
        observations, _, dones, infos = env.step(zeros(env))
    assert dones.tolist() == [False, True]
    assert infos[1]["TimeLimit.truncated"] is False
    assert infos[1]["terminal_observation"][1] == 4.0  # the last state of the episode that ended
    assert observations[1, 1] == 0.0  # the first of the next
    for _ in range(6):
        observations, _, dones, infos = env.step(zeros(env))
    assert dones[0] and infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["terminal_observation"].shape == (6,) and infos[0]["terminal_observation"][1] == 10.0


def test_an_end_at_the_last_step_that_is_terminal_is_not_a_time_out(counters, vec_env):
    env = vec_env(counters(ends_at=10))
    env.reset()
    for _ in range(10):
        _, _, dones, infos = env.step(zeros(env))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False]


@both_modes
def test_success_at_any_step_counts_and_success_at_the_end_is_told_apart(counters, vec_env, workers):
    env = vec_env(counters(), workers=workers)
    env.reset()
    seen = [env.step(zeros(env))[3] for _ in range(10)]
    assert [infos[0]["success"] for infos in seen] == [step == 2 for step in range(10)]
    assert seen[-1][0]["is_success"] is True and seen[-1][0]["success_at_end"] is False
    assert "is_success" not in seen[-2][0]
    # The next episode starts with a clean slate.
    assert env.step(zeros(env))[3][0]["success"] is False


def test_episode_statistics_are_those_of_sb3s_monitor(counters, vec_env):
    env = vec_env(counters())
    env.reset()
    for _ in range(10):
        infos = env.step(zeros(env))[3]
    assert infos[0]["episode"]["r"] == sum(range(1, 11)) and infos[0]["episode"]["l"] == 10
    assert infos[0]["episode"]["t"] > 0


def test_stopping_at_success_cuts_the_episode_short_without_calling_it_terminal(counters, vec_env):
    env = vec_env(counters(), stop_at_success=True)
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(zeros(env))
    assert dones.all() and infos[0]["TimeLimit.truncated"] and infos[0]["is_success"]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_do_exactly_what_one_process_does(counters, vec_env, random_actions, workers):
    suite = counters(ends_at=7)
    here, there = vec_env(suite, copies=2), vec_env(suite, copies=2, workers=workers)
    assert np.array_equal(here.reset(), there.reset())
    for actions in random_actions(here, 25):
        ours, theirs = here.step(actions), there.step(actions)
        for mine, other in zip(ours[:3], theirs[:3], strict=True):
            assert np.array_equal(mine, other)
        for mine, other in zip(ours[3], theirs[3], strict=True):
            assert mine["success"] == other["success"] and mine.get("goal") == other.get("goal")
            assert np.array_equal(mine.get("terminal_observation"), other.get("terminal_observation"))


def test_what_was_returned_does_not_change_with_the_next_step(counters, vec_env):
    env = vec_env(counters(), workers=1)
    first = env.reset()
    kept = first.copy()
    env.step(zeros(env))
    assert np.array_equal(first, kept)


def test_one_number_fixes_everything_and_another_changes_it(counters, vec_env):
    suite = counters()
    first, same, other = (vec_env(suite, seed=seed, copies=2).reset() for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_reseeding_restarts_the_order_of_goals_but_keeps_the_goals(counters, vec_env):
    env, goals_of = vec_env(counters(num_goals=3)), {}
    for seed in (5, 6, 5):
        assert env.seed(seed) == [seed, seed]
        starts = []
        for _ in range(6):
            start = env.reset()[0, 0]
            goal = env.reset_infos[0]["goal"]
            assert goals_of.setdefault(goal, start) == start  # a goal is the same whatever the order
            starts.append(goal)
        if seed == 5:
            assert goals_of.setdefault("order", starts) == starts


@both_modes
def test_a_saved_state_resumes_the_goal_streams_exactly(counters, vec_env, random_actions, workers):
    suite = counters()
    env = vec_env(suite, copies=2, workers=workers)
    env.reset()
    for actions in random_actions(env, 10):
        observations = env.step(actions)[0]
    saved = json.loads(json.dumps(env.state_dict()))
    other = vec_env(suite, copies=2, workers=workers)
    assert np.array_equal(other.load_state_dict(saved), observations)
    for actions in random_actions(env, 25, seed=1):
        ours, theirs = env.step(actions), other.step(actions)
        assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])


def test_a_state_of_other_tasks_is_refused(counters, vec_env):
    state = vec_env(make_suite("pointmass")).state_dict()
    with pytest.raises(SuiteError, match="point-0"):
        vec_env(counters()).load_state_dict(state)


@both_modes
def test_attributes_and_methods_reach_the_simulators(counters, vec_env, workers):
    env = vec_env(counters(), copies=2, workers=workers)
    env.reset()
    assert env.get_attr("count") == [0, 0, 0, 0]
    env.set_attr("count", 7, indices=[1, 2])
    assert env.get_attr("count") == [0, 7, 7, 0]
    assert env.get_attr("count", indices=3) == [0]
    assert env.env_method("get_wrapper_attr", "count", indices=[2]) == [7]
    assert not env.has_attr("no_such_thing") and env.has_attr("count")
    assert env.env_is_wrapped(Monitor) == [True] * 4


@both_modes
def test_images_come_in_the_order_of_the_environments(counters, vec_env, workers):
    env = vec_env(counters(), workers=workers, render_mode="rgb_array")
    env.reset()
    env.set_attr("count", 9, indices=1)
    assert [image[0, 0, 0] for image in env.get_images()] == [0, 9]
    assert env.render().shape[-1] == 3


def test_images_without_a_render_mode_are_refused(counters, vec_env):
    with pytest.raises(SuiteError, match="render_mode='rgb_array'"):
        vec_env(counters()).get_images()


@both_modes
def test_a_reset_during_a_step_abandons_the_step(counters, vec_env, workers):
    env = vec_env(counters(), workers=workers)
    env.reset()
    env.step_async(zeros(env))
    assert env.reset()[:, 1].tolist() == [0.0, 0.0]
    assert env.step(zeros(env))[0][:, 1].tolist() == [1.0, 1.0]


def test_steps_out_of_order_are_refused(counters, vec_env):
    env = vec_env(counters())
    env.reset()
    with pytest.raises(RuntimeError, match="without step_async"):
        env.step_wait()
    env.step_async(zeros(env))
    with pytest.raises(RuntimeError, match="twice"):
        env.step_async(zeros(env))
    with pytest.raises(RuntimeError, match="call step_wait first"):
        env.get_attr("count")


def test_actions_of_a_wrong_shape_or_not_finite_are_refused_by_name(counters, vec_env):
    env = vec_env(counters())
    env.reset()
    with pytest.raises(SuiteError, match=r"shape \(2, 2\), found \(2,\)"):
        env.step(np.zeros(2))
    with pytest.raises(SuiteError, match="'two'.*nan"):
        env.step(np.array([[0.0, 0.0], [0.0, np.nan]]))


def test_a_closed_vector_says_so(counters, vec_env):
    env = vec_env(counters(), workers=1)
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("seed", -1, "at least 0, found -1"),
        ("seed", 1.5, "found 1.5"),
        ("copies", 0, "at least 1, found 0"),
        ("workers", -2, "at least 0, found -2"),
        ("horizon", 0, "at least 1, found 0"),
        ("goal_order", "swep", "'random' or 'sweep', found 'swep'"),
        ("render_mode", "human", "found 'human'"),
        ("worker_timeout", 0, "positive"),
    ],
)
def test_arguments_out_of_range_are_refused_with_the_value(counters, argument, value, words):
    with pytest.raises(SuiteError, match=words):
        counters().make_vec_env(**{"seed": 0, argument: value})


def test_sb3_evaluates_and_trains_on_it_as_it_is(vec_env, recwarn):
    env = vec_env(make_suite("pointmass"), copies=1)
    model = SAC("MlpPolicy", env, learning_starts=20, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    model.learn(60)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True, warn=True)
    assert len(returns) == 4 and set(lengths) == {50}
    assert not [warning for warning in recwarn if "Monitor" in str(warning.message)]


def test_garbage_collection_ends_the_workers(counters):
    env = counters().make_vec_env(seed=0, workers=2)
    processes = [worker.process for worker in env._backend._workers]
    del env
    gc.collect()
    assert all(process.poll() is not None for process in processes)


def test_a_state_saved_before_the_first_reset_begins_with_the_first_episode(counters, vec_env):
    env, other = (vec_env(counters(), seed=3) for _ in range(2))
    assert np.array_equal(other.load_state_dict(env.state_dict()), env.reset())


def test_a_state_is_not_saved_in_the_middle_of_a_step(counters, vec_env):
    env = vec_env(counters())
    env.reset()
    env.step_async(zeros(env))
    with pytest.raises(RuntimeError, match="call step_wait first"):
        env.state_dict()


@both_modes
def test_simulators_that_cannot_be_saved_are_restorable_at_the_start_of_their_episodes_only(counters, vec_env, workers):
    env, other = (vec_env(counters(), copies=2, workers=workers, horizon=5) for _ in range(2))
    assert not env.restorable
    env.reset()
    seen = [env.restorable]
    for _ in range(5):
        env.step(zeros(env))
        seen.append(env.restorable)
    assert seen == [True, False, False, False, False, True]
    env.step(zeros(env))
    other.load_state_dict(env.state_dict())
    assert other.restorable and not env.restorable  # its episodes have begun again


def test_a_seed_that_waits_for_a_reset_is_forgotten_when_a_state_is_loaded(counters, vec_env):
    env, other = vec_env(counters(), seed=3), vec_env(counters(), seed=3)
    env.seed(9)
    env.reset()
    other.seed(9)
    other.load_state_dict(env.state_dict())
    for _ in range(3):
        env.reset(), other.reset()
        assert env.reset_infos == other.reset_infos
