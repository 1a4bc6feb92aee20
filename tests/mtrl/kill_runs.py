"""``python -m tests.mtrl.kill_runs FOLDER KILLS SEED``: a run is killed again and again, and goes on each time.

Every life is a fork of this process, so that it does not begin with a second of imports. It is killed after a random
time, or by itself after a random number of bytes of a checkpoint, and what lies on disk is checked before the next one.
The run that ends is compared with one that was never killed; then another one begins.
"""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mtrl import checkpoint
from mtrl.checkpoint import CheckpointStore
from mtrl.config import RunConfig
from mtrl.experiment import run
from tests.mtrl.conftest import tiny
from tests.mtrl.paused_runs import everything, lines

STEPS = 2_400


def config_of(folder: Path, seed: int) -> RunConfig:
    """A run of about two seconds that is written down every 80 env_steps."""
    fixed: dict[str, Any] = {
        "balancer": {"name": "rlw"},
        "agent": {"warmup_steps_per_task": 10, "replay_per_task": 200, "samples_per_task": 4, "precision": "float32"},
        "evaluation": {"every_env_steps": 600},
        "tracking": {"every_env_steps": 40, "plots": False, "tensorboard": False},
        "checkpoint": {"every_env_steps": 80},
        "threads": 1,
        "total_env_steps": STEPS,
        "run_dir": str(folder),
        "seed": seed,
    }
    return RunConfig.from_dict(tiny(folder.parent, **fixed))


def live(config: RunConfig, said: Path, bytes_left: int | None) -> int:
    """Fork a process that runs, and dies by itself after so many bytes of checkpoints; returns its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if bytes_left is not None:
            die_after(bytes_left)
        with said.open("a") as file, contextlib.redirect_stdout(file):
            run(config)
        code = 0
    finally:
        os._exit(code)


def die_after(bytes_left: int) -> None:
    """Make this process kill itself in the middle of a write of a checkpoint's file."""
    write, left = checkpoint.NewFile.write, [bytes_left]

    def die(self: checkpoint.NewFile, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) > left[0]:
            write(self, view[: left[0]])
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= len(view)
        return write(self, data)

    checkpoint.NewFile.write = die  # type: ignore[method-assign]


def check(folder: Path, before: int) -> int:
    """What a kill may leave: every checkpoint that is there is whole, none is lost; returns the newest one's step."""
    problems: list[str] = []
    found = CheckpointStore(folder / "checkpoints").newest(problems.append)
    assert problems == [], problems
    step = 0 if found is None else found.env_steps
    assert step >= before, f"the checkpoint of step {before} is lost, {step} is the newest"
    return step


def main(folder: Path, kills: int, seed: int) -> None:
    """Kill runs until there were so many kills, and let the last one end."""
    torch.set_num_threads(1)
    chance, killed, number = random.Random(seed), 0, 0
    while killed < kills:
        number += 1
        place, newest, ended = folder / f"run-{number}", 0, False
        config = config_of(place, seed=number)
        while not ended:
            spare = killed >= kills
            by_bytes = not spare and chance.random() < 0.5
            process = live(config, folder / "said.txt", chance.randrange(60_000) if by_bytes else None)
            if not by_bytes and not spare:
                time.sleep(chance.uniform(0.0, 1.0))
                os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            ended = os.WIFEXITED(status)
            assert not ended or os.WEXITSTATUS(status) == 0, f"the run failed, see {folder / 'said.txt'}"
            killed += not ended
            newest = check(place, newest)
        whole = folder / f"whole-{number}"
        os.waitpid(live(config_of(whole, seed=number), folder / "said.txt", None), 0)
        ours, theirs = everything(place), everything(whole)
        for what in theirs:
            assert ours[what] == theirs[what], f"{what} differs from a run that was never killed"
        assert len({str(line) for line in lines(place)}) == len(lines(place))
    print(f"{killed} kills, {number} runs: each ended like the one that was never killed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
