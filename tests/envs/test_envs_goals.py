"""Which goal comes when: exact sweeps, independent streams, one number that fixes all."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.episodes import GoalSchedule, StepArrays, goal_generator

small = st.integers(1, 7)


def schedule(task="push-v3", copy=0, copies=1, num_goals=50, order="random", seed=0):
    return GoalSchedule(task, copy, copies, num_goals, order, seed)


@given(num_goals=st.integers(1, 60), copies=small)
def test_a_sweep_visits_each_goal_exactly_once_when_the_copies_divide_the_goals(num_goals, copies):
    num_goals *= copies
    streams = [schedule(copy=c, copies=copies, num_goals=num_goals, order="sweep") for c in range(copies)]
    visited = Counter(stream.advance() for _ in range(num_goals // copies) for stream in streams)
    assert visited == Counter(range(num_goals))


@given(episodes=st.integers(0, 120))
def test_a_restart_begins_the_sweep_again(episodes):
    stream = schedule(order="sweep")
    for _ in range(episodes):
        stream.advance()
    stream.restart()
    assert [stream.advance() for _ in range(3)] == [0, 1, 2]


@given(seed=st.integers(0, 2**64))
def test_random_goals_stay_in_range_and_come_again_with_the_seed(seed):
    first, second = schedule(seed=seed), schedule(seed=seed)
    drawn = [first.advance() for _ in range(20)]
    assert drawn == [second.advance() for _ in range(20)]
    assert all(0 <= goal < 50 for goal in drawn)


def test_a_restart_does_not_repeat_a_random_stream():
    stream = schedule()
    first = [stream.advance() for _ in range(10)]
    stream.restart()
    assert [stream.advance() for _ in range(10)] != first


def test_every_task_and_every_copy_has_a_stream_of_its_own():
    streams = [
        tuple(stream.advance() for _ in range(10))
        for stream in (
            schedule(task=task, copy=copy) for task in ("push-v3", "reach-v3", "hammer-v3") for copy in range(4)
        )
    ]
    assert len(set(streams)) == 12


def test_random_goals_are_uniform():
    stream = schedule(num_goals=10)
    counts = np.bincount([stream.advance() for _ in range(5000)], minlength=10)
    assert counts.min() > 400 and counts.max() < 600


def test_fresh_goals_do_not_come_twice():
    stream = schedule(num_goals=0)
    assert len({stream.advance() for _ in range(1000)}) == 1000


@settings(max_examples=30)
@given(episodes=st.integers(0, 30), order=st.sampled_from(["random", "sweep"]))
def test_a_saved_stream_goes_on_where_it_was(episodes, order):
    stream, other = schedule(order=order), schedule(order=order, seed=99)
    for _ in range(episodes):
        stream.advance()
    other.load_state(stream.state())
    assert [other.advance() for _ in range(10)] == [stream.advance() for _ in range(10)]


def test_a_goal_is_named_by_suite_seed_task_and_number():
    def draw(*name):
        return goal_generator(*name).uniform()

    assert draw(0, "push-v3", 7) == draw(0, "push-v3", 7)
    others = {draw(0, "push-v3", 7), draw(1, "push-v3", 7), draw(0, "reach-v3", 7), draw(0, "push-v3", 8)}
    assert len(others) == 4
    assert draw(0, "push-v3", 2**32) != draw(0, "push-v3", 0)


@given(num_envs=small, obs_size=small, action_size=small)
def test_arrays_over_one_buffer_do_not_overlap(num_envs, obs_size, action_size):
    shape = (num_envs, obs_size, action_size)
    arrays = StepArrays(*shape, buffer=bytearray(StepArrays.nbytes(*shape)))
    fields = [value for value in vars(arrays).values() if isinstance(value, np.ndarray)]
    for field in fields:
        field.fill(1)
        assert sum(int(other.sum()) for other in fields) == field.size
        field.fill(0)


def test_arrays_refuse_a_buffer_that_is_too_small():
    with pytest.raises(TypeError, match="too small"):
        StepArrays(2, 3, 4, buffer=bytearray(8))
