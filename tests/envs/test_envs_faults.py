"""What goes wrong in an environment is noticed, names its task, and leaves nothing behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from functools import partial

import numpy as np
import pytest

from envs import EnvironmentFault, make_suite

both_modes = pytest.mark.parametrize("workers", [0, 2])


def run(env, steps=10):
    env.reset()
    for _ in range(steps):
        env.step(np.zeros((env.num_envs, *env.action_space.shape), np.float32))


def gone(pid):
    """Whether a process has ended (a zombie that nobody waits for counts as ended)."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def eventually(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@both_modes
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "task 'two' raised in step: ZeroDivisionError: the simulator blew up"),
        ("reset", "task 'two' raised in reset: OSError: cannot be placed"),
        ("nan state", r"task 'two' \(environment 1\) returned an observation that is not finite in step"),
        ("nan reward", r"task 'two' \(environment 1\) returned a reward that is not finite in step"),
    ],
)
def test_a_fault_names_its_task(counters, vec_env, workers, fault, words):
    env = vec_env(counters(fault=fault), workers=workers)
    with pytest.raises(EnvironmentFault, match=words):
        run(env)
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


@pytest.mark.parametrize(("fault", "when"), [("raise", "step"), ("reset", "reset")])
def test_a_fault_in_a_worker_is_one_line_and_its_traceback_is_the_cause(counters, vec_env, fault, when):
    with pytest.raises(EnvironmentFault, match=f"task 'two' raised in {when}: ") as raised:
        run(vec_env(counters(fault=fault), workers=2))
    assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value)
    shown = "".join(traceback.format_exception(raised.value))  # what --debug prints
    assert "in the worker:\nTraceback" in shown and f"in {when}\n" in shown


def test_a_worker_that_cannot_be_set_up_names_its_tasks(counters, vec_env):
    class Untravelled:
        def __reduce__(self):
            return exec, ("raise ModuleNotFoundError('no module of mine')",)

    suite = counters()
    suite.makers[1] = partial(suite.makers[1], Untravelled())
    with pytest.raises(
        EnvironmentFault, match="^the worker with task 'two' could not be set up: ModuleNotFoundError: "
    ):
        vec_env(suite, workers=2)


def test_an_error_in_a_users_method_brings_the_workers_traceback(counters, vec_env):
    env = vec_env(counters(), workers=2)
    env.reset()
    with pytest.raises(AttributeError) as raised:
        env.env_method("no_such_method")
    assert "in the worker:\nTraceback" in "".join(traceback.format_exception(raised.value))


def test_a_terminal_observation_that_is_not_finite_is_a_fault(counters, vec_env):
    env = vec_env(counters(fault="nan state", at=4, ends_at=4))
    with pytest.raises(EnvironmentFault, match="task 'two'"):
        run(env)


@both_modes
def test_a_task_that_cannot_be_built_is_named(new_constructor, workers):
    built = []

    class Fragile(new_constructor()):
        def __init__(self, render_mode=None):
            super().__init__(render_mode)
            built.append(self)
            if len(built) > 1 or workers:  # the suite itself builds one to look at its spaces
                raise OSError("no such mesh")

    if workers:
        suite = make_suite("gym", tasks={"good": new_constructor(), "bad": new_constructor()}, horizon=5)
        broken = new_constructor(fault="build")
        suite.makers[1] = type(suite.makers[1])(suite.makers[1].func, "bad", broken, *suite.makers[1].args[2:])
    else:
        suite = make_suite("gym", tasks={"good": new_constructor(), "bad": Fragile}, horizon=5)
    with pytest.raises(EnvironmentFault, match="task 'bad' could not be built: OSError: no such mesh"):
        suite.make_vec_env(seed=0, workers=workers)


def test_a_worker_that_hangs_is_noticed_and_ended(counters, vec_env):
    env = vec_env(counters(fault="hang"), workers=2, worker_timeout=1.0)
    processes = [worker.process for worker in env._backend._workers]
    with pytest.raises(EnvironmentFault, match="task 'two' gave no sign of life for 1 s while stepping"):
        run(env)
    assert all(process.poll() is not None for process in processes)


def test_a_worker_that_dies_is_noticed_at_once(counters, vec_env):
    env = vec_env(counters(), workers=2)
    run(env, steps=1)
    victim = env._backend._workers[1].process
    os.kill(victim.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"task 'two' died \(exit code -9\)"):
        run(env, steps=2)
    assert time.monotonic() - began < 5.0


def test_an_error_in_a_users_method_leaves_the_vector_usable(counters, vec_env):
    env = vec_env(counters(), workers=2)
    env.reset()
    with pytest.raises(AttributeError):
        env.get_attr("no_such_attribute")
    run(env, steps=2)


_PARENT = """
import sys, time
import numpy as np
from envs import make_suite
env = make_suite("gym", tasks=["Pendulum-v1", "MountainCarContinuous-v0"]).make_vec_env(seed=0, workers=2)
env.reset()
print(*[worker.process.pid for worker in env._backend._workers], flush=True)
if sys.argv[1] == "raise":
    raise RuntimeError("something else went wrong")
env.step_async(np.zeros((2, 1), np.float32))
time.sleep(60)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="needs /proc to see whether a process ended")
@pytest.mark.parametrize("end", ["kill", "interrupt", "raise"])
def test_nothing_survives_the_parent(end):
    shared = pathlib.Path("/dev/shm")
    before = set(shared.iterdir()) if shared.exists() else set()
    root = pathlib.Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    if end != "raise":
        parent.send_signal(signal.SIGKILL if end == "kill" else signal.SIGINT)
    _, errors = parent.communicate(timeout=30)
    assert eventually(lambda: all(gone(pid) for pid in workers))
    # Only the parent speaks of what happened to it.
    assert errors.count("Traceback") == (0 if end == "kill" else 1)
    assert (set(shared.iterdir()) if shared.exists() else set()) <= before


def test_workers_compute_with_one_thread(counters, vec_env, new_constructor):
    class Threads(new_constructor()):
        @property
        def threads(self):
            import os

            return os.environ["OMP_NUM_THREADS"]

    env = vec_env(make_suite("gym", tasks={"a": Threads}, horizon=5), workers=1)
    assert env.get_attr("threads") == ["1"]


def test_workers_do_not_load_torch(new_constructor, vec_env):
    class Modules(new_constructor()):
        def loaded(self):
            import sys

            return "torch" in sys.modules

    env = vec_env(make_suite("gym", tasks={"a": Modules}, horizon=5), workers=1)
    assert env.env_method("loaded") == [False]
