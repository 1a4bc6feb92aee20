"""Datasets: episodes as Minari reads them, with what a reader must know of each."""

import os
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from envs import make_suite
from mtrl.cli import main
from mtrl.datasets import MetaWorldExperts, export_dataset
from mtrl.errors import ConfigError
from tests.mtrl.test_mtrl_evaluation import Towards as Controller


def read(folder: Path, name: str) -> minari.MinariDataset:
    return minari.MinariDataset(folder / name / "data")


def test_episodes_are_read_back_as_they_were_made(tmp_path: Path) -> None:
    suite = make_suite("pointmass", num_tasks=3)
    controller = Controller(3, idle=1)
    place = export_dataset(controller, suite, "points/controller-v0", tmp_path, episodes=4, seed=5, workers=0)
    assert place == tmp_path / "points" / "controller-v0"
    dataset = read(tmp_path, "points/controller-v0")
    assert dataset.total_episodes == 12
    assert dataset.storage.metadata["task_names"] == list(suite.task_names)
    told = list(dataset.storage.get_episode_metadata(range(12)))
    tasks = [episode["task"] for episode in told]
    assert {name: tasks.count(name) for name in suite.task_names} == dict.fromkeys(suite.task_names, 4)
    for episode, row in zip(dataset.iterate_episodes(), told, strict=True):
        steps = len(episode.rewards)
        task = suite.task_names.index(row["task"])
        assert episode.observations.shape == (steps + 1, 2 + 3)
        assert (episode.observations[:, 2:].argmax(1) == task).all()
        assert episode.actions.shape == (steps, 2)
        np.testing.assert_allclose(episode.actions, controller.predict(episode.observations[:-1])[0], rtol=1e-6)
        assert episode.rewards.sum() == pytest.approx(row["return"], rel=1e-5)
        assert bool(episode.infos["success"].any()) == bool(row["success"]) == (task != 1)
        assert episode.truncations.tolist() == [False] * (steps - 1) + [True]
        assert not episode.terminations.any()
    assert len({(row["task"], row["goal"]) for row in told}) == 12


def test_scripted_experts_of_metaworld_solve_their_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export-dataset", "--expert", "reach-v3", "--name", "experts-v0", "--episodes", "2"]
    assert main([*command, "--workers", "0", "--out", str(tmp_path)]) == 0
    assert str(tmp_path / "experts-v0") in capsys.readouterr().out.replace("\n", "")
    dataset = read(tmp_path, "experts-v0")
    assert [bool(row["success"]) for row in dataset.storage.get_episode_metadata(range(2))] == [True, True]
    assert dataset.storage.metadata["algorithm_name"] == "scripted experts of Meta-World"


def test_what_cannot_be_written_is_said_before_anything_is_simulated(tmp_path: Path) -> None:
    class Never:
        def predict(self, observation: Any, **_: Any) -> Any:
            raise AssertionError("it acted")

    suite = make_suite("pointmass")
    with pytest.raises(ConfigError, match="must end in a version, such as 'mt10/expert-v0', found 'mine'"):
        export_dataset(Never(), suite, "mine", tmp_path)
    with pytest.raises(ConfigError, match="episodes must be at least 1, found 0"):
        export_dataset(Never(), suite, "mine-v0", tmp_path, episodes=0)
    with pytest.raises(ConfigError, match="task 'point-0' has none"):
        MetaWorldExperts(suite.task_names)
    export_dataset(Controller(4), suite, "mine-v0", tmp_path, episodes=1, workers=0)
    with pytest.raises(ConfigError, match="There is a dataset 'mine-v0' already"):
        export_dataset(Never(), suite, "mine-v0", tmp_path)
    assert "MINARI_DATASETS_PATH" not in os.environ


def test_one_source_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export-dataset", "--name", "mine-v0"]) == 2
    assert "mtrl export-dataset takes either the folder of a run or --pretrained NAME" in capsys.readouterr().err
    assert main(["export-dataset", "--name", "mine-v0", "--pretrained", "mt10", "--expert", "reach-v3"]) == 2
    assert "takes one of RUN_DIR" in capsys.readouterr().err
