"""A run that starts from zero in a folder of its own names the runs that it could resume instead, and how."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtrl.compose import compose
from mtrl.config import RunConfig
from mtrl.errors import sentence
from mtrl.experiment import run
from mtrl.run_folder import RunFolder
from tests.mtrl.paused_runs import run_until

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def named(tiny_config: MakeConfig) -> MakeConfig:
    """Makes configs of runs whose folder is named by their content."""

    def make(**changes: Any) -> RunConfig:
        quiet = {"plots": False, "tensorboard": False}
        return tiny_config(**{"checkpoint": {"every_env_steps": 36}, "threads": 1, "tracking": quiet, **changes})

    return make


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "differs only in" in line]


def test_a_longer_run_names_the_stopped_one_and_its_command_resumes_it(
    named: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = run_until(named(), 80, monkeypatch)
    assert sentence(stopped) == "Stopped by SIGTERM; the same command resumes from env step 80."
    before = RunFolder.of(named()).path
    run_until(named(total_env_steps=200), 80, monkeypatch)
    (line,) = told(capsys)
    assert line.startswith(f"'{before}' holds a stopped run of 80 env steps that differs only in total_env_steps (160 ")
    (word,) = [word for word in shlex.split(line) if word.startswith("run_dir=")]
    assert run(named(total_env_steps=200, run_dir=compose([word]).run_dir)).folder == before
    assert "Resuming from step 80" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "named_setting"),
    [
        ({"evaluation": {"final_episodes": 3}}, "evaluation.final_episodes (4 there, 3 here)"),
        ({"evaluation": {"every_env_steps": 90}}, "evaluation.every_env_steps (None there, 90 here)"),
        ({"total_env_steps": 60}, None),  # fewer steps than were made
        ({"agent": {"tau": 0.5}}, None),  # another run
        ({"agent": {"tau": 0.5}, "total_env_steps": 300}, None),
        ({"seed": 2, "total_env_steps": 300}, None),
        ({"run_dir": "elsewhere", "total_env_steps": 300}, None),  # where the folder was chosen, nothing is silent
    ],
)
def test_what_differs_is_named_and_other_runs_are_not(
    named: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    changes: dict[str, Any],
    named_setting: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_until(named(), 80, monkeypatch)
    run_until(named(**changes), 40, monkeypatch)
    lines = told(capsys)
    assert len(lines) == (named_setting is not None)
    assert all(str(named_setting) in line for line in lines)


def test_a_finished_run_is_measured_again_or_extended(named: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(named()).folder
    run(named(evaluation={"final_episodes": 3}))
    (line,) = told(capsys)
    assert line.endswith(f"(4 there, 3 here): mtrl evaluate {first} measures its agent again.")
    run(named(total_env_steps=200))
    assert any(f"'{first}' holds a finished run" in line and f"run_dir={first}" in line for line in told(capsys))
    (first / "config.yaml").write_text("no: config of any version")
    run(named(total_env_steps=240))
    assert not any(str(first) in line for line in told(capsys))


def test_a_stop_before_the_first_checkpoint_promises_none(named: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("mtrl.experiment.make_agent", stop)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run(named())
    assert sentence(stopped.value) == (
        "Stopped by SIGTERM; there is no checkpoint yet, so the same command starts over."
    )
    assert RunFolder.of(named()).status == "interrupted"
