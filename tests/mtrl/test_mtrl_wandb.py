"""A run that is stopped and resumed is one run of Weights & Biases, tried on a server of the same rules."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtrl.config import RunConfig
from mtrl.experiment import run
from mtrl.run_folder import RunFolder
from tests.mtrl.paused_runs import lines, run_until

MakeConfig = Callable[..., RunConfig]


class Server:
    """Keeps runs by id. As the real one: a step may be added to while it is the newest, and never afterwards."""

    def __init__(self) -> None:
        self.runs: dict[str, Session] = {}
        self.module: Any = types.ModuleType("wandb")
        self.module.init = self.init

    def init(
        self,
        *,
        project: str,
        name: str,
        dir: str,
        config: dict[str, Any],
        id: str | None = None,
        resume: str | None = None,
        allow_val_change: bool = False,
    ) -> "Session":
        if id in self.runs and resume in ("allow", "must"):
            session = self.runs[id]
            changed = session.config != config
            assert allow_val_change or not changed, "wandb refuses a config that changed"
            session.config, session.step = config, session.step + 1
            return session
        session = Session(config)
        self.runs[id or f"made-up-{len(self.runs)}"] = session
        return session


class Session:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.step = config, 0
        self.history: dict[int, dict[str, Any]] = {}

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= self.step, "wandb warns and drops a step that is over"
        self.step = step
        self.history.setdefault(step, {}).update(values)

    def finish(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", server.module)
    return server


@pytest.fixture
def tracked(tiny_config: MakeConfig, tmp_path: Path) -> MakeConfig:
    def make(**changes: Any) -> RunConfig:
        fixed: dict[str, Any] = {
            "tracking": {"wandb": True, "plots": False, "tensorboard": False, "every_env_steps": 20},
            "checkpoint": {"every_env_steps": 36},
            "threads": 1,
            "run_dir": str(tmp_path / "run"),
        }
        return tiny_config(**{**fixed, **changes})

    return make


def test_a_run_that_was_stopped_and_made_longer_is_one_run_with_every_line(
    server: Server, tracked: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(tracked(), 100, monkeypatch)
    sent = max(next(iter(server.runs.values())).history)
    run(tracked(total_env_steps=240))
    (session,) = server.runs.values()
    assert sent < max(session.history) == 240
    written = {line["env_steps"] for line in lines(tmp_path / "run")}
    assert set(session.history) == written
    assert session.config["total_env_steps"] == 240


def test_lines_that_were_sent_after_the_checkpoint_are_not_sent_again(
    server: Server, tracked: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(tracked(), 100, monkeypatch)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    for file in newest.iterdir():
        file.unlink()  # as if killed before it was written
    run(tracked())
    (session,) = server.runs.values()
    assert set(session.history) == {line["env_steps"] for line in lines(tmp_path / "run")}


def test_a_run_that_starts_over_and_a_run_elsewhere_are_runs_of_their_own(
    server: Server, tracked: MakeConfig, tmp_path: Path
) -> None:
    run(tracked())
    run(tracked(run_dir=str(tmp_path / "other")))
    assert len(server.runs) == 2
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (path / "manifest.json").write_text("broken")
    RunFolder(tmp_path / "run").update(status="failed")
    run(tracked())
    assert len(server.runs) == 3


def test_the_id_outlives_a_server_that_was_down(
    server: Server, tracked: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(**_: Any) -> None:
        raise ConnectionError("the network is down")

    monkeypatch.setattr(server.module, "init", down)
    run_until(tracked(), 60, monkeypatch)
    known = (tmp_path / "run" / "wandb-id.txt").read_text().strip()
    monkeypatch.setattr(server.module, "init", server.init)
    run(tracked())
    assert list(server.runs) == [known]
