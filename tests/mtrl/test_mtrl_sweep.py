"""Sweeps: what is said of the whole, what is skipped, what a failure does, side by side or one after the other."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrl.sweep import FAILED, FINISHED, SKIPPED, Sweep, swept_settings

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "env=pointmass",
    "env.horizon=5",
    "total_env_steps=80",
    "agent.warmup_steps_per_task=5",
    "agent.samples_per_task=2",
    "network.hidden_sizes=[8]",
    "evaluation.final_episodes=1",
    "evaluation.workers=0",
    "evaluation.every_env_steps=1000",
    "tracking.progress=false",
    "tracking.tensorboard=false",
    "tracking.plots=false",
    "threads=1",
)


def sweep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python train.py -m`` as a user gives it."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def said_of_the_whole(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("Sweep: ")]


def test_a_failed_run_ends_no_other_and_what_is_finished_is_skipped(tmp_path: Path) -> None:
    done = sweep("balancer=static,unitary", "seed=range(2)", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("Balancer 'static' needs the option 'weights'.\n") == 2
    first, *_, last, end = said_of_the_whole(done)
    assert first == "Sweep: run 1 of 4 (balancer=static seed=0); 0 finished, 0 skipped, 0 failed"
    assert last.startswith("Sweep: run 4 of 4 (balancer=unitary seed=1); 1 finished, 0 skipped, 2 failed; about ")
    assert end.endswith("2 finished, 0 skipped, 2 failed (balancer=static seed=0, balancer=static seed=1).")
    names = sorted(path.name for path in (tmp_path / "runs" / "pointmass").iterdir())
    assert [name.rpartition("-")[0] for name in names] == ["mtsac-unitary-seed0", "mtsac-unitary-seed1"]

    again = sweep("balancer=unitary", "seed=range(3)", cwd=tmp_path)
    assert again.returncode == 0
    assert said_of_the_whole(again)[-1].endswith("1 finished, 2 skipped, 0 failed.")
    assert list((tmp_path / "runs").glob(".sweep*")) == []


def test_runs_side_by_side_share_one_count(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `sweep`")
    done = sweep(
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "balancer=rlw,static", "seed=range(2)", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "2 finished, 0 skipped, 2 failed (balancer=static" in said_of_the_whole(done)[-1]
    assert len(list((tmp_path / "runs" / "pointmass").glob("mtsac-rlw-seed*/results.csv"))) == 2


@pytest.mark.parametrize(
    ("overrides", "swept"),
    [
        (["balancer=unitary,famo", "seed=range(10)", "env=pointmass"], {"balancer": 2, "seed": 10}),
        (["seed=range(1,4)", "seed=7"], {}),
        (["agent.tau=interval(0,1)"], {"agent.tau": None}),
        (["seed=choice(1,2,3)"], {"seed": 3}),
    ],
)
def test_the_settings_of_a_sweep_are_counted(overrides: list[str], swept: dict[str, int | None]) -> None:
    assert swept_settings(overrides) == swept


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of six runs that has just begun."""
    monkeypatch.setenv("MTRL_SWEEP_JOURNAL", "")  # so that it is put back afterwards
    return Sweep.begin(tmp_path, ["balancer=a,b", "seed=1,2,3"])


def test_another_process_finds_the_sweep_and_adds_to_it(journal: Sweep) -> None:
    code = "from mtrl.sweep import Sweep; Sweep.current().note('seed=1', 'finished')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    assert "run 2 of 6 (seed=2); 1 finished" in journal.describe_start(2, "seed=2")
    assert journal.name_of_run(["env=pointmass", "balancer=a", "seed=2"]) == "balancer=a seed=2"


def test_time_left_comes_from_the_runs_that_were_trained(journal: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.note("1", SKIPPED)
    assert journal.describe_start(2, "2").endswith("0 failed")  # nothing is known yet
    journal.note("2", FINISHED)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert journal.describe_start(3, "3").endswith("; about 4 min left")


@pytest.mark.parametrize(("codes", "told"), [([0, 0], 0), ([0, 2], 2), ([2, 1, 0], 1)])
def test_the_exit_code_tells_a_fault_from_bad_input(codes: list[int], told: int, journal: Sweep) -> None:
    for code in codes:
        journal.note("run", FAILED if code else FINISHED, code)
    assert journal.end() == told
    assert not journal.journal.exists()
    assert Sweep.current() is None
