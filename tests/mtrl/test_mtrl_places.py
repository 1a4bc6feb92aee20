"""Who computes before it writes looks at the place first, and prints what it found before it writes it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fingerprint, toy
from mtrl.cli import main
from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.experiment import Result, run
from mtrl.places import require_file, require_folder
from mtrl.sweep import Sweep
from mtrl.video import write_mosaic

MakeConfig = Callable[..., RunConfig]
OUT_OF_ROOM = OSError(28, "No space left on device")


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this is measured for an hour")


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A place that cannot be written, whoever runs the tests: a file is where its parent should be."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "inside"


def test_a_place_is_looked_at_without_leaving_anything(tmp_path: Path, blocked: Path) -> None:
    before = set(tmp_path.rglob("*"))
    require_folder(tmp_path / "a" / "b", "--out")
    require_file(tmp_path / "a" / "b.zip", "--out")
    with pytest.raises(ConfigError, match=r"Nothing can be written in '.*inside' \('.*file' is a file\).*with --out"):
        require_folder(blocked, "--out")
    with pytest.raises(ConfigError, match="--out must be a file to write, found the folder"):
        require_file(tmp_path, "--out")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("source", [["RUN"], ["--pretrained", "mt10"]])
def test_evaluate_refuses_a_place_that_it_cannot_write_before_it_measures(
    source: list[str], finished: Result, blocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("mtrl.evaluation.evaluate", never)
    source = [str(finished.folder) if word == "RUN" else word for word in source]
    assert main(["evaluate", *source, "--out", str(blocked)]) == 2
    assert capsys.readouterr().err.endswith("choose another place with --out.\n")


def test_evaluate_says_so_where_the_folder_of_the_run_takes_nothing(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("config.yaml", "run.json", "agent.zip"):
        (tmp_path / name).write_bytes((finished.folder / name).read_bytes())
    (tmp_path / "evaluations").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr("mtrl.evaluation.evaluate", never)
        assert main(["evaluate", str(tmp_path), "--episodes", "1"]) == 2
    assert "evaluations/seed1-episodes1' (" in capsys.readouterr().err
    out = tmp_path / "elsewhere"
    assert main(["evaluate", str(tmp_path), "--episodes", "1", "--workers=0", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["results.csv", "results.md"]


def test_evaluate_does_not_write_over_the_results_of_a_run(finished: Result, capsys: Any) -> None:
    before = (finished.folder / "results.csv").read_bytes()
    assert main(["evaluate", str(finished.folder), "--out", str(finished.folder)]) == 2
    assert "which is a run" in capsys.readouterr().err
    assert (finished.folder / "results.csv").read_bytes() == before


def test_evaluate_prints_before_it_writes(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(*_: Any) -> None:
        raise OUT_OF_ROOM

    monkeypatch.setattr("mtrl.run_report.write_results", fails)
    assert main(["evaluate", str(finished.folder), "--episodes=1", "--workers=0", "--out", str(tmp_path / "x")]) == 1
    said = capsys.readouterr()
    assert "point-0" in said.out and "No space left" in said.err


def test_a_video_that_nobody_can_write_is_refused_before_anything_is_measured(
    finished: Result, tmp_path: Path, blocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("mtrl.evaluation.evaluate", never)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["evaluate", str(finished.folder), "--video", "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'mtrl-toolkit[video]'" in capsys.readouterr().err
    monkeypatch.undo()
    suite = RunConfig.from_dict({"env": {"suite": "pointmass"}}).make_suite()
    with pytest.raises(ConfigError, match="Nothing can be written"):
        write_mosaic(never, suite, blocked / "mosaic.mp4")  # type: ignore[arg-type]


def test_export_refuses_first_and_prints_before_the_card(
    finished: Result, tmp_path: Path, blocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mtrl.export.evaluate", never)
        assert main(["export", str(finished.folder), "--out", str(blocked / "p.zip")]) == 2
        (tmp_path / "q.json").mkdir()  # where the card belongs
        assert main(["export", str(finished.folder), "--out", str(tmp_path / "q.zip")]) == 2
    assert capsys.readouterr().err.count("\n") == 2

    def fails(*_: Any) -> None:
        raise OUT_OF_ROOM

    monkeypatch.setattr("mtrl.export.write_card", fails)
    arguments = ["export", str(finished.folder), "--out", str(tmp_path / "r.zip"), "--episodes=1", "--workers=0"]
    assert main(arguments) == 1
    assert "point-0" in capsys.readouterr().out


def test_compare_refuses_first_and_prints_before_the_report(
    finished: Result, tmp_path: Path, blocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mtrl.compare.compare_runs", never)
        for out in (blocked, tmp_path / "file", finished.folder):
            assert main(["compare", str(finished.folder), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 3

    def fails(*_: Any) -> None:
        raise OUT_OF_ROOM

    monkeypatch.setattr("mtrl.compare.write_report", fails)
    assert main(["compare", str(finished.folder), "--out", str(tmp_path / "report")]) == 1
    assert "rlw" in capsys.readouterr().out


def test_a_run_a_sweep_and_a_search_refuse_it_as_bad_input(
    tiny_config: MakeConfig, blocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("mtrl.experiment.make_training_env", never)
    with pytest.raises(ConfigError, match=r"Nothing can be written in .*run_dir=\.\.\."):
        run(tiny_config(run_dir=str(blocked / "run")))
    with pytest.raises(ConfigError, match=r"Nothing can be written in .*runs_dir=\.\.\."):
        Sweep.begin(blocked, ["seed=1,2"])
    assert main(["tune", "env=pointmass", "--out", str(blocked)]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_run_prints_its_final_evaluation_before_it_writes_it(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(*_: Any) -> None:
        raise OUT_OF_ROOM

    monkeypatch.setattr("mtrl.experiment.write_results", fails)
    with pytest.raises(OSError, match="No space left"):
        run(tiny_config())
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "work", "option"), [(fingerprint, "measure", "--out"), (toy, "run_all", "--output")]
)
def test_benchmarks_look_first_too(
    module: Any, work: str, option: str, blocked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, work, never)
    monkeypatch.setattr("sys.argv", ["benchmark", option, str(blocked / "rows")])
    with pytest.raises(ConfigError, match=option):
        module.main()
