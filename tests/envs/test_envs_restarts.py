"""An environment that fails is built anew, its lost step is cut off, and the others never notice."""

import logging
import os
import signal

import numpy as np
import pytest

from envs import EnvironmentFault, SuiteError, make_suite
from tests.grids import grid

# Which faults can be got over with how many workers: without a worker nobody is there to notice a hang or a death.
FAULTS = [
    *((fault, workers) for fault in ("raise", "nan state", "nan reward") for workers in (0, 1, 2)),
    *((fault, workers) for fault in ("hang", "stop", "die") for workers in (1, 2)),
]
SHOWN = [("raise", 0), ("raise", 2), ("nan state", 1), ("nan reward", 0), ("hang", 1), ("stop", 2), ("die", 1)]


def record(env, actions):
    """Observations, rewards, dones and infos of steps with given actions ``[T, N, A]``, after a reset."""
    first = env.reset()
    steps = [env.step(action) for action in actions]
    return (
        [np.stack(column) for column in zip(*(step[:3] for step in steps), strict=True)],
        [s[3] for s in steps],
        first,
    )


@pytest.fixture
def broken_once(counters, vec_env, tmp_path):
    """A vector of "one" and "two"; "two" fails at its fifth step, the first time only."""

    def build(fault, workers, max_restarts=1, **behaviour):
        suite = counters(fault=fault, once=str(tmp_path / "struck"), **behaviour)
        return vec_env(suite, workers=workers, worker_timeout=2.0, max_restarts=max_restarts)

    return build


@grid(("fault", "workers"), FAULTS, always=SHOWN)
def test_the_environment_is_built_anew_and_the_lost_step_is_cut_off(
    broken_once, random_actions, caplog, fault, workers
):
    env = broken_once(fault, workers)
    with caplog.at_level(logging.WARNING, "envs"):
        (observations, rewards, dones), infos, _ = record(env, random_actions(env, 20))
    assert [np.isfinite(values).all() for values in (observations, rewards)] == [True, True]
    lost = infos[4][1]
    assert dones[4].tolist() == [fault in ("hang", "stop", "die") and workers == 1, True]
    assert lost["TimeLimit.truncated"] and "'two'" in lost["fault"]
    # It changed nothing: the last state and the last reward once more, and no episode came to its end.
    np.testing.assert_array_equal(lost["terminal_observation"], observations[3, 1])
    assert rewards[4, 1] == rewards[3, 1] and "episode" not in lost and "is_success" not in lost
    # The new episode counts from its own beginning, and ends after ten steps of its own.
    assert observations[4:15, 1, 1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert infos[14][1]["episode"]["l"] == 10
    assert len(caplog.records) == 1 and lost["fault"] in caplog.text and "restart 1 of at most 1" in caplog.text
    assert env.restarts.total == env.restarts.by_task["two"] == 1
    assert env.restarts.by_task["one"] == 0  # also where it shared the worker: it was not the one at work


@pytest.mark.parametrize("workers", [0, 2])
def test_the_other_environments_go_on_to_the_last_bit(counters, vec_env, broken_once, random_actions, workers):
    env = broken_once("raise", workers)
    actions = random_actions(env, 30)
    (observations, rewards, _), _, first = record(env, actions)
    (expected, expected_rewards, _), _, expected_first = record(vec_env(counters(), workers=workers), actions)
    np.testing.assert_array_equal(observations[:, 0], expected[:, 0])
    np.testing.assert_array_equal(rewards[:, 0], expected_rewards[:, 0])
    np.testing.assert_array_equal(first, expected_first)
    # The one built anew draws other starts from then on.
    np.testing.assert_array_equal(observations[:4, 1], expected[:4, 1])
    assert not np.isin(observations[5:, 1, 0], expected[5:, 1, 0]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_fault_restarts_change_nothing(counters, vec_env, random_actions, workers):
    runs = []
    for max_restarts in (0, 5):
        env = vec_env(counters(), workers=workers, max_restarts=max_restarts)
        runs.append(record(env, random_actions(env, 30)))
    for values, expected in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_array_equal(values, expected)
    assert env.restarts.total == 0


def test_a_fault_has_the_same_consequences_in_a_worker_as_without_one(counters, vec_env, random_actions, tmp_path):
    runs = []
    for workers in (0, 2):
        suite = counters(fault="nan state", once=str(tmp_path / f"struck-{workers}"))
        env = vec_env(suite, workers=workers, max_restarts=1)
        runs.append(record(env, random_actions(env, 30))[0])
    for values, expected in zip(*runs, strict=True):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_when_no_restart_is_left_the_vector_ends(counters, vec_env, workers):
    env = vec_env(counters(fault="raise"), workers=workers, max_restarts=3)
    env.reset()
    zeros = np.zeros((2, 2), np.float32)
    with pytest.raises(EnvironmentFault, match=r"'two' raised in step: .*after 3 restarts, all that were allowed"):
        for _ in range(100):
            env.step(zeros)
    assert env.restarts.by_task == {"one": 0, "two": 3}
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["reset", "nan reset"])
def test_an_environment_that_cannot_begin_is_built_anew_too(counters, vec_env, tmp_path, workers, fault):
    behaviour = {"fault": "reset"} if fault == "reset" else {"fault": "nan state", "at": 0}
    env = vec_env(counters(once=str(tmp_path / "struck"), **behaviour), workers=workers, max_restarts=1)
    assert np.isfinite(env.reset()).all() and env.restarts.total == 1


def test_what_fails_in_the_same_way_before_a_first_episode_is_no_accident(counters, vec_env):
    env = vec_env(counters(fault="reset"), workers=1, max_restarts=4)
    with pytest.raises(EnvironmentFault, match="raised in reset: OSError: .*again after it was rebuilt: no accident"):
        env.reset()
    assert env.restarts.total == 1


def test_a_fault_at_the_first_reset_is_the_same_whatever_numbers_it_names(counters, vec_env, new_constructor):
    class Numbered(new_constructor()):
        def reset(self, seed=None, options=None):
            raise OSError(f"{self!r} found no place, try {seed}")

    env = vec_env(make_suite("gym", tasks={"it": Numbered}, horizon=5), max_restarts=9)
    with pytest.raises(EnvironmentFault, match="no accident"):
        env.reset()
    assert env.restarts.total == 1


def test_a_worker_killed_between_two_steps_takes_no_task_with_it(counters, vec_env, random_actions):
    env = vec_env(counters(), workers=2, max_restarts=2)
    env.reset()
    env.step(random_actions(env, 1)[0])
    victim = env._backend._workers[1].process
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    _, _, dones, infos = env.step(random_actions(env, 1)[0])
    assert dones.tolist() == [False, True] and "task 'two' died (exit code -9)" in infos[1]["fault"]
    for actions in random_actions(env, 12):
        observations, _, _, infos = env.step(actions)
    assert np.isfinite(observations).all() and env.restarts.total == 1


def test_nothing_is_left_of_a_worker_that_was_replaced(broken_once, random_actions):
    env = broken_once("stop", workers=1)
    before, handles = env._backend._workers[0].process, len(os.listdir("/proc/self/fd"))
    record(env, random_actions(env, 8))
    assert before.returncode == -signal.SIGKILL and env._backend._workers[0].process.poll() is None
    assert len(os.listdir("/proc/self/fd")) == handles


def test_counts_and_streams_survive_a_pause(broken_once, counters, vec_env, random_actions):
    env = broken_once("raise", workers=0)
    record(env, random_actions(env, 15))  # up to the end of the episode after the fault
    resumed = vec_env(counters(), max_restarts=1)
    resumed.load_state_dict(env.state_dict())
    assert resumed.restarts.by_task == {"one": 0, "two": 1} and resumed.restarts.total == 1
    assert resumed.get_attr("start")[1] == env.get_attr("start")[1]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_vector_that_no_restart_was_left_for_says_how_another_one_goes_on(
    counters, vec_env, random_actions, tmp_path, workers
):
    env = vec_env(counters(fault="raise", once=str(tmp_path / "struck")), workers=workers)
    env.reset()
    before = env.state_dict()["envs"]
    with pytest.raises(EnvironmentFault, match="'two' raised in step") as fault:
        for actions in random_actions(env, 5):
            env.step(actions)
    assert fault.value.rows == (1,) and env.ended_by_fault and not env.restorable
    left = env.state_dict()
    assert left["restarts"] == {"total": 1, "by_task": {"one": 0, "two": 1}}
    other = vec_env(counters(), workers=workers)
    other.load_state_dict(left)
    # "one" begins its episode again, with the same goal; "two" has goals of its own, as after a restart.
    after = other.state_dict()["envs"]
    assert after[0]["goal"] == before[0]["goal"] and after[0]["generator"] == before[0]["generator"]
    assert after[1]["generator"] != before[1]["generator"]
    record(other, random_actions(other, 20))
    assert other.restarts.total == 1


@pytest.mark.parametrize("others", [1, 2])
def test_a_worker_found_dead_when_the_state_is_asked_for_is_replaced_in_the_next_step(
    counters, vec_env, random_actions, others
):
    env = vec_env(counters(), workers=others, max_restarts=1)
    env.reset()
    assert env.restorable
    victim = env._backend._workers[-1].process
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    state = env.state_dict()
    assert len(state["envs"]) == 2 and not env.restorable and env.restarts.total == 0
    _, _, dones, infos = env.step(random_actions(env, 1)[0])
    assert dones.tolist() == [others == 1, True] and "died (exit code -9)" in infos[1]["fault"]
    for actions in random_actions(env, 12):
        observations, _, _, _ = env.step(actions)
    assert np.isfinite(observations).all() and env.restarts.total == 1 and len(env.state_dict()["envs"]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_cannot_begin_where_it_was_is_built_anew(counters, vec_env, tmp_path, workers):
    env = vec_env(counters(), workers=workers)
    env.reset()
    resumed = vec_env(counters(fault="reset", once=str(tmp_path / "struck")), workers=workers, max_restarts=1)
    assert np.isfinite(resumed.load_state_dict(env.state_dict())).all() and resumed.restarts.by_task["two"] == 1


def test_a_reset_instead_of_the_wait_for_a_lost_step_is_a_reset(broken_once, random_actions):
    env = broken_once("raise", workers=1)
    env.reset()
    *before, at_fault = random_actions(env, 5)
    for actions in before:
        env.step(actions)
    env.step_async(at_fault)
    assert env.reset()[:, 1].tolist() == [0, 0] and env.restarts.total == 1


def test_a_sweep_takes_no_restarts(counters):
    with pytest.raises(SuiteError, match="max_restarts must be 0 for a sweep, which counts its goals, found 2"):
        counters().make_vec_env(seed=0, goal_order="sweep", max_restarts=2)
    with pytest.raises(SuiteError, match="max_restarts must be an integer of at least 0, found -1"):
        counters().make_vec_env(seed=0, max_restarts=-1)


def test_metaworld_environments_are_built_anew(reach_and_push, vec_env):
    env = vec_env(reach_and_push(), workers=1, max_restarts=1)
    first = env.reset()
    os.kill(env._backend._workers[0].process.pid, signal.SIGKILL)
    observations, rewards, dones, infos = env.step(np.zeros((2, 4), np.float32))
    assert dones.all() and all("fault" in info for info in infos)
    assert not np.array_equal(observations, first) and env.restarts.by_task == {"reach-v3": 1, "push-v3": 1}
    observations, rewards, dones, _ = env.step(np.zeros((2, 4), np.float32))
    assert np.isfinite(observations).all() and (rewards != 0).all() and not dones.any()


def test_the_toy_offers_restarts_like_any_other_suite():
    env = make_suite("pointmass", num_tasks=2).make_vec_env(seed=0, max_restarts=3)
    first = env.reset()
    assert env._backend.restart([1], [99]) == []
    assert (env._arrays.observations == first).all(axis=1).tolist() == [True, False]
