"""Meta-World: the tasks, spaces, goals and rewards are Meta-World's own; seeds and bounds are right."""

import pickle
from importlib import import_module

import numpy as np
import pytest

from envs import SuiteError, make_suite
from envs.metaworld import STATE_HIGH, STATE_LOW, MetaWorldTask
from envs.simulation import Simulation

# One of each way of placing things: rejection, one object, two objects, joints, targets that move with bodies.
REPRESENTATIVE = ["push-v3", "basketball-v3", "shelf-place-v3", "drawer-close-v3", "stick-pull-v3", "bin-picking-v3"]


def actions(steps, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (steps, 4)).astype(np.float32)


def test_the_benchmarks_have_their_official_tasks():
    env_dict = import_module("metaworld.env_dict")
    for name, official in (("mt10", env_dict.MT10_V3), ("mt25", env_dict.MT25_V3), ("mt50", env_dict.MT50_V3)):
        suite = make_suite(name)
        assert suite.task_names == tuple(official)
        assert suite.observation_space.shape == (39 + suite.num_tasks,)
        assert suite.horizon == 500 and suite.num_goals == 50


def test_scripted_experts_solve_every_mt10_task(vec_env):
    policies = import_module("metaworld.policies").ENV_POLICY_MAP
    env = vec_env(make_suite("mt10"), goal_order="sweep", stop_at_success=True)
    experts = [policies[task]() for task in env.task_names]
    observations, solved = env.reset(), [[] for _ in experts]
    while min(map(len, solved)) < 2:
        chosen = [expert.get_action(row[:39].astype(float)) for expert, row in zip(experts, observations, strict=True)]
        observations, _, dones, infos = env.step(np.clip(chosen, -1.0, 1.0).astype(np.float32))
        for k in np.flatnonzero(dones):
            solved[k].append(infos[k]["is_success"])
    assert all(all(episodes) for episodes in solved)


@pytest.mark.parametrize("task", REPRESENTATIVE)
def test_a_start_is_a_pure_function_of_its_goal(task):
    ours, other = MetaWorldTask(task, "v2", 0, 500), MetaWorldTask(task, "v2", 0, 500)
    start = ours.reset(7)
    fresh = [ours.step(action)[:2] for action in actions(10)]
    other.reset(3)
    for action in actions(20, seed=1):
        other.step(action)
    assert np.array_equal(other.reset(7), start)
    again = [other.step(action)[:2] for action in actions(10)]
    assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(fresh, again, strict=True))


@pytest.mark.parametrize("task", REPRESENTATIVE)
def test_an_episode_equals_the_official_one_with_the_same_goal_vector(task):
    metaworld = import_module("metaworld")
    env_cls = import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS[task]
    ours = MetaWorldTask(task, "v2", 0, 500)
    start = ours.reset(4)
    data = {"rand_vec": ours.target._last_rand_vec, "env_cls": env_cls, "partially_observable": False}
    official = env_cls()
    official.set_task(metaworld.Task(env_name=task, data=pickle.dumps(data)))
    assert np.array_equal(official.reset()[0], start)
    for action in actions(10):
        state, reward, _, _, info = official.step(action)
        mine = ours.step(action)
        assert np.array_equal(mine[0], state) and mine[1] == reward and mine[4] == bool(info["success"])


@pytest.mark.parametrize("task", REPRESENTATIVE)
def test_goals_lie_in_the_tasks_bounds_and_stay_put_during_an_episode(task):
    env = MetaWorldTask(task, "v2", 0, 500)
    vectors = []
    for goal in range(3):
        start = env.reset(goal)
        vectors.append(tuple(env.target._last_rand_vec))
        assert env.target._random_reset_space.contains(env.target._last_rand_vec)
        for action in actions(3):
            assert np.array_equal(env.step(action)[0][-3:], start[-3:])
        assert np.array_equal(start[-3:], env.target._target_pos)
    assert len(set(vectors)) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_suites_share_the_goals_of_a_task_and_the_seed_decides_them(seed):
    goal = MetaWorldTask("push-v3", "v2", seed, 500).reset(5)
    assert np.array_equal(MetaWorldTask("push-v3", "v2", seed, 500).reset(5), goal)
    assert not np.array_equal(MetaWorldTask("push-v3", "v2", seed + 1, 500).reset(5), goal)


def test_the_space_contains_what_reset_and_step_return(vec_env, random_actions):
    env = vec_env(make_suite("metaworld", tasks=REPRESENTATIVE))
    assert env.observation_space.dtype == np.float32
    space = env.observation_space
    assert all(space.contains(row) for row in env.reset())
    for action in random_actions(env, 20):
        assert all(space.contains(row) for row in env.step(action)[0])


def test_the_goal_bounds_are_the_union_of_the_tasks_goal_spaces():
    env_dict = import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS
    # Loading all fifty models takes seconds: the first two reach every bound between them, and none may leave them.
    spaces = [env_dict[task]().goal_space for task in ("door-lock-v3", "sweep-v3", "soccer-v3", "stick-pull-v3")]
    assert np.array_equal(np.min([space.low for space in spaces], axis=0), STATE_LOW[-3:])
    assert np.array_equal(np.max([space.high for space in spaces], axis=0), STATE_HIGH[-3:])


def test_workers_give_the_very_same_numbers(reach_and_push, vec_env, random_actions):
    suite = reach_and_push(horizon=12)
    here, there = vec_env(suite), vec_env(suite, workers=2)
    assert np.array_equal(here.reset(), there.reset())
    for action in random_actions(here, 30):
        ours, theirs = here.step(action), there.step(action)
        assert all(np.array_equal(a, b) for a, b in zip(ours[:3], theirs[:3], strict=True))


def test_copies_share_the_goals_of_their_task_but_not_their_order(reach_and_push, vec_env):
    env = vec_env(reach_and_push(horizon=1, num_goals=5), copies=2)
    starts, orders = [{} for _ in range(2)], [[] for _ in range(4)]
    for _ in range(8):
        for i, row in enumerate(env.reset()):
            goal = env.reset_infos[i]["goal"]
            orders[i].append(goal)
            assert starts[i % 2].setdefault(goal, row.tobytes()) == row.tobytes()
    assert len({tuple(order) for order in orders}) == 4


def test_training_and_evaluation_see_the_same_goals(reach_and_push, vec_env):
    suite = reach_and_push(horizon=1, num_goals=4)
    sweep, training = vec_env(suite, goal_order="sweep"), vec_env(suite)
    by_goal = {}
    rows = sweep.reset()
    for _ in range(4):
        for i, row in enumerate(rows):
            by_goal[i, sweep.reset_infos[i]["goal"]] = row
        rows = sweep.step(np.zeros((2, 4), np.float32))[0]
    assert len(by_goal) == 8
    for _ in range(5):
        for i, row in enumerate(training.reset()):
            assert np.array_equal(by_goal[i, training.reset_infos[i]["goal"]], row)


def test_the_horizon_cuts_the_episode_and_500_is_the_simulators_own(reach_and_push, vec_env):
    env = vec_env(reach_and_push(horizon=3), horizon=500)
    assert env.horizon == 500
    env.reset()
    for step in range(500):
        _, _, dones, infos = env.step(np.zeros((2, 4), np.float32))
        assert dones.all() == (step == 499)
    assert infos[0]["TimeLimit.truncated"] and infos[0]["episode"]["l"] == 500


def test_both_reward_versions_are_the_simulators_own(reach_and_push, vec_env):
    rewards = {}
    for version in ("v1", "v2"):
        env = vec_env(reach_and_push(reward_version=version))
        env.reset()
        rewards[version] = env.step(np.zeros((2, 4), np.float32))[1]
        assert env.get_attr("reward_function_version") == [version] * 2
    assert (rewards["v2"] <= 10).all() and not np.allclose(rewards["v1"], rewards["v2"])


def test_the_protocol_says_what_a_number_depends_on(reach_and_push):
    protocol = reach_and_push(reward_version="v1", horizon=200, num_goals=0).protocol
    assert protocol["reward_version"] == "v1" and protocol["horizon"] == 200 and protocol["num_goals"] == 0
    assert protocol["versions"]["metaworld"] and protocol["versions"]["mujoco"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mt11", {}, "unknown suite 'mt11'; did you mean 'mt10'"),
        ("metaworld", {"tasks": ["reach"]}, "unknown task 'reach'; did you mean 'reach-v3'"),
        ("metaworld", {"tasks": ["reach-v2"]}, "unknown task 'reach-v2'; did you mean 'reach-v3'"),
        ("metaworld", {"tasks": ["reach-v3", "reach-v3"]}, "'reach-v3' is listed twice"),
        ("metaworld", {"tasks": []}, "at least one task"),
        ("metaworld", {"tasks": "reach-v3"}, "must be a list"),
        ("metaworld", {}, "needs tasks="),
        ("mt10", {"tasks": ["reach-v3"]}, "use suite 'metaworld'"),
        ("mt10", {"horizon": 501}, "at most 500.*found 501"),
        ("mt10", {"horizon": -1}, "at least 1, found -1"),
        ("mt10", {"reward_version": "v3"}, "'v2' or 'v1', found 'v3'"),
        ("mt10", {"num_goals": -1}, "at least 0, found -1"),
        ("mt10", {"horizn": 100}, "no option 'horizn'; did you mean 'horizon'"),
    ],
)
def test_bad_input_gets_one_sentence(name, options, words):
    with pytest.raises(SuiteError, match=words) as caught:
        make_suite(name, **options)
    assert "\n" not in str(caught.value)


def test_a_longer_episode_than_the_simulators_is_refused(reach_and_push):
    with pytest.raises(SuiteError, match="at most 500"):
        reach_and_push().make_vec_env(seed=0, horizon=600)


def test_the_target_return_is_the_highest_reward_at_every_step():
    assert make_suite("mt10").target_returns(Simulation(0, horizon=200)).tolist() == [2000.0] * 10
    assert np.isnan(make_suite("mt10", reward_version="v1").target_returns(Simulation(0))).all()
