"""``python -m tests.mtrl.kill_runs FOLDER KILLS SEED``: a run is killed again and again, and goes on each time.

Every life is a fork of this process, so that it does not begin with a second of imports. It dies a random time after a
random step, or after a random number of bytes of a checkpoint, and what lies on disk is checked before the next one.
The run that ends is compared with one that was never killed; then another one begins.
"""

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mtrl import checkpoint
from mtrl.checkpoint import CheckpointStore
from mtrl.config import RunConfig
from mtrl.console import Quiet
from mtrl.experiment import run
from tests.mtrl.conftest import tiny
from tests.mtrl.paused_runs import everything, lines

STEPS = 1_200


def config_of(folder: Path, seed: int) -> RunConfig:
    """A run of a second at most that is written down every 40 env_steps.

    An update in every fourth vector step is enough: what is killed is the writing, and learning takes the time.
    """
    agent = {"warmup_steps_per_task": 10, "replay_per_task": 200, "samples_per_task": 4, "train_freq": 4}
    fixed: dict[str, Any] = {
        "balancer": {"name": "rlw"},
        "agent": agent,
        "evaluation": {"every_env_steps": 300},
        "tracking": {"every_env_steps": 20, "plots": False, "tensorboard": False},
        "checkpoint": {"every_env_steps": 40},
        "threads": 1,
        "total_env_steps": STEPS,
        "run_dir": str(folder),
        "seed": seed,
    }
    return RunConfig.from_dict(tiny(folder.parent, **fixed))


def live(config: RunConfig, said: Path, die: Callable[[], None] | None = None) -> int:
    """Fork a process that runs, with a way to die unless it is spared; returns its exit status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    code = 1
    try:
        if die is not None:
            die()
        with said.open("a") as file, contextlib.redirect_stdout(file):
            run(config)
        code = 0
    finally:
        os._exit(code)


def die_after_steps(steps: int, seconds: float) -> None:
    """Make this process kill itself so many seconds after so many vector steps, whatever it does then."""
    left = [steps]

    def step(self: Quiet, now: int, updates: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    Quiet.step = step  # type: ignore[method-assign]


def die_after_bytes(bytes_left: int) -> None:
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
            if chance.random() < 0.5:
                die = partial(die_after_bytes, chance.randrange(80_000))
            else:
                die = partial(die_after_steps, chance.randint(1, 60), chance.uniform(0.0, 0.05))
            status = live(config, folder / "said.txt", die if killed < kills else None)
            ended = os.WIFEXITED(status)
            assert not ended or os.WEXITSTATUS(status) == 0, f"the run failed, see {folder / 'said.txt'}"
            killed += not ended
            newest = check(place, newest)
        whole = folder / f"whole-{number}"
        assert live(config_of(whole, seed=number), folder / "said.txt") == 0
        ours, theirs = everything(place), everything(whole)
        for what in theirs:
            assert ours[what] == theirs[what], f"{what} differs from a run that was never killed"
        assert len({str(line) for line in lines(place)}) == len(lines(place))
    print(f"{killed} kills, {number} runs: each ended like the one that was never killed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
