"""Time to import the toolkit, and memory of an MT10 run with a full replay buffer.

``python -m benchmarks.footprint``. Each figure is taken in a fresh process. Memory is the resident set of the learning
process at its peak, plus that of its simulating workers at the end: pages that they share are counted more than once.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import markdown

IMPORTS = {
    "import mtrl": "import mtrl",
    "from mtrl import MTSAC, make_env": "from mtrl import MTSAC, make_env",
}

_TIMED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def import_seconds(statement: str, rounds: int = 5) -> float:
    """Median seconds of an import in a fresh interpreter."""
    command = [sys.executable, "-c", _TIMED.format(statement)]
    return statistics.median(float(subprocess.check_output(command, text=True)) for _ in range(rounds))


def run_megabytes(transitions: int = 200_000, workers: int = 1, suite: str = "mt10") -> float:
    """Resident megabytes of a run whose replay buffer of so many transitions is full."""
    command = [sys.executable, "-m", "benchmarks.footprint", "--run", str(transitions), str(workers), suite]
    return float(subprocess.check_output(command, text=True).splitlines()[-1])


def _run(transitions: int, workers: int, suite: str) -> float:
    import numpy as np
    import psutil

    from mtrl import MTSAC, make_env
    from mtrl.machine import resident_memory

    env = make_env(suite, seed=0, workers=workers)
    model = MTSAC("MultiTaskPolicy", env, buffer_size=transitions, batch_size=128 * env.num_tasks, learning_starts=0)
    assert model.replay_buffer is not None
    observations = env.reset()
    actions = np.zeros((env.num_envs, *env.action_space.shape), np.float32)  # type: ignore[misc]
    infos: list[dict[str, bool]] = [{} for _ in observations]
    flat = np.zeros(env.num_envs, np.float32)
    for _ in range(transitions // env.num_envs):
        model.replay_buffer.add(observations, observations, actions, flat, flat.astype(bool), infos)
    model.learn(20 * env.num_envs)
    workers_memory = resident_memory() - psutil.Process().memory_info().rss
    env.close()
    return (_peak_bytes() + workers_memory) / 1e6


def _peak_bytes() -> int:
    """Peak of this process's resident set; what it holds now where the system does not tell the peak.

    Not ``getrusage``: its peak is never below what the parent process held when it started this one.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import psutil

    return psutil.Process().memory_info().rss


def report() -> str:
    """The measured table in Markdown."""
    rows = [[name, f"{import_seconds(statement):.2f} s"] for name, statement in IMPORTS.items()]
    rows.append(["memory of an MT10 run, 200 000 transitions, one worker", f"{run_megabytes() / 1000:.2f} GB"])
    return markdown(["footprint", "measured"], rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=3, metavar=("TRANSITIONS", "WORKERS", "SUITE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        transitions, workers, suite = arguments.run
        print(_run(int(transitions), int(workers), suite))
    else:
        print(report())


if __name__ == "__main__":
    main()
