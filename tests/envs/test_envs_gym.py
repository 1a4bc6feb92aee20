"""Gymnasium tasks: padded states, real terminations, per-task horizons, clear refusals."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import SuiteError, make_suite

PENDULUM, CAR = "Pendulum-v1", "MountainCarContinuous-v0"


def test_ids_become_tasks_with_their_own_time_limits(vec_env):
    suite = make_suite("gym", tasks=[PENDULUM, CAR])
    assert suite.task_names == (PENDULUM, CAR)
    assert suite.horizon == 999 and list(suite.horizons) == [200, 999]
    env = vec_env(suite)
    env.reset()
    for _ in range(200):
        _, _, dones, infos = env.step(np.zeros((2, 1), np.float32))
    assert dones.tolist() == [True, False] and infos[0]["TimeLimit.truncated"]


def test_actions_of_unequal_bounds_are_stretched(vec_env):
    suite = make_suite("gym", tasks=[PENDULUM, CAR])
    assert suite.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)
    env, alone = vec_env(suite), gymnasium.make(PENDULUM)
    state = env.reset()[0]
    alone.reset(seed=0)
    alone.unwrapped.state = np.array([np.arctan2(state[1], state[0]), state[2]])
    expected = alone.step(np.array([2.0], np.float32))[1]
    assert env.step(np.ones((2, 1), np.float32))[1][0] == pytest.approx(expected, rel=1e-4)


def test_equal_bounds_are_kept():
    assert make_suite("gym", tasks=[PENDULUM]).action_space.high.tolist() == [2.0]


def test_a_horizon_can_be_given_for_all(vec_env):
    env = vec_env(make_suite("gym", tasks=[PENDULUM, CAR], horizon=4))
    env.reset()
    for _ in range(4):
        dones = env.step(np.zeros((2, 1), np.float32))[2]
    assert dones.all()


def test_a_return_can_decide_success(counters, new_constructor, vec_env):
    tasks = {"easy": new_constructor(), "hard": new_constructor()}
    env = vec_env(make_suite("gym", tasks=tasks, horizon=10, success_return={"easy": 54.0, "hard": 56.0}))
    env.reset()
    for _ in range(10):  # the return of ten steps is 55
        infos = env.step(np.zeros((2, 2), np.float32))[3]
    assert [info["is_success"] for info in infos] == [True, False]


def test_a_return_decides_at_the_end_of_an_episode_alone(vec_env):
    env = vec_env(make_suite("gym", tasks=[PENDULUM], success_return=-200.0))
    env.reset()  # a pendulum's rewards are negative: the return of its first step is the highest
    infos = [env.step(np.zeros((1, 1), np.float32))[3][0] for _ in range(200)]
    assert infos[-1]["episode"]["r"] < -200.0 and not infos[-1]["is_success"]
    assert not any(info["success"] for info in infos)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_return_also_decides_where_the_task_ends_before_its_horizon(vec_env, new_constructor, end):
    class Early(new_constructor(ends_at=4 if end == "terminated" else None)):
        def step(self, action):
            state, reward, terminated, truncated, info = super().step(action)
            return state, reward, terminated, truncated or (end == "truncated" and self.count == 4), info

    env = vec_env(make_suite("gym", tasks={"early": Early}, horizon=10, success_return=6.0))
    env.reset()
    infos = [env.step(np.zeros((1, 2), np.float32))[3][0] for _ in range(8)]
    assert [info["success"] for info in infos] == 2 * [False, False, False, True]  # the return of three steps is 6


def test_tasks_may_be_constructors_named_after_themselves(new_constructor):
    assert make_suite("gym", tasks=[new_constructor()], horizon=5).task_names == ("Counter",)


def test_starts_repeat_with_a_sweep(counters, vec_env):
    env = vec_env(counters(horizon=1, num_goals=3), goal_order="sweep")
    starts = [env.reset()[0, 0]] + [env.step(np.zeros((2, 2), np.float32))[0][0, 0] for _ in range(5)]
    assert starts[:3] == starts[3:] and len(set(starts)) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ["Pendulm-v1"]}, "did you mean 'Pendulum-v1'"),
        ({"tasks": ["CartPole-v1"]}, "'CartPole-v1' has actions Discrete"),
        ({"tasks": [PENDULUM, PENDULUM]}, "listed twice"),
        ({}, r"suite 'gym' needs tasks=\[...\], for example tasks=\['Pendulum-v1'\]"),
        ({"tasks": [PENDULUM], "success_return": "good"}, "success_return must be a finite number.*found 'good'"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": PENDULUM}, "must be a list"),
        ({"tasks": [3]}, "id or a constructor, found 3"),
        ({"tasks": [PENDULUM], "horizon": 0}, "at least 1, found 0"),
        ({"tasks": [PENDULUM], "success_return": {"Pendulum": 0}}, "unknown task 'Pendulum'; did you mean"),
    ],
)
def test_bad_input_gets_one_sentence(options, words):
    with pytest.raises(SuiteError, match=words) as caught:
        make_suite("gym", **options)
    assert "\n" not in str(caught.value)


def test_actions_of_unequal_size_are_padded(new_constructor, vec_env):
    seen = {}

    class Narrow(new_constructor()):
        def step(self, action):
            seen["narrow"] = action
            return super().step(action)

    class Wide(new_constructor(action_size=3)):
        action_space = spaces.Box(0.0, 4.0, (3,), np.float32)

        def step(self, action):
            seen["wide"] = action
            return super().step(action)

    suite = make_suite("gym", tasks={"narrow": Narrow, "wide": Wide}, horizon=5)
    env = vec_env(suite)
    assert suite.action_space == spaces.Box(-1.0, 1.0, (3,), np.float32) and env.action_sizes == (2, 3)
    env.reset()
    env.step(np.array([[0.1, 0.2, 0.9], [0.5, 0.0, -1.0]], np.float32))
    np.testing.assert_allclose(seen["narrow"], [0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(seen["wide"], [3.0, 2.0, 0.0], rtol=1e-6)


def test_observations_that_are_no_box_are_refused(new_constructor):
    tasks = {"a": new_constructor(space=spaces.Dict({"x": spaces.Box(0, 1, (2,))}))}
    with pytest.raises(SuiteError, match="'a' has observations Dict"):
        make_suite("gym", tasks=tasks, horizon=5)


def test_a_task_without_a_time_limit_needs_a_horizon(new_constructor):
    with pytest.raises(SuiteError, match="no time limit"):
        make_suite("gym", tasks={"a": new_constructor()})


def test_a_registered_task_that_cannot_be_made_is_not_proposed_in_its_own_place():
    def needs_a_package(**_):
        raise gymnasium.error.DependencyNotInstalled("no such simulator")

    def was_moved(**_):
        raise ImportError("moved to another project")

    for name, maker in (("Needs-v0", needs_a_package), ("Moved-v0", was_moved)):
        gymnasium.register(name, entry_point=maker)
        try:
            with pytest.raises(SuiteError, match=f"task '{name}' cannot be made ") as refused:
                make_suite("gym", tasks=[name])
        finally:
            del gymnasium.registry[name]
        assert "did you mean" not in str(refused.value)


SCRIPT = """
import gymnasium, numpy as np
from envs import make_suite

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}

gymnasium.register("Mine-v0", entry_point=Mine, max_episode_steps=3)
gymnasium.register("Theirs-v0", entry_point="their_module:Theirs", max_episode_steps=3)
tasks = {"mine": "Mine-v0", "theirs": "Theirs-v0", "inside": lambda: gymnasium.make("Mine-v0")}
env = make_suite("gym", tasks=tasks).make_vec_env(seed=0, workers=2)
env.reset()
print([bool(env.step(np.zeros((3, 1), np.float32))[2].all()) for _ in range(3)])
env.close()
"""


def test_what_a_script_registers_is_known_in_worker_processes(tmp_path):
    theirs = SCRIPT.split("class Mine")[0].replace("from envs import make_suite", "")
    body = "class Mine" + SCRIPT.split("class Mine")[1].split("gymnasium.register")[0]
    (tmp_path / "their_module.py").write_text(theirs + body.replace("class Mine", "class Theirs"))
    (tmp_path / "script.py").write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[2])
    ran = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.strip() == "[False, False, True]", ran.stderr
