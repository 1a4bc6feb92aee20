"""The job script of docs/reliability.md does what the page says, with a scheduler and a training that only act."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mtrl.processes import ROOT, wait_until

# The training ends with 75 when it is signalled, or at once with the code in a file.
STUBS = {
    "srun": 'exec "$@"',
    "scontrol": 'echo "$@" >> scontrol.txt',
    "python": "trap 'exit 75' USR1; touch started; [ -e code ] && exit $(cat code); while :; do sleep 0.05; done",
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with the script of the page and what it calls."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    found = re.search(r"## On SLURM\n\n```text\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "job.sh").write_text(found[1])
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SCRATCH": str(folder), "SLURM_JOB_ID": "42"}
    return subprocess.Popen(["bash", "job.sh"], cwd=folder, env=environment, text=True)


def test_a_job_whose_time_is_up_is_queued_again(job: Path) -> None:
    batch = start(job)
    wait_until((job / "started").exists, seconds=20)
    batch.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B:USR1@180 asks for
    assert batch.wait(20) == 75
    assert (job / "scontrol.txt").read_text() == "requeue 42\n"


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_job_that_ended_by_itself_is_not_queued_again(job: Path, code: int) -> None:
    (job / "code").write_text(str(code))
    assert start(job).wait(20) == code
    assert not (job / "scontrol.txt").exists()
