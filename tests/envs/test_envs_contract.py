"""What an environment returns is compared with what it declares, and a task has a name that lasts."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import EnvironmentFault, SuiteError, make_suite

ARITY = r"must return \(observation, reward, terminated, truncated, info\)"


def liar(constructor, reset=None, step=None):
    """A counting environment whose reset or third step returns something else: each is a function of the truth."""

    class Liar(constructor()):
        def reset(self, seed=None, options=None):
            found = super().reset(seed=seed)
            return found if reset is None else reset(*found)

        def step(self, action):
            found = super().step(action)
            return found if step is None or self.count != 3 else step(*found)

    return Liar


def observation(change):
    return {
        "reset": lambda state, info: (change(state), info),
        "step": lambda state, *rest: (change(state), *rest),
    }


def run(env):
    env.reset()
    for _ in range(5):
        env.step(np.zeros((env.num_envs, 2), np.float32))


@pytest.mark.parametrize("when", ["reset", "step"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: np.append(state, 0.0), r"of shape \(4,\)"),
        (lambda state: state[:2], r"of shape \(2,\)"),
        (lambda state: state[None], r"of shape \(1, 3\)"),
        (lambda state: state[0], r"of shape \(\)"),
        (lambda state: {"state": state}, "a dict that holds no numbers"),
        (lambda state: [[1.0], [2.0, 3.0]], "a list that holds no numbers"),
        (lambda state: state.astype(str), "a ndarray of <U.* that holds no numbers"),
        (lambda state: state + 1j, "a ndarray of complex64 that holds no numbers"),
    ],
)
def test_an_observation_that_does_not_fit_its_space_is_refused(vec_env, new_constructor, when, change, words):
    tasks = {"honest": new_constructor(), "liar": liar(new_constructor, **{when: observation(change)[when]})}
    env = vec_env(make_suite("gym", tasks=tasks, horizon=10))
    with pytest.raises(SuiteError, match=rf"task 'liar' returned .*{words}.* in {when}.* shape \(3,\)"):
        run(env)


@pytest.mark.parametrize(
    ("reset", "step", "words"),
    [
        (
            lambda state, info: state,
            None,
            r"an array of shape \(3,\) in reset, which must return \(observation, info\)",
        ),
        (lambda state, info: state[:2], None, r"must return \(observation, info\)"),
        (None, lambda state, reward, done, cut, info: (state, reward, done, info), f"a tuple of 4 in step.*{ARITY}"),
        (None, lambda state, reward, done, cut, info: state, ARITY),
        (None, lambda state, reward, *rest: (state, None, *rest), "the reward None, which must be a number"),
        (None, lambda state, reward, *rest: (state, "1.0", *rest), "the reward '1.0', which must be a number"),
        (None, lambda state, reward, *rest: (state, np.ones(2), *rest), "which must be a number"),
        (None, lambda state, reward, done, *rest: (state, reward, "False", *rest), "terminated = 'False'"),
        (None, lambda state, reward, done, cut, info: (state, reward, done, np.nan, info), "truncated = nan"),
        (None, lambda state, reward, done, cut, info: (state, reward, done, cut, None), "info = None"),
    ],
)
def test_a_step_and_a_reset_return_what_gymnasium_says(vec_env, new_constructor, reset, step, words):
    env = vec_env(make_suite("gym", tasks={"liar": liar(new_constructor, reset, step)}, horizon=10))
    with pytest.raises(SuiteError, match=f"task 'liar' returned.*{words}"):
        run(env)


@pytest.mark.parametrize("key", ["is_success", "success", "solved"])
@pytest.mark.parametrize("value", [np.nan, "False", "yes", 0.5, -1, [], np.ones(2)])
def test_a_success_that_is_neither_true_nor_false_is_refused(vec_env, new_constructor, key, value):
    tasks = {"liar": liar(new_constructor, step=lambda *found: (*found[:4], {"success": True, key: value}))}
    env = vec_env(make_suite("gym", tasks=tasks, horizon=10))
    with pytest.raises(SuiteError, match=rf"task 'liar' returned info\['{key}'\] = .*must be true or false"):
        run(env)


@pytest.mark.parametrize(
    ("value", "success"),
    [
        (True, True),
        (np.True_, True),
        (1.0, True),
        (np.ones(1), True),
        (0, False),
        (np.float32(0), False),
        (None, False),
    ],
)
def test_a_success_may_be_a_boolean_one_zero_or_unknown(vec_env, new_constructor, value, success):
    tasks = {"task": liar(new_constructor, step=lambda *found: (*found[:4], {"success": value}))}
    env = vec_env(make_suite("gym", tasks=tasks, horizon=3))
    env.reset()
    infos = [env.step(np.zeros((1, 2), np.float32))[3][0] for _ in range(3)]
    assert infos[-1]["is_success"] is success


@pytest.mark.parametrize("workers", [0, 2])
def test_no_restart_is_spent_on_a_broken_contract(vec_env, new_constructor, workers):
    tasks = {"honest": new_constructor(), "liar": liar(new_constructor, **observation(lambda state: state[:2]))}
    env = vec_env(make_suite("gym", tasks=tasks, horizon=10), workers=workers, max_restarts=10)
    with pytest.raises(EnvironmentFault, match=r"task 'liar' returned an array of shape \(2,\)") as caught:
        run(env)
    assert isinstance(caught.value, SuiteError) and "Traceback" not in str(caught.value)
    assert env.restarts.total == 0


def test_the_state_of_a_suite_of_ones_own_cannot_touch_the_one_hot_task(vec_env, new_constructor):
    suite = make_suite("gym", tasks={"a": new_constructor(), "b": new_constructor()}, horizon=10)

    class Wide:
        def reset(self, goal):
            return np.ones(4, np.float32)

        def close(self):
            pass

    suite.makers = [suite.makers[0], lambda *_: Wide()]
    with pytest.raises(SuiteError, match=r"task 'b' returned a state of shape \(4,\) in reset"):
        vec_env(suite).reset()


# ---------------------------------------------------------------------- names


class Maker:
    def __init__(self, constructor):
        self.constructor = constructor

    def __call__(self, render_mode=None):
        return self.constructor(render_mode)

    def method(self, render_mode=None):
        return self.constructor(render_mode)


@pytest.mark.parametrize("wrap", [functools.partial, Maker, lambda constructor: Maker(constructor).method])
def test_a_task_without_a_lasting_name_is_asked_for_one(new_constructor, wrap):
    source = wrap(new_constructor())
    with pytest.raises(SuiteError, match=r"must have a name.*tasks=\{'name': constructor, \.\.\.\}"):
        make_suite("gym", tasks=[source], horizon=5)
    assert make_suite("gym", tasks={"mine": source}, horizon=5).task_names == ("mine",)


def test_two_tasks_of_one_name_are_told_apart_by_the_user(new_constructor):
    first, second = new_constructor(), new_constructor()
    with pytest.raises(SuiteError, match=r"two different tasks are called 'Counter'; give each a name of its own"):
        make_suite("gym", tasks=[first, second], horizon=5)
    with pytest.raises(SuiteError, match=r"two different tasks are called '<lambda>'.*tasks=\{"):
        make_suite("gym", tasks=[lambda: first(), lambda: second()], horizon=5)
    with pytest.raises(SuiteError, match="listed twice.*use copies"):
        make_suite("gym", tasks=[first, first], horizon=5)


@pytest.mark.parametrize("name", [1, None, ("a", "b"), ""])
def test_the_name_of_a_task_is_text(new_constructor, name):
    with pytest.raises(SuiteError, match="a task's name must be text"):
        make_suite("gym", tasks={name: new_constructor()}, horizon=5)


def test_a_named_task_is_an_id_or_a_constructor():
    with pytest.raises(SuiteError, match="id or a constructor, found 3"):
        make_suite("gym", tasks={"a": 3})


# ---------------------------------------------------------------------- spaces of actions, and time limits


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "task 'odd' has unbounded actions .*finite bounds"),
        (spaces.Box(0.0, np.inf, (2,)), "task 'odd' has unbounded actions"),
        (spaces.Box(-5, 5, (2,), np.int64), "task 'odd' has integer actions"),
        (spaces.Box(0, 255, (2,), np.uint8), "task 'odd' has integer actions"),
        (spaces.MultiDiscrete([3, 3]), "task 'odd' has actions MultiDiscrete"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_actions_that_cannot_be_learnt_are_refused_by_task(new_constructor, space, words, beside):
    class Odd(new_constructor()):
        action_space = space

    tasks = {"plain": new_constructor(), "odd": Odd} if beside else {"odd": Odd}
    with pytest.raises(SuiteError, match=words):
        make_suite("gym", tasks=tasks, horizon=5)


def test_a_constructor_may_bring_its_own_time_limit(vec_env, new_constructor):
    def limited():
        return gymnasium.wrappers.TransformReward(gymnasium.wrappers.TimeLimit(new_constructor()(), 4), float)

    suite = make_suite("gym", tasks={"limited": limited})
    env = vec_env(suite)
    env.reset()
    dones = [bool(env.step(np.zeros((1, 2), np.float32))[2][0]) for _ in range(4)]
    assert suite.horizon == 4 and dones == [False, False, False, True]


def test_a_horizon_for_the_environments_serves_tasks_that_have_none(new_constructor):
    from mtrl import make_env

    env = make_env("gym", tasks={"endless": new_constructor(action_size=1), "swing": "Pendulum-v1"}, horizon=4)
    assert env.horizon == 4
    env.close()
    suite = make_suite(
        "gym", tasks={"endless": new_constructor(action_size=1), "swing": "Pendulum-v1"}, fallback_horizon=4
    )
    assert list(suite.horizons) == [4, 200]
    with pytest.raises(SuiteError, match="horizon must be an integer of at least 1, found 0"):
        make_suite("gym", tasks={"endless": new_constructor()}, fallback_horizon=0)
