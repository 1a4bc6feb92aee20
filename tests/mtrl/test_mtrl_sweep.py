"""Sweeps: what is said of the whole, what is skipped, what a failure does, side by side or one after the other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrl.errors import ConfigError
from mtrl.launch import _have_all
from mtrl.sweep import FAILED, FINISHED, SKIPPED, Sweep, refuse_one_folder, swept_settings
from tests.mtrl.processes import ENDLESS, ROOT, training, wait_until

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


def test_a_stop_signal_ends_the_whole_sweep_and_the_same_command_goes_on_with_it(tmp_path: Path) -> None:
    settings = ("-m", *SMALL, "seed=1,2", f"runs_dir={tmp_path}", "checkpoint.every_env_steps=40")
    with training(*settings, ENDLESS, cwd=tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("pointmass/*/checkpoints/step-*")))
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "run 2 of 2" not in stdout and len(list(tmp_path.glob("pointmass/*"))) == 1


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


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=range(3)"],
        ["run_dir=one", "seed=1"],
        ["run_dir=one,two", "seed=1"],
        ["run_dir=out/${seed}", "seed=1,2"],
        ["run_dir=one", "run_dir=null", "seed=1,2"],
    ],
)
def test_runs_of_a_sweep_with_folders_of_their_own_pass(overrides: list[str]) -> None:
    refuse_one_folder(overrides)


def test_a_sweep_into_one_folder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = sweep("run_dir=one", "balancer=unitary,rlw", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "run_dir=one would be the folder of every run of this sweep: leave it out, or let it differ, as in "
        "'run_dir=one/${balancer.name}-${seed}'.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive  # what is read from the command line is tested without a process
def test_a_folder_that_differs_by_run_is_taken(tmp_path: Path) -> None:
    done = sweep("run_dir=one/${balancer.name}-${seed}", "balancer=unitary,rlw", cwd=tmp_path)
    assert done.returncode == 0 and said_of_the_whole(done)[-1].endswith("2 finished, 0 skipped, 0 failed.")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["rlw-1", "unitary-1"]


def test_an_option_of_one_balancer_in_a_sweep_over_several_says_what_to_do(tmp_path: Path) -> None:
    done = sweep("balancer=unitary,cagrad", "balancer.options.c=0.2,0.4", cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "runs" / "pointmass").exists()
    assert done.stderr.splitlines()[-1] == (
        "'balancer.options.c' is an option of cagrad but not of every balancer of this sweep: give these a sweep "
        "of their own, 'balancer=cagrad balancer.options.c=...', and the others another; finished runs are skipped."
    )


@pytest.mark.exhaustive  # what is read from the command line is tested without a process
def test_an_option_that_all_balancers_of_a_sweep_have_is_given_to_each(tmp_path: Path) -> None:
    done = sweep("balancer=igb_rl,igb_rl_random", "balancer.options.hold=3", "seed=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert said_of_the_whole(done)[0].startswith("Sweep: run 1 of 2 (balancer=igb_rl);")
    configs = [path.read_text() for path in (tmp_path / "runs" / "pointmass").glob("*/config.yaml")]
    assert len(configs) == 2 and all("hold: 3" in text for text in configs)


@pytest.mark.exhaustive  # what is read from the command line is tested without a process
def test_a_sweep_over_options_of_the_suite(tmp_path: Path) -> None:
    done = sweep("env.options.num_goals=0,50", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert said_of_the_whole(done)[0].startswith("Sweep: run 1 of 2 (env.options.num_goals=0);")
    assert len(list((tmp_path / "runs" / "pointmass").iterdir())) == 2


def test_options_of_a_composition_are_known_with_and_without_their_method() -> None:
    names = ["igb_rl+cagrad", "igb_rl_random+cagrad"]
    assert _have_all(names, "balancer.options.c") and _have_all(names, "balancer.options.cagrad.c")
    assert not _have_all(names, "seed") and not _have_all(names, "balancer.options.x")
    with pytest.raises(
        ConfigError, match=r"'balancer.options.learning' is an option of igb_rl\+cagrad but not of every"
    ):
        _have_all(names, "balancer.options.learning")


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
