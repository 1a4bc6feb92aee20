"""A policy that ships acts as the agent it was exported from, and its card says what was measured of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from agents import MTSAC, AgentFileError, ConfigurationError, load_policy
from envs import make_suite
from mtrl import pretrained
from mtrl.cli import main
from mtrl.config import RunConfig
from mtrl.experiment import Result
from mtrl.pretrained import LARGEST, PretrainedPolicy, list_pretrained, pretrained_policy

SHIPPED = pretrained.FOLDER


@pytest.fixture
def shelf(finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pretrained policies with one on it, `toy`."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    assert (
        main(["export", str(finished.folder), "--out", str(folder / "toy.zip"), "--episodes", "3", "--workers=0"]) == 0
    )
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_name_of_a_policy_may_hold_a_point(finished: Result, tmp_path: Path) -> None:
    for name in ("pol-0.5", "pol-0.9", "whole.zip"):
        arguments = ["export", str(finished.folder), "--out", str(tmp_path / name), "--episodes=1", "--workers=0"]
        assert main(arguments) == 0
    names = {f"{name}.{end}" for name in ("pol-0.5", "pol-0.9", "whole") for end in ("zip", "json")}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_folder_is_no_place_for_a_policy(out: str, finished: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(finished.folder), "--out", out]) == 2
    assert capsys.readouterr().err == f"--out must be a file to write, found the folder '{out}'.\n"


def test_an_exported_policy_acts_as_its_agent_to_the_bit(finished: Result, shelf: Path) -> None:
    agent, policy = MTSAC.load(finished.folder / "agent.zip", device="cpu"), load_policy(shelf / "toy.zip", "cpu")
    env = make_suite("pointmass").make_vec_env(seed=3, copies=4)
    observations = env.reset()
    for _ in range(5):
        actions = agent.predict(observations, deterministic=True)[0]
        assert np.array_equal(policy.predict(observations, deterministic=True)[0], actions)
        observations = env.step(actions)[0]
    env.close()


def test_an_exported_policy_holds_the_actor_alone(finished: Result, shelf: Path) -> None:
    sizes = [path.stat().st_size for path in (shelf / "toy.zip", finished.folder / "agent.zip")]
    assert sizes[0] < sizes[1] / 3
    names = load_policy(shelf / "toy.zip", "cpu").state_dict()
    assert all(name.startswith("actor.") for name in names)


def test_the_policy_of_a_whole_agent_file_is_read_as_well(finished: Result, shelf: Path) -> None:
    whole, alone = (load_policy(path, "cpu") for path in (finished.folder / "agent.zip", shelf / "toy.zip"))
    for name, value in alone.state_dict().items():
        assert np.array_equal(whole.state_dict()[name], value)


def test_a_policy_without_critics_cannot_be_trained(shelf: Path) -> None:
    with pytest.raises(AgentFileError, match="holds a policy without critics, which cannot learn"):
        MTSAC.load(shelf / "toy.zip")


def test_the_card_says_what_was_trained_and_what_was_measured(finished: Result, shelf: Path) -> None:
    card = json.loads((shelf / "toy.json").read_text())
    assert RunConfig.from_dict(card["config"]).identity() == finished.folder.name.rpartition("-")[2]
    assert card["training"]["env_steps"] == card["protocol"]["env_steps"] == 160
    assert card["training"]["seeds"]["run"] == 1
    assert list(card["results"]) == [*(f"point-{k}" for k in range(4)), "mean"]
    assert all(row["low"] <= row["success"] <= row["high"] for row in card["results"].values())
    assert card["results"]["point-0"]["episodes"] == 3
    assert str(finished.folder.parent) not in json.dumps(card), "a card names no place on a machine"


def test_evaluate_prints_the_numbers_of_the_card(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--pretrained", "toy", "--episodes", "3", "--workers", "0"]) == 0
    assert "toy, goals of seed 1" in capsys.readouterr().out
    card = pretrained_policy("toy").card
    table = (shelf.parent / "pretrained-toy" / "evaluations" / "seed1-episodes3" / "results.csv").read_text()
    returns = {line.split(",")[0]: float(line.split(",")[5]) for line in table.splitlines()[1:]}
    assert returns == pytest.approx({task: row["return"] for task, row in card["results"].items()}, abs=1e-3)


def test_a_mosaic_of_a_pretrained_policy_is_written(shelf: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
    assert main(["evaluate", "--pretrained", "toy", "--episodes", "1", "--workers", "0", "--video"]) == 0
    assert list(shelf.parent.glob("pretrained-toy/evaluations/*/mosaic.mp4"))


def test_list_and_card_name_the_policy_with_its_success(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "pretrained"]) == 0
    assert "toy" in capsys.readouterr().out
    page = pretrained_policy("toy").describe()
    assert "### `toy`" in page
    assert page.count("\n| ") == 1 + 1 + 5
    assert "160 env steps" in page


def test_an_unknown_policy_is_one_sentence_with_those_that_are_here(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--pretrained", "mt11"]) == 2
    assert capsys.readouterr().err == "pretrained must be one of toy, found 'mt11'.\n"
    assert main(["evaluate", "--pretrained", "../shelf/toy"]) == 2


@pytest.mark.parametrize("arguments", [[], ["runs/some", "--pretrained", "toy"]])
def test_evaluate_takes_one_thing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert "either the folder of a run or --pretrained NAME" in capsys.readouterr().err


def test_a_file_that_its_card_does_not_describe_is_refused(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (shelf / "toy.zip").open("ab") as file:
        file.write(b"more")
    assert main(["evaluate", "--pretrained", "toy"]) == 2
    assert "is not the file that its card toy.json describes" in capsys.readouterr().err


@pytest.mark.parametrize("widths", [[1_000_000, 1_000_000], [16], [8, 8]])
def test_a_policy_of_another_size_than_it_says_is_refused_before_it_is_built(
    shelf: Path, tmp_path: Path, widths: list[int]
) -> None:
    import zipfile

    forged = tmp_path / "forged.zip"
    with zipfile.ZipFile(shelf / "toy.zip") as old, zipfile.ZipFile(forged, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content)
                data["settings"]["policy_kwargs"]["hidden_sizes"] = widths
                content = json.dumps(data).encode()
            new.writestr(name, content)
    with pytest.raises(AgentFileError, match="does not fit the policy it describes"):
        load_policy(forged, "cpu")


def check(policy: PretrainedPolicy) -> None:
    """A policy that may ship: small, whole, and of the tasks that its card names."""
    assert policy.path.stat().st_size <= LARGEST
    suite = RunConfig.from_dict(policy.card["config"]).make_suite()
    assert list(policy.card["results"]) == [*suite.task_names, "mean"]
    assert policy.load("cpu").num_tasks == suite.num_tasks


def test_whatever_ships_is_small_and_can_be_read(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(pretrained_policy("toy"))
    monkeypatch.setattr(pretrained, "FOLDER", SHIPPED)
    for name in list_pretrained():
        check(pretrained_policy(name))


def test_a_policy_takes_no_settings_of_critics() -> None:
    with pytest.raises(ConfigurationError, match="num_critics must be at least 1"):
        MTSAC("MultiTaskPolicy", make_suite("pointmass").make_vec_env(seed=0), policy_kwargs={"num_critics": 0})
