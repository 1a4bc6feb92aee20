"""A vector that is dropped without `close` gives its simulators and its processes back."""

import gc

import numpy as np
import psutil
import pytest

from envs import make_suite


@pytest.mark.parametrize("workers", [0, 2])
def test_ten_vectors_that_were_dropped_leave_neither_memory_nor_processes(workers):
    process, suite = psutil.Process(), make_suite("metaworld", tasks=["reach-v3"])

    def used_after(count):
        for _ in range(count):
            env = suite.make_vec_env(seed=1, workers=workers)
            env.reset()
            env.step(np.zeros((env.num_envs, 4), np.float32))
            del env
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))

    before, processes = used_after(3), len(process.children(recursive=True))
    # Each of them holds 20 MB.
    assert used_after(10) - before < 80e6
    assert len(process.children(recursive=True)) == processes


def test_environments_that_were_dropped_are_closed_once(new_constructor):
    closed = []

    class Closing(new_constructor()):
        def close(self):
            closed.append(self.count)

    suite = make_suite("gym", tasks={"a": Closing, "b": Closing}, horizon=5)
    closed.clear()  # the suite itself builds one of each to look at its spaces
    env = suite.make_vec_env(seed=0)
    del env
    gc.collect()
    assert len(closed) == 2
    env = suite.make_vec_env(seed=0)
    env.close()
    del env
    gc.collect()
    assert len(closed) == 4
