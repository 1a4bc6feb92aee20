"""Small environments with known behaviour, for tests of the vector around them.

No ``__init__.py`` may stand in this folder: with it, ``import envs`` could find the tests instead of the package.
"""

import functools
import os
import signal
import time

import gymnasium
import numpy as np
import pytest

from envs import make_suite


def constructor(state_size=3, action_size=2, fault=None, at=5, ends_at=None, space=None, once=None):
    """A constructor of a counting environment: the state is (start, step count, 0...), the reward the step count.

    ``fault`` happens at step ``at`` (or in reset, or on construction), always or, where ``once`` names a file, until
    that file exists, which the fault creates; ``ends_at`` is a true terminal state. The class is local, so that it
    travels to a worker by value.
    """

    def strikes(kind):
        if fault != kind or (once is not None and os.path.exists(once)):
            return False
        if once is not None:
            open(once, "w").close()
        return True

    class Counter(gymnasium.Env):
        observation_space = space or gymnasium.spaces.Box(-np.inf, np.inf, (state_size,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_size,), np.float32)

        def __init__(self, render_mode=None):
            self.render_mode, self.count, self.start = render_mode, 0, 0.0
            if strikes("build"):
                raise OSError("no such mesh")

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            if strikes("reset"):
                raise OSError("cannot be placed")
            self.count, self.start = 0, float(self.np_random.uniform())
            return self._state(), {}

        def step(self, action):
            self.count += 1
            reward = float(self.count)
            if self.count == at:
                if strikes("raise"):
                    raise ZeroDivisionError("the simulator blew up")
                if strikes("hang"):
                    time.sleep(1000)
                if strikes("stop"):
                    os.kill(os.getpid(), signal.SIGSTOP)
                if strikes("die"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if strikes("nan reward"):
                    reward = float("nan")
            success = self.count == 3
            return self._state(), reward, self.count == ends_at, False, {"success": success}

        def _state(self):
            state = np.zeros(state_size, np.float32)
            state[:2] = self.start, self.count
            if self.count == at and strikes("nan state"):
                state[1] = np.nan
            return state

        def render(self):
            return np.full((4, 6, 3), self.count, np.uint8)

    return Counter


@pytest.fixture
def counters():
    """Two counting tasks ("one", and "two" with a state of other size) of ten steps; keywords go to task "two"."""

    def build(horizon=10, num_goals=50, **behaviour):
        tasks = {"one": constructor(), "two": constructor(state_size=4, **behaviour)}
        return make_suite("gym", tasks=tasks, horizon=horizon, num_goals=num_goals)

    return build


@pytest.fixture
def vec_env():
    """Builds a vector environment that is closed after the test."""
    opened = []

    def build(suite, **arguments):
        env = suite.make_vec_env(**{"seed": 0, **arguments})
        opened.append(env)
        return env

    yield build
    for env in opened:
        env.close()


@pytest.fixture
def new_constructor():
    return constructor


@pytest.fixture
def random_actions():
    """Actions [T, N, A] that do not depend on anything but the seed."""

    def draw(env, steps, seed=0):
        rng = np.random.default_rng(seed)
        return rng.uniform(-1.0, 1.0, (steps, env.num_envs, *env.action_space.shape)).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def reach_and_push():
    """The smallest real Meta-World suite."""
    return functools.partial(make_suite, "metaworld", tasks=["reach-v3", "push-v3"])
