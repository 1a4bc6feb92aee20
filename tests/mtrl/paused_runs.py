"""Runs that stop at a step and go on, and what two runs must have in common to be the same run."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.checkpoint import Checkpoint, CheckpointStore
from mtrl.config import RunConfig
from mtrl.console import Quiet
from mtrl.errors import RunStopped
from mtrl.experiment import run
from mtrl.tracking import read_metrics

# What the machine says differs between two runs.
CLOCKS = {"wall_time", "time/fps", "time/time_elapsed", "time/memory_gb"} | {
    f"train/{part}_balancer.refresh_seconds" for part in ("critic", "actor")
}


def run_until(config: RunConfig, env_steps: int, patch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> RunStopped:
    """Run, and send a signal to this process when so many env_steps are made; returns how the run ended."""

    def step(self: Quiet, now: int, updates: int) -> None:
        if now == env_steps:
            os.kill(os.getpid(), number)

    with patch.context() as patched, pytest.raises(RunStopped) as stopped:
        patched.setattr(Quiet, "step", step)
        run(config)
    return stopped.value


def checkpoints(folder: Path) -> list[Checkpoint]:
    """All checkpoints of a run, the newest first."""
    return [Checkpoint(path) for path in CheckpointStore(folder / "checkpoints").folders()]


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what a clock on the wall says."""
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in read_metrics(folder)]


def everything(folder: Path) -> dict[str, Any]:
    """What a finished run has come to: agent, generators, replay, environments, metrics, results."""
    last = checkpoints(folder)[0]
    last.verify()
    contents = last.read()
    agent = contents["agent"]
    del agent["log"]
    for info in agent["episode_infos"]:
        info["t"] = 0
    return {
        "agent": comparable(agent),
        "replay": ring(last),
        "environments": contents["state"]["environments"],
        "metrics": lines(folder),
        "results": (folder / "results.csv").read_text(),
    }


def comparable(value: Any) -> Any:
    """Nested state in which tensors are bytes, so that it can be compared with ``==``."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items()}
    return [comparable(entry) for entry in value] if isinstance(value, (list, tuple)) else repr(value)


def ring(checkpoint: Checkpoint) -> list[bytes]:
    """The transitions of every task in the order they were made, whatever files they lie in."""
    oldest = np.maximum(
        np.array(checkpoint.manifest["replay"]["stored"]) - checkpoint.manifest["replay"]["capacity"], 0
    )
    tasks: list[list[np.ndarray]] = [[] for _ in oldest]
    for chunk in checkpoint.chunks:
        first, last = np.array(chunk.first), np.array(chunk.last)
        parts = np.split(checkpoint.rows(chunk.name), np.cumsum(last - first)[:-1])
        for task, part in enumerate(parts):
            tasks[task].append(part[max(oldest[task] - first[task], 0) :])
    return [np.concatenate(parts).tobytes() for parts in tasks]


def flip(path: Path, position: int | None = None) -> None:
    """Change one bit of a file, in the middle unless told where; a link of it elsewhere stays as it is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.unlink()
    path.write_bytes(data)


def reseal(path: Path) -> None:
    """Give a checkpoint that was changed by hand a manifest that agrees with its files."""
    from mtrl.checkpoint import MANIFEST, _seal, _sha256_of

    manifest = json.loads((path / MANIFEST).read_text())
    manifest.pop("sha256")
    for name, record in manifest["files"].items():
        record |= {"bytes": (path / name).stat().st_size, "sha256": _sha256_of(path / name)}
    (path / MANIFEST).write_text(json.dumps({**manifest, "sha256": _seal(manifest)}))
