"""A sweep on Ray is the sweep of ``train.py -m``: the same folders, skipped where they are finished."""

import subprocess
from pathlib import Path

import pytest

from mtrl.compose import compose, compose_grid
from mtrl.errors import ConfigError
from mtrl.experiment import run
from mtrl.run_folder import RunFolder
from mtrl.tune.commands import _jobs
from tests.mtrl.test_mtrl_tune_command import SMALL, command


def test_a_grid_has_every_combination_and_names_what_differs() -> None:
    grid = compose_grid(["env=pointmass", "balancer=unitary,famo+pcgrad", "seed=range(2)", "agent.tau=0.01"])
    assert [point.overrides for point in grid] == [
        f"balancer={balancer} seed={seed}" for balancer in ("unitary", "famo+pcgrad") for seed in (0, 1)
    ]
    assert {point.config.agent.tau for point in grid} == {0.01}
    assert len({RunFolder.of(point.config).path for point in grid}) == 4


def test_options_of_the_suite_are_swept_and_named_as_they_were_given() -> None:
    grid = compose_grid(["env=pointmass", "env.options.num_goals=0,50"])
    assert [point.overrides for point in grid] == ["env.options.num_goals=0", "env.options.num_goals=50"]
    assert [point.config.env.options for point in grid] == [{"num_goals": 0}, {"num_goals": 50}]


def test_runs_may_lie_anywhere_unless_they_travel_through_a_storage(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    points = compose_grid(["env=pointmass", "seed=1,2", f"run_dir={elsewhere}/${{seed}}"])
    jobs = _jobs(points, tmp_path / "runs", None)
    assert [job.config["run_dir"] for job in jobs] == [str(elsewhere / seed) for seed in "12"]
    with pytest.raises(ConfigError, match="With --storage every run lies within .*runs', found .*elsewhere/1'"):
        _jobs(points, tmp_path / "runs", "s3://bucket")


def test_a_grid_over_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"experiment has no choice 'mt10_laptp'; did you mean 'mt10_laptop'\?"):
        compose_grid(["experiment=mt10_laptop,mt10_laptp"])


def test_a_single_config_takes_one_value_for_each_setting() -> None:
    assert compose(["env=pointmass", "seed=3"]).seed == 3
    with pytest.raises(ConfigError, match=r"takes one value here, found several: seed=2\."):
        compose(["env=pointmass", "seed=1,2"])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_alone")
def test_a_sweep_skips_what_is_finished_and_goes_on_beside_what_fails(tmp_path: Path) -> None:
    settings = [*SMALL, f"runs_dir={tmp_path / 'runs'}"]
    finished = run(compose([*settings, "balancer=unitary", "seed=1", "tracking.progress=false"]))
    arguments = ["sweep", *settings, "balancer=unitary,static", "seed=1,2", "tracking.progress=false", "--workers", "2"]
    done = subprocess.run(command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("Sweep: ")]
    assert lines[0] == "Sweep: 1 of 4 runs are finished already."
    assert len(lines) == 5 and "needs the option 'weights'" in done.stdout
    assert lines[-1].endswith("1 finished, 1 skipped, 2 failed (balancer=static seed=1, balancer=static seed=2).") or (
        lines[-1].endswith("1 finished, 1 skipped, 2 failed (balancer=static seed=2, balancer=static seed=1).")
    )
    other = compose([*settings, "balancer=unitary", "seed=2", "tracking.progress=false"])
    assert RunFolder.of(other).status == "finished" and finished.folder.parent == RunFolder.of(other).path.parent
    assert not list((tmp_path / "runs").glob(".ray-*"))
