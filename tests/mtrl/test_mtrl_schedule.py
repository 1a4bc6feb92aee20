"""Weights over the budget as a file: read into the config, which then needs the file no more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.experiment import run
from mtrl.tracking import read_metrics
from mtrl.weight_schedule import WeightSchedule, read_schedule, write_schedule
from tests.mtrl.conftest import tiny

SCHEDULE = WeightSchedule(
    tasks=("point-0", "point-1", "point-2", "point-3"),
    times=(0.0, 0.5),
    weights=((4.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 4.0)),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A schedule on disk."""
    path = tmp_path / "schedule.json"
    write_schedule(SCHEDULE, path)
    return path


def config(file: Path, **balancer: Any) -> RunConfig:
    return RunConfig.from_dict({"balancer": {"name": "schedule", **balancer}, "schedule": str(file)})


def test_a_schedule_is_read_as_it_was_written(file: Path) -> None:
    assert read_schedule(file) == SCHEDULE


def test_the_config_holds_the_numbers_and_not_the_file(file: Path, tmp_path: Path) -> None:
    found = config(file, options={"weights_on": "sampling", "times": None, "weights": None})
    assert found.schedule is None and RunConfig.from_dict(found.to_dict()) == found
    assert found.balancer.options["times"] == [0.0, 0.5] and found.balancer.options["weights_on"] == "sampling"
    copy = tmp_path / "copy.json"
    copy.write_bytes(file.read_bytes())
    assert config(copy, options=found.balancer.options).identity() == found.identity()


def test_a_composition_gets_the_schedule_too(file: Path) -> None:
    found = config(file, name="schedule+cagrad")
    assert found.critic_balancer[1]["schedule.times"] == [0.0, 0.5]
    found.make_suite()


def test_a_run_follows_the_schedule(file: Path, tmp_path: Path) -> None:
    values = tiny(tmp_path / "runs", balancer={"name": "schedule"}, tracking={"progress": False, "every_env_steps": 20})
    result = run(RunConfig.from_dict({**values, "schedule": str(file)}))
    lines = [line for line in read_metrics(result.folder) if "balancer_weight/point-0" in line]
    first, last = lines[0], lines[-1]
    assert (first["balancer_weight/point-0"], first["balancer_weight/point-3"]) == (4.0, 0.0)
    assert (last["balancer_weight/point-0"], last["balancer_weight/point-3"]) == (0.0, 4.0)


def test_a_schedule_without_its_balancer_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule needs balancer=schedule, found balancer=unitary\."):
        RunConfig.from_dict({"schedule": str(file)})


def test_a_schedule_of_other_tasks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "turned.json"
    write_schedule(replace(SCHEDULE, tasks=SCHEDULE.tasks[::-1]), path)
    with pytest.raises(ConfigError, match=r"other tasks: point-3, .*; the run's, in this order, are point-0, "):
        config(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"tasks": ["a"], "steps": [{"weights": [1]}]}',
        '{"tasks": ["a"], "steps": [{"budget_used": 0, "weights": 1}]}',
        '{"steps": [{"budget_used": 0, "weights": [1]}]}',
    ],
)
def test_a_file_that_is_no_schedule_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="schedule must be a file that mtrl tune wrote, '.*other.json' is none"):
        config(path)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="'nowhere.json': No such file"):
        config(Path("nowhere.json"))
