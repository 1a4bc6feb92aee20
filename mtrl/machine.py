"""What the machine offers, and how much of it a run takes where its config does not say.

Choices follow rules and no measurements: the same machine always gives the same answer, for the number of threads
decides how sums are rounded, and one seed must give one agent.
"""

import contextlib
import math
import os
import select
from pathlib import Path

import psutil

from envs import TaskSuite

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time, and in how many
_ALL_ARE_NEEDED = 4  # cores up to which a worker has none of its own
_MOST_THREADS = 16
_ENVS_PER_WORKER = 4


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, or the quota of its container if that is less."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(bound, _quota() or bound)


def _quota() -> int | None:
    try:
        share, period = _QUOTA.read_text().split()
        return max(math.ceil(int(share) / int(period)), 1)
    except (OSError, ValueError):  # no container, or "max": no quota
        return None


def learning_threads(cores: int) -> int:
    """Threads of the learning process.

    On few cores all of them: a worker simulates for a tenth of the time, and a core kept free for it would idle. On
    more, three quarters: threads of one product wait for the slowest, which must not be the one that shares its core
    with a worker. The number does not depend on the workers, for these must change no result. Beyond sixteen a batch
    has too few rows for a thread.

    :param cores: that the process may use
    """
    if limit := os.environ.get("OMP_NUM_THREADS", ""):  # what every other program would do
        return max(int(limit), 1) if limit.isdigit() else cores
    return cores if cores <= _ALL_ARE_NEEDED else min(cores - cores // 4, _MOST_THREADS)


def simulating_workers(cores: int, suite: TaskSuite, copies: int, device: str, alternating: bool = False) -> int:
    """Processes that simulate; 0 simulates in the learning process.

    None without a second core, and none for suites that are stepped all at once. Where the agent learns on a processor,
    learning takes far longer than simulating: a quarter of the cores, but at least one. Where it learns on an
    accelerator, all cores but the one that feeds it. Where the two alternate, all cores. In any case no more than one
    for four environments: to wake a process takes as long as half a step.

    :param cores: that the processes may use
    :param suite: the tasks
    :param copies: environments per task
    :param device: where the agent learns: ``cpu``, ``cuda``, ...
    :param alternating: whether the agent learns only while nothing is simulated
    """
    if cores < 2 or not suite.makers or not hasattr(select, "poll"):  # workers need a Unix system
        return 0
    free = cores if alternating else cores // 4 if device == "cpu" else cores - 1
    return max(min(free, suite.num_tasks * copies // _ENVS_PER_WORKER), 1)


def evaluating_workers(wanted: int | None, num_envs: int) -> int:
    """Processes that simulate an evaluation, where nothing is done meanwhile; 0 simulates in the calling process.

    :param wanted: as many; None uses every core. One alone would only add its messages, so it counts as none
    :param num_envs: environments that there are to simulate
    """
    workers = min(available_cores(), num_envs) if wanted is None else wanted
    return 0 if workers == 1 else workers


def resident_memory() -> int:
    """Bytes of memory that this process and those it has started hold; what they share counts for each."""
    processes = [psutil.Process()]
    held = 0
    with contextlib.suppress(psutil.Error, OSError):  # where a process may not look at others
        processes += processes[0].children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):  # one that has just ended
            held += process.memory_info().rss
    return held
