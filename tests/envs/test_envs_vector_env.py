"""Any vector of tasks: Gymnasium's in every mode of resetting, Stable-Baselines3's, with names, tasks or a one-hot."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from agents import MTPPO, MTSAC, ConfigurationError
from envs import ContractError, EnvironmentFault, MultiTaskVecEnv, SuiteError, TaskVecEnv, make_suite
from mtrl import make_env
from mtrl.evaluation import evaluate

SMALL = {"hidden_sizes": [16, 16]}


class Count(gymnasium.Env):
    """The state is (number of the episode, steps in it); the reward tells the action and the state it was taken in."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, length=3, ends="terminated", tail=(), success="success", says=True):
        self.length, self.ends, self.tail, self.success, self.says = length, ends, tail, success, says
        self.observation_space = spaces.Box(-np.inf, np.inf, (2 + len(tail),), np.float32)
        self.episode, self.steps, self.actions = -1, 0, 0

    def _state(self):
        return np.array([self.episode, self.steps, *self.tail], np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._state(), {}

    def step(self, action):
        reward = 100.0 * self.episode + 10.0 * self.steps + float(action[0])
        self.steps += 1
        over = self.steps == self.length
        told = {self.success: self.says and self.steps == 1}
        return self._state(), reward, over and self.ends == "terminated", over and self.ends == "truncated", told


def maker(**options):
    return lambda: Count(**options)


def two(kind=SyncVectorEnv, **options):
    return kind([maker(length=3, ends="terminated"), maker(length=4, ends="truncated")], **options)


MODES = list(AutoresetMode)


@pytest.fixture
def opened():
    made = []
    yield made.append
    for env in made:
        env.close()


def taken(env, steps):
    """Everything that an agent would store: state, reward, next state (the last one where an episode ends), ends."""
    last, found = env.reset(), [[] for _ in range(env.num_envs)]
    for step in range(steps):
        actions = np.full((env.num_envs, 2), step / 100, np.float32)
        env.step_async(actions)
        observations, rewards, dones, infos = env.step_wait()
        for i, info in enumerate(infos):
            after = info["terminal_observation"] if dones[i] else observations[i]
            ends = bool(dones[i]), info.get("TimeLimit.truncated", False)
            found[i].append((last[i, :2].tolist(), round(float(rewards[i]), 4), after[:2].tolist(), *ends))
        last = observations
    return found


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", MODES)
def test_every_step_is_one_transition_across_a_reset_in_each_mode(kind, mode, opened):
    env = make_env(two(kind, autoreset_mode=mode), task_names=["a", "b"])
    opened(env)
    for i, length in enumerate((3, 4)):
        rows = taken(env, 12)[i]
        first = rows[0][0][0]  # number of the first episode
        for step, (state, reward, following, done, truncated) in enumerate(rows):
            episode, steps = first + step // length, step % length
            assert state == [episode, steps] and following == [episode, steps + 1]
            assert reward == pytest.approx(100 * episode + 10 * steps + step / 100, abs=1e-4)
            assert done == (steps == length - 1) and truncated == (done and i == 1)


@pytest.mark.parametrize("mode", MODES)
def test_transitions_in_the_replay_buffer_are_those_of_the_tasks(mode, opened):
    env = make_env(two(autoreset_mode=mode), task_names=["a", "b"])
    opened(env)
    agent = MTSAC(
        "MultiTaskPolicy", env, learning_starts=1_000, batch_size=8, policy_kwargs=SMALL, device="cpu", seed=0
    )
    with pytest.warns(UserWarning, match="makes no update"):
        agent.learn(2 * 24)
    buffer = agent.replay_buffer
    assert buffer.stored.tolist() == [24, 24]
    for task, length in enumerate((3, 4)):
        rows = buffer.rows[task, :24].numpy()
        states, following, terminals = rows[:, :2], rows[:, 5:7], rows[:, 7]
        assert (following[:, 0] == states[:, 0]).all() and (following[:, 1] == states[:, 1] + 1).all()
        assert terminals.sum() == (24 // length if task == 0 else 0)  # a time-out is no terminal state


@pytest.mark.parametrize("algorithm", [MTSAC, MTPPO])
@pytest.mark.parametrize("mode", MODES)
def test_agents_learn_and_are_evaluated(algorithm, mode, opened):
    env = make_env(two(autoreset_mode=mode), task_names=["a", "b"])
    opened(env)
    options = {"learning_starts": 20} if algorithm is MTSAC else {"n_steps": 16}
    agent = algorithm("MultiTaskPolicy", env, batch_size=16, policy_kwargs=SMALL, device="cpu", seed=0, **options)
    agent.learn(128)
    assert agent._n_updates > 0 and (agent.progress.episodes > 5).all()
    found = evaluate(agent, env, 3)
    assert found.lengths.tolist() == [[3] * 3, [4] * 3] and found.success_rate == 1.0


@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize("mode", MODES)
def test_success_at_any_step_counts_at_the_end(key, mode, opened):
    vector = SyncVectorEnv([maker(success=key), maker(success=key, says=False)], autoreset_mode=mode)
    env = make_env(vector, task_names=["a", "b"])
    opened(env)
    env.reset()
    for _ in range(2):  # the second episode begins without the first one's success
        infos = [env.step(np.zeros((2, 2), np.float32))[3] for _ in range(3)]
        assert [info[0]["success"] for info in infos] == [True, False, False]
        assert [info["is_success"] for info in infos[-1]] == [True, False]
        assert not infos[-1][0]["success_at_end"] and infos[-1][0]["success_is_judged"]
        assert infos[-1][0]["episode"]["l"] == 3


class Half(Count):
    def step(self, action):
        return *super().step(action)[:4], {"success": 0.5}


def test_a_success_that_is_neither_true_nor_false_is_refused(opened):
    env = make_env(SyncVectorEnv([Half, Half]), task_names=["a", "b"])
    opened(env)
    env.reset()
    with pytest.raises(ContractError, match=r"environment 0 \(task 'a'\) returned info\['success'\] = .*0.5"):
        env.step(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("wrap", [lambda env: env, VecMonitor])
def test_a_vector_of_stable_baselines_is_taken(wrap, opened):
    venv = wrap(DummyVecEnv([lambda: Monitor(Count(length=3)), lambda: Monitor(Count(length=4, ends="truncated"))]))
    env = make_env(venv, task_names=["a", "b"])
    opened(env)
    rows = taken(env, 8)
    assert [row[3] for row in rows[0]] == [False, False, True] * 2 + [False] * 2
    assert [row[4] for row in rows[1]] == [False, False, False, True] * 2
    assert evaluate(MTSAC("MultiTaskPolicy", env, policy_kwargs=SMALL, device="cpu"), env, 2).lengths[1].tolist() == [
        4,
        4,
    ]


def one_hot(*tasks, size=3):
    return [maker(tail=tuple(np.eye(size)[task])) for task in tasks]


def test_a_one_hot_at_the_end_says_the_tasks(opened):
    env = make_env(SyncVectorEnv(one_hot(2, 0, 1, 0)))
    opened(env)
    assert env.task_of_env.tolist() == [2, 0, 1, 0] and env.task_names == ("task_0", "task_1", "task_2")
    assert env.observation_space.shape == (5,)
    assert env.reset()[:, 2:].argmax(1).tolist() == [2, 0, 1, 0]
    named = make_env(SyncVectorEnv(one_hot(2, 0, 1, 0)), task_names=["x", "y", "z"])
    opened(named)
    assert named.task_names == ("x", "y", "z") and named.task_of_env.tolist() == [2, 0, 1, 0]


def test_tasks_may_have_several_environments_in_any_order(opened):
    env = make_env(SyncVectorEnv([maker() for _ in range(5)]), task_names=["x", "y"], task_of_env=[1, 0, 1, 1, 0])
    opened(env)
    assert env.reset()[:, 2:].argmax(1).tolist() == [1, 0, 1, 1, 0]
    agent = MTSAC("MultiTaskPolicy", env, learning_starts=20, batch_size=16, policy_kwargs=SMALL, device="cpu")
    agent.learn(100)
    assert agent.replay_buffer.stored.tolist() == [40, 60]
    assert evaluate(agent, env, 4).episodes == 4


class Moved(Count):
    def step(self, action):
        self.tail = self.tail[::-1]
        return super().step(action)


class Lost(Count):
    def step(self, action):
        return super().step(action)[0] * np.nan, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (lambda: Moved(tail=(1.0, 0.0)), ContractError, r"environment 0 \(task 'a'\) returned the one-hot of another"),
        (
            lambda: Lost(tail=(1.0, 0.0)),
            EnvironmentFault,
            r"environment 0 \(task 'a'\) returned an observation that is not",
        ),
    ],
)
def test_what_an_environment_must_not_return_is_named(kind, error, words, opened):
    env = make_env(SyncVectorEnv([kind, maker(tail=(0.0, 1.0))]), task_names=["a", "b"])
    opened(env)
    env.reset()
    with pytest.raises(error, match=words):
        env.step(np.zeros((2, 2), np.float32))


class OwnWay(VectorEnv):
    """A vector that is not made of separate environments."""

    num_envs = 2
    single_observation_space = spaces.Box(-1, 1, (3,), np.float32)
    single_action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, mode):
        self.metadata = {"autoreset_mode": mode} if mode else {}


@pytest.mark.parametrize(
    ("vector", "options", "words"),
    [
        (
            lambda: SyncVectorEnv([maker()] * 3),
            {},
            "the tasks of 3 environments are not known, found none",
        ),
        (lambda: SyncVectorEnv([maker()] * 3), {"task_names": ["a", "b"]}, "are not known, found 2 as task_names"),
        (lambda: SyncVectorEnv([maker()] * 2), {"task_names": ["a", "a"]}, "task 'a' is listed twice"),
        (lambda: SyncVectorEnv([maker()] * 2), {"task_of_env": [0]}, r"must be 2 integers.*found \[0\]"),
        (
            lambda: SyncVectorEnv([maker()] * 2),
            {"task_of_env": [0, 2]},
            "each of the 3 tasks from 0 to 2",
        ),
        (lambda: SyncVectorEnv([maker()] * 2), {"task_of_env": [0, 1], "task_names": ["a"]}, "each of the 1 tasks"),
        (lambda: SyncVectorEnv([maker()] * 2), {"task_names": ["a", "b"], "copies": 2}, "found copies"),
        (lambda: SyncVectorEnv([maker()] * 2), {"task_names": ["a", "b"], "tasks": []}, "found tasks"),
        (lambda: OwnWay(AutoresetMode.NEXT_STEP), {"task_names": ["a", "b"]}, "make it with autoreset_mode SAME_STEP"),
        (lambda: OwnWay(None), {"task_names": ["a", "b"]}, "does not say in its metadata how it resets"),
        (lambda: Count(), {"task_names": ["a", "b"]}, "found Count; single tasks are make_env"),
        (
            lambda: gymnasium.make_vec("CartPole-v1", 2, "sync"),
            {"task_names": ["a", "b"]},
            "has actions .*Discrete",
        ),
    ],
)
def test_bad_input_gets_one_sentence(vector, options, words):
    with pytest.raises(SuiteError, match=words) as caught:
        make_env(vector(), **options)
    assert "\n" not in str(caught.value)


def test_what_names_its_tasks_stays_as_it_is(opened):
    env = make_suite("pointmass", num_tasks=2).make_vec_env(seed=0)
    opened(env)
    assert isinstance(env, MultiTaskVecEnv) and isinstance(env, TaskVecEnv) and make_env(env) is env


def test_the_seed_of_a_vector_is_gymnasiums(opened):
    env = make_env(gymnasium.make_vec("Pendulum-v1", 2, "sync"), task_names=["a", "b"], seed=7)
    opened(env)
    alone = gymnasium.make("Pendulum-v1")
    assert np.array_equal(env.reset()[1, :3], alone.reset(seed=8)[0])
    alone.close()


def test_a_vector_without_a_state_says_so(opened, tmp_path):
    env = make_env(two(), task_names=["a", "b"])
    opened(env)
    agent = MTSAC("MultiTaskPolicy", env, policy_kwargs=SMALL, device="cpu")
    with pytest.raises(ConfigurationError, match="cannot be saved"):
        agent.save_state(tmp_path / "state")


@pytest.mark.parametrize("use_one_hot", [False, True])
def test_meta_worlds_own_vector_is_learnt_in(use_one_hot, opened):
    pytest.importorskip("metaworld")
    options = {"envs_list": ["reach-v3", "push-v3"], "use_one_hot": use_one_hot, "max_episode_steps": 20}
    vector = gymnasium.make_vec("Meta-World/custom-mt-envs", vector_strategy="sync", seed=1, **options)
    env = make_env(vector, task_names=["reach", "push"])
    opened(env)
    assert env.observation_space.shape == (41,)
    agent = MTSAC("MultiTaskPolicy", env, learning_starts=20, batch_size=16, policy_kwargs=SMALL, device="cpu", seed=0)
    agent.learn(2 * 45)
    assert agent._n_updates > 0 and agent.progress.episodes.tolist() == [2, 2]
