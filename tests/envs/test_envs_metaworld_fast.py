"""The fast Meta-World returns the stock one's numbers to the bit, and steps aside where that was never shown.

``METAWORLD_EQUALITY=full make test-all`` takes the whole comparison: 3 seeds of 500 random and 500 expert steps of all
tasks.
"""

import gc
import os
import warnings
import weakref
from importlib import import_module

import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3
from metaworld.policies import ENV_POLICY_MAP
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from envs import metaworld, metaworld_fast
from envs.metaworld import MetaWorldTask
from envs.metaworld_arithmetic import MatrixRotation, norm, rect_prism_tolerance, substitutes, tolerance
from tests.grids import grid

FULL = os.environ.get("METAWORLD_EQUALITY") == "full"
SEEDS, STEPS = ((1, 2, 3), {"random": 500, "expert": 500}) if FULL else ((1,), {"random": 30, "expert": 60})


def bits(value):
    """What must agree of a number or an array: its type and every bit."""
    array = np.asarray(value)
    return type(value), array.dtype, array.shape, array.tobytes()


def outcome(state, reward, terminated, truncated, info):
    return bits(state), bits(reward), terminated, truncated, {name: bits(value) for name, value in info.items()}


def act(kind, rng, policy, state):
    action = rng.uniform(-1.0, 1.0, 4) if kind == "random" else np.clip(policy.get_action(state), -1.0, 1.0)
    return action.astype(np.float32)


def placement(env):
    """All that an episode begins with: what the simulator integrates, and what a task moves in its model."""
    model, data = env.target.model, env.target.data
    state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return [array.tobytes() for array in (state, model.body_pos, model.site_pos, model.geom_pos, env.target.init_tcp)]


def assert_episode_is_equal(fast, stock, goal, kind, steps):
    rng, policy = np.random.default_rng(goal), ENV_POLICY_MAP[stock.task]()
    state = stock.reset(goal)
    assert bits(fast.reset(goal)) == bits(state) and placement(fast) == placement(stock)
    for step in range(steps):
        action = act(kind, rng, policy, state)
        # Of the simulators themselves, so that all of info is compared and not only what training uses.
        state, *rest = stock.target.step(action)
        assert outcome(*fast.target.step(action)) == outcome(state, *rest), f"{kind} step {step} of goal {goal}"


@pytest.mark.filterwarnings("ignore:Constant.s. may be too high")  # of Meta-World's experts; it clips their actions
@pytest.mark.parametrize("reward_version", ["v2", "v1"])
@grid("task", ALL_V3_ENVIRONMENTS, always=MT10_V3)
def test_every_bit_of_every_step_is_the_stock_environments(task, reward_version):
    if reward_version == "v1" and not FULL:
        seeds, steps = SEEDS, {"expert": 15}
    else:
        seeds, steps = SEEDS, STEPS
    for seed in seeds:
        fast, stock = (MetaWorldTask(task, reward_version, seed, 500, fast=choice) for choice in (True, False))
        assert isinstance(fast.target, metaworld_fast.FastSteps) and type(stock.target) is ALL_V3_ENVIRONMENTS[task]
        for goal, kind in enumerate(steps):
            assert_episode_is_equal(fast, stock, goal, kind, steps[kind])
        for env in (fast, stock):
            env.close()
    gc.collect()  # a simulator is a cycle of objects, and a hundred of them are gigabytes


def test_the_vector_gives_the_same_numbers_fast_or_not(reach_and_push, vec_env, random_actions):
    fast, stock = vec_env(reach_and_push(horizon=12)), vec_env(reach_and_push(horizon=12, fast=False))
    assert np.array_equal(fast.reset(), stock.reset())
    for action in random_actions(fast, 30):
        ours, theirs = fast.step(action), stock.step(action)
        assert all(np.array_equal(a, b) for a, b in zip(ours[:3], theirs[:3], strict=True))


def test_fast_is_the_default_and_no_part_of_the_protocol(reach_and_push, vec_env):
    for options, choice in (({}, True), ({"fast": False}, False)):
        env = vec_env(reach_and_push(**options))
        assert [issubclass(cls, metaworld_fast.FastSteps) for cls in env.get_attr("__class__")] == [choice] * 2
    assert reach_and_push().protocol == reach_and_push(fast=False).protocol


def test_other_versions_take_the_stock_environments_and_say_so_once(monkeypatch, reach_and_push, vec_env):
    monkeypatch.setitem(metaworld.FAST_VERIFIED, "mujoco", "3.2.9")
    metaworld._fast_is_verified.cache_clear()
    try:
        with pytest.warns(UserWarning, match="for metaworld 3.1.1 and mujoco 3.2.9, found metaworld .* mujoco 3.3.0"):
            suite = reach_and_push()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reach_and_push()
    finally:
        metaworld._fast_is_verified.cache_clear()
    for workers in (0, 1):
        classes = vec_env(suite, workers=workers).get_attr("__class__")
        assert [cls.__module__.split(".")[0] for cls in classes] == ["metaworld", "metaworld"]


def test_the_stock_classes_and_modules_stay_as_they_are():
    stock = ALL_V3_ENVIRONMENTS["push-v3"]
    module, members = import_module(stock.__module__), {cls: dict(vars(cls)) for cls in (SawyerXYZEnv, stock)}
    names, rewards = dict(vars(module)), dict(vars(reward_utils))
    metaworld_fast.fast_class.cache_clear()
    env = MetaWorldTask("push-v3", "v2", 0, 500)
    env.reset(0)
    env.step(np.zeros(4, np.float32))
    assert type(env.target) is not stock and isinstance(env.target, stock)
    assert dict(vars(module)) == names and dict(vars(reward_utils)) == rewards
    assert module.np is np and np.linalg.norm is not norm
    assert all(dict(vars(cls)) == before for cls, before in members.items())


def test_stepping_too_far_is_refused_as_the_stock_environment_does():
    env = MetaWorldTask("reach-v3", "v2", 0, 500)
    env.reset(0)
    env.target.curr_path_length = 500
    with pytest.raises(ValueError, match="reset the env manually"):
        env.step(np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("ours", "original", "arguments"),
    [
        (norm, np.linalg.norm, ([3.0, 4.0],)),
        (norm, np.linalg.norm, (np.float64(-2.0),)),
        (norm, np.linalg.norm, (np.arange(6.0).reshape(2, 3),)),
        (norm, np.linalg.norm, (np.arange(6.0)[::2], 1)),
        (norm, np.linalg.norm, (np.arange(3, dtype=np.float32),)),
        (tolerance, reward_utils.tolerance, (0.3, (0.0, 0.1), 0.2)),
        (tolerance, reward_utils.tolerance, (0.3, (0.0, 0.1), 0.0, "long_tail")),
        (tolerance, reward_utils.tolerance, (0.05, (0.0, 0.1), 0.0, "long_tail")),
        (tolerance, reward_utils.tolerance, (-0.3, (0, 0.1), np.float64(0.2), "long_tail", 0.5)),
        (tolerance, reward_utils.tolerance, (float("nan"), (0.0, 0.1), 0.2, "long_tail")),
        (tolerance, reward_utils.tolerance, (1e200, (0.0, 0.1), 0.2, "long_tail")),
        (tolerance, reward_utils.tolerance, (np.array([0.05, 0.3]), (0.0, 0.1), 0.2, "long_tail")),
        (rect_prism_tolerance, reward_utils.rect_prism_tolerance, (np.full(3, 2.0), np.zeros(3), np.ones(3))),
        (
            rect_prism_tolerance,
            reward_utils.rect_prism_tolerance,
            (np.full(3, 0.5), np.zeros(3), np.ones(3, np.float32)),
        ),
    ],
)
def test_inputs_of_another_kind_give_the_originals_answer(ours, original, arguments):
    with np.errstate(over="ignore"):
        assert bits(ours(*arguments)) == bits(original(*arguments))


def test_a_negative_margin_is_refused_as_by_the_original():
    with pytest.raises(ValueError, match="non-negative"):
        tolerance(0.3, (0.0, 0.1), -0.1, "long_tail")


@pytest.mark.parametrize("bend", [0.0, 1e-9, 0.1])
def test_quaternions_are_scipys_in_every_branch_also_of_matrices_that_are_not_quite_rotations(bend):
    rng = np.random.default_rng(3)
    turns = [*np.eye(4), *-np.eye(4), *np.eye(4)[:3] + 1e-3, *rng.normal(size=(200, 4))]
    for turn in turns:
        matrix = Rotation.from_quat(turn).as_matrix()
        matrix[0, 1] += bend
        assert bits(MatrixRotation.from_matrix(matrix).as_quat()) == bits(Rotation.from_matrix(matrix).as_quat())


def test_a_substitute_that_differs_in_a_bit_is_not_used(monkeypatch):
    used = substitutes()
    assert used["norm"] is norm and used["tolerance"] is tolerance and used["Rotation"] is MatrixRotation
    substitutes.cache_clear()
    monkeypatch.setattr(reward_utils, "tolerance", lambda *arguments: np.nextafter(tolerance(*arguments), 2.0))
    try:
        assert substitutes()["tolerance"] is reward_utils.tolerance and substitutes()["norm"] is norm
    finally:
        substitutes.cache_clear()


def test_a_closed_environment_gives_its_simulator_back():
    env = MetaWorldTask("push-v3", "v2", 0, 500)
    env.reset(0)
    env.step(np.zeros(4, np.float32))
    data = weakref.ref(env.target.data)
    env.close()
    del env
    gc.collect()
    assert data() is None
