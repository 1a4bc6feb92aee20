"""``mtrl tune`` from the shell: what it refuses, and one search on a local Ray that leaves nothing behind."""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.balancing.allocation import ACTS_ON
from mtrl.cli import _parser, main
from mtrl.errors import MissingExtra
from mtrl.tune.commands import _settings
from mtrl.tune.member import METRICS
from mtrl.tune.population import Settings, read_book
from mtrl.tune.search import EXPLORERS, _common

ROOT = Path(__file__).resolve().parents[2]
TASKS = tuple(f"point-{task}" for task in range(4))


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtrl.tune.on_ray import require_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mtrl-toolkit\[tune\]'"):
        require_ray()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["balancer=famo"], "Members get their weights from the search, found balancer=famo: "),
        (["run_dir=x"], "run_dir is given to members by the search"),
        (["seed=1,2"], "takes one value here"),
        (["--population", "1"], "--population must be at least 2, found 1."),
        (["--intervals", "0"], "--intervals must be from 1 to the 20,000 env steps of a member, found 0."),
        (["--quantile", "0.6"], "--quantile must be above 0 and at most 0.5, found 0.6."),
        (["--floor", "1"], "--floor must be from 0 to below 1, found 1."),
        (["--also", "tau"], "--also takes learning_rate and target_entropy, found 'tau'."),
        (["--baselines", "fam"], "did you mean 'famo'?"),
    ],
)
def test_what_no_search_can_be_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    given = [argument for argument in arguments if "=" in argument]
    options = arguments[len(given) :]
    assert main(["tune", "env=pointmass", *given, "--out", str(tmp_path / "search"), *options]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "search").exists()


def test_a_head_that_does_not_answer_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", *SMALL, "seed=1,2", f"runs_dir={tmp_path}", "--address", "127.0.0.1:9"]
    assert main(arguments) == 2
    sentence = "--address must be that of a running Ray cluster, found '127.0.0.1:9', where none answers: "
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("setting", "nats"), [("auto", -2.0), ("auto_0.5", -1.0), ("-3", -3.0)])
def test_a_search_over_the_target_entropy_begins_at_the_configs_own(setting: str, nats: float) -> None:
    given = ["env=pointmass", f"agent.target_entropy={setting}"]
    settings = _settings(
        _parser().parse_args(["tune", *given, "--population=2", "--intervals=2", "--also", "target_entropy"])
    )
    assert _common(settings).target_entropy == nats


def test_settings_may_stand_before_and_after_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", "env=pointmass", "--out", str(tmp_path / "search"), "agent.gamma=2", "--population", "2"]
    assert main(arguments) == 2
    assert "gamma" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--populations", "3"])
    assert "unrecognized arguments: --populations" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["list", "suites", "env=pointmass"])
    assert "unrecognized arguments: env=pointmass" in capsys.readouterr().err


def test_the_command_offers_what_there_is_with_the_defaults_of_a_search() -> None:
    """The parser names them itself, so that `mtrl --help` imports nothing of a search."""
    options = {action.dest: action for action in search_parser()._actions}
    assert set(options["algorithm"].choices or ()) == set(EXPLORERS)
    assert set(options["metric"].choices or ()) == set(METRICS)
    assert set(options["weights_on"].choices or ()) == set(ACTS_ON)
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)} | {"also": [], "baselines": []}
    named = [name for name in defaults if name in options]
    assert len(named) == 10 and all(options[name].default == defaults[name] for name in named)


def search_parser() -> argparse.ArgumentParser:
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    parser: argparse.ArgumentParser = commands.choices["tune"]
    return parser


SMALL = [
    "env=pointmass",
    "env.horizon=10",
    "agent.warmup_steps_per_task=10",
    "agent.samples_per_task=4",
    "network.hidden_sizes=[8]",
    "evaluation.final_episodes=2",
    "evaluation.every_env_steps=10000",
    "evaluation.workers=0",
    "tracking.tensorboard=false",
    "tracking.plots=false",
    "total_env_steps=400",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mtrl.cli", *arguments]


@pytest.fixture
def clean_machine(ray_alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No shared memory and no folder of Ray's may be left behind."""
    place = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # of its own, and short: sockets lie in it
    monkeypatch.setenv("TMPDIR", str(place))

    def shared() -> set[str]:
        return {str(path) for pattern in ("*ray*", "plasma*") for path in Path("/dev/shm").glob(pattern)}

    before = shared()
    yield
    assert shared() <= before
    assert [path.name for path in place.glob("mtrl-ray-*")] == []
    shutil.rmtree(place)


@pytest.mark.slow
def test_a_search_of_two_intervals_on_a_local_ray(
    tmp_path: Path, clean_machine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from mtrl.compare.methods import group_methods
    from mtrl.compare.runs import read_runs

    out = tmp_path / "search"
    options = ["--population", "4", "--intervals", "2", "--metric", "mean_return", "--workers", "2", "--out", str(out)]
    done = subprocess.run(command("tune", *SMALL, *options), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Generation 2 of 2: best member" in done.stdout
    book = read_book(out)
    copies = {number: now.parent for number, now in enumerate(book.generations[1].members) if now.parent is not None}
    assert len(copies) == 1  # a quarter of four
    runs, left_out = read_runs([out / "members"])
    assert left_out == [] and [one.finished for one in runs] == [True] * 4
    (method,) = group_methods(runs)
    assert method.label == "schedule" and method.seeds == (1, 2, 3, 4)
    child, parent = next(iter(copies.items()))
    schedule = json.loads((out / "schedule.json").read_text())
    assert schedule["tasks"] == list(TASKS)
    assert book.schedule(child).weights[0] == book.schedule(parent).weights[0]
    for name in ("agent.zip", "population.png", "comparison.md"):
        assert (out / name).is_file()
    assert not (out / "ray").exists()
    assert main(["tune", "--resume", "--out", str(out), "--population", "6", "--intervals", "2", "seed=9"]) == 2
    assert "settings it has, found seed=9 --population 6 beside --resume" in capsys.readouterr().err
