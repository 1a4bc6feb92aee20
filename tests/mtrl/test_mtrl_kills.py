"""Nothing short of a broken disk loses a run: kills at any moment, full disks, files that change, orphans."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from mtrl.checkpoint import Checkpoint, CheckpointStore
from mtrl.tracking import read_metrics
from tests.mtrl.processes import ENDLESS, ROOT, training, wait_for_checkpoint, wait_for_metrics, wait_until

# A hundred kills, in four lots that can be worked off side by side.
HUNDRED = [pytest.param(25, seed, marks=pytest.mark.faults) for seed in (1, 2, 3, 4)]


@pytest.mark.parametrize(("kills", "seed"), [(6, 1), *HUNDRED])
def test_a_run_that_is_killed_at_random_moments_ends_like_one_that_was_not(
    tmp_path: Path, kills: int, seed: int
) -> None:
    command = [sys.executable, "-m", "tests.mtrl.kill_runs", str(tmp_path), str(kills), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1150)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) >= kills


def test_a_killed_command_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    tasks = ("env=gym", "env.tasks=[Pendulum-v1,MountainCarContinuous-v0]", "env.workers=2")
    with training(*tasks, f"run_dir={tmp_path / 'run'}", ENDLESS, "tracking.every_env_steps=20") as process:
        wait_for_metrics(tmp_path / "run")
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert alive == []
    if shared or os.path.isdir("/dev/shm"):
        assert set(os.listdir("/dev/shm")) <= shared


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)]
)
def test_a_stop_signal_to_the_whole_group_ends_every_process_and_keeps_a_checkpoint(
    tmp_path: Path, hangup_is_heard: None, number: int, code: int
) -> None:
    tasks = ("env=metaworld", "env.tasks=[reach-v3,push-v3]", "env.workers=2")
    with training(*tasks, f"run_dir={tmp_path / 'run'}", ENDLESS, "tracking.every_env_steps=20") as process:
        wait_for_metrics(tmp_path / "run")
        workers = psutil.Process(process.pid).children(recursive=True)
        for member in [*workers, psutil.Process(process.pid)]:  # as a terminal or a cluster does
            member.send_signal(number)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    newest = CheckpointStore(tmp_path / "run" / "checkpoints").newest(pytest.fail)
    assert newest is not None and newest.env_steps > 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


SLOW_DISK = """
import sys, time
from mtrl import checkpoint
write = checkpoint.NewFile.write
def slow(self, data):
    if len(store_folders()) > 0:
        open(sys.argv[1] + "/writing", "w").close()
        time.sleep(600)
    return write(self, data)
def store_folders():
    return checkpoint.CheckpointStore(__import__("pathlib").Path(sys.argv[1]) / "run" / "checkpoints").folders()
checkpoint.NewFile.write = slow
from mtrl.launch import run_or_exit
from tests.mtrl.conftest import tiny
run_or_exit(tiny(sys.argv[1], run_dir=sys.argv[1] + "/run", total_env_steps=10_000_000, threads=1,
                 checkpoint={"every_env_steps": 200}, tracking={"progress": False, "tensorboard": False}))
"""


def test_a_second_signal_leaves_at_once_and_the_checkpoint_before_is_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_DISK, str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: (tmp_path / "writing").exists())
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None  # waits for a disk that does not answer
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 75
    assert stderr.endswith("SIGTERM again: leaving at once; whatever checkpoint was written is whole.\n")
    newest = CheckpointStore(tmp_path / "run" / "checkpoints").newest(pytest.fail)
    assert newest is not None and newest.env_steps == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here ({mounted.stderr.decode().strip()})")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.faults
def test_a_run_outlives_a_full_disk(small_disk: Path) -> None:
    run_dir = small_disk / "run"
    settings = ("tracking.every_env_steps=8", "checkpoint.every_env_steps=100", "evaluation.every_env_steps=100_000")
    with training(
        "env=pointmass", f"run_dir={run_dir}", "total_env_steps=6_000", "tracking.tensorboard=true", *settings
    ) as process:
        wait_for_checkpoint(run_dir)
        with (small_disk / "hog").open("wb", buffering=0) as hog:
            fill_up(hog)
            before = Checkpoint(CheckpointStore(run_dir / "checkpoints").folders()[0]).env_steps
            lines = len(read_metrics(run_dir))
            time.sleep(3)
            assert process.poll() is None, process.communicate()
            survivor = CheckpointStore(run_dir / "checkpoints").newest(pytest.fail)
            assert survivor is not None and survivor.env_steps >= before
        (small_disk / "hog").unlink()
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.count("no checkpoint can be written (No space left on device)") == 1
    assert stdout.count("metrics.jsonl cannot be written (No space left on device)") == 1
    assert stdout.count("TensorBoard failed and is left out from here on") == 1
    steps = [line["env_steps"] for line in read_metrics(run_dir) if "train/n_updates" in line]
    assert steps == list(range(8, 6_001, 8)) and len(steps) > lines
    newest = CheckpointStore(run_dir / "checkpoints").newest(pytest.fail)
    assert newest is not None and newest.env_steps == 6_000


def fill_up(file: IO[bytes]) -> None:
    """Write until there is no room, in ever smaller pieces."""
    size = 1 << 20
    while size:
        try:
            file.write(b"0" * size)
        except OSError:
            size //= 2
