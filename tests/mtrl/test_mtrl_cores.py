"""How many threads learn and how many processes simulate follows from the machine, and changes no result."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from envs import TaskSuite, make_suite
from mtrl import machine
from mtrl.build import make_training_env
from mtrl.config import RunConfig
from mtrl.experiment import run
from mtrl.machine import (
    available_cores,
    evaluating_workers,
    learning_threads,
    resident_memory,
    simulating_workers,
)
from mtrl.tracking import read_metrics, task_series

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def suites() -> dict[str, TaskSuite]:
    return {name: make_suite(name) for name in ("mt10", "mt50", "pointmass")}


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (4, 4), (8, 6), (16, 12), (64, 16)])
def test_learning_leaves_a_quarter_of_many_cores(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert learning_threads(cores) == threads


@pytest.mark.parametrize(("limit", "threads"), [("1", 1), ("3", 3), ("nonsense", 8)])
def test_openmps_own_variable_is_heeded(limit: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert learning_threads(8) == threads


@pytest.mark.parametrize(
    ("suite", "copies", "device", "workers"),
    [
        ("mt10", 1, "cpu", {1: 0, 2: 1, 4: 1, 8: 2, 16: 2, 64: 2}),
        ("mt50", 1, "cpu", {1: 0, 2: 1, 8: 2, 16: 4, 64: 12}),
        ("mt10", 4, "cpu", {2: 1, 16: 4, 64: 10}),
        ("mt10", 1, "cuda", {1: 0, 2: 1, 4: 2, 16: 2}),
        ("mt50", 1, "cuda", {2: 1, 8: 7, 16: 12, 64: 12}),
        ("pointmass", 8, "cuda", {1: 0, 16: 0}),  # is stepped all at once
    ],
)
def test_workers_take_the_cores_that_learning_can_spare(
    suites: dict[str, TaskSuite], suite: str, copies: int, device: str, workers: dict[int, int]
) -> None:
    assert {cores: simulating_workers(cores, suites[suite], copies, device) for cores in workers} == workers


def test_an_agent_that_learns_after_simulating_leaves_all_cores_to_the_workers(suites: dict[str, TaskSuite]) -> None:
    found = {cores: simulating_workers(cores, suites["mt10"], 4, "cpu", alternating=True) for cores in (1, 2, 4, 64)}
    assert found == {1: 0, 2: 2, 4: 4, 64: 10}


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64)])
def test_the_quota_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("wanted", "envs", "workers"), [(None, 20, 8), (None, 3, 3), (None, 1, 0), (1, 20, 0), (0, 20, 0), (12, 20, 12)]
)
def test_an_evaluation_takes_every_core_and_never_a_single_worker(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, envs: int, workers: int
) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    assert evaluating_workers(wanted, envs) == workers


def test_what_the_config_names_is_taken() -> None:
    config = RunConfig.from_dict({"env": {"suite": "metaworld", "tasks": ["reach-v3", "push-v3"], "workers": 2}})
    env = make_training_env(config, config.make_suite())
    assert env.workers == 2
    env.close()


def test_the_number_of_workers_changes_no_number_of_a_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    tasks = {"suite": "gym", "tasks": ["Pendulum-v1", "MountainCarContinuous-v0"]}
    series = []
    for workers in (None, 0, 2):
        config = tiny_config(env={**tasks, "workers": workers}, threads=1, run_dir=str(tmp_path / f"with-{workers}"))
        series.append(task_series(read_metrics(run(config).folder), "train_critic_loss"))
    for task, points in series[0].items():
        assert len(points) > 0
        assert all((points[:, 2] == other[task][:, 2]).all() for other in series[1:])


def test_the_record_of_a_run_says_what_was_chosen(tiny_config: MakeConfig) -> None:
    record = json.loads((run(tiny_config()).folder / "run.json").read_text())
    assert record["agent"]["simulating_workers"] == 0
    assert record["agent"]["torch_threads"] == torch.get_num_threads()


def test_resident_memory_counts_the_processes_that_were_started() -> None:
    before = resident_memory()
    hold = "held = bytes(range(256)) * 400_000; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 102e6 < resident_memory() - before < 200e6
        child.communicate(b"\n")


def test_a_system_that_shows_no_other_processes_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "children", refuse)
    assert resident_memory() > 20e6
