"""``train.py`` in processes of its own, for the tests that stop them, kill them, and take their disk away."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtrl.checkpoint import CheckpointStore
from mtrl.tracking import METRICS_FILE

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "agent.warmup_steps_per_task=10",
    "agent.precision=float32",
    "network.hidden_sizes=[8]",
    "evaluation.final_episodes=1",
    "evaluation.workers=0",
    "threads=1",
    "tracking.tensorboard=false",
    "tracking.progress=false",
    "tracking.plots=false",
)
ENDLESS = "total_env_steps=10_000_000"


@contextmanager
def training(*settings: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A small run as a command; none is left when the context ends.

    :param settings: of the run, and flags; they overrule those that make it small
    :param options: of ``Popen``; its output is caught unless they say otherwise
    """
    flags = [setting for setting in settings if setting.startswith("-")]  # which must stand together, like the others
    command = [sys.executable, str(ROOT / "train.py"), *flags, *SMALL, *(s for s in settings if s not in flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **{**pipes, **options})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def wait_for_checkpoint(folder: Path) -> None:
    """Wait for the first checkpoint of a run."""
    wait_until(lambda: CheckpointStore(folder / "checkpoints").folders())


def wait_for_metrics(folder: Path, text: str = "") -> None:
    """Wait for a line of ``metrics.jsonl``, or one that holds a text."""
    metrics = folder / METRICS_FILE
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0 and text in metrics.read_text())
