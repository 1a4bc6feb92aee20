"""What goes wrong beside or inside a run is named, counted, and costs no more than it must."""

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import MTSAC, NonFiniteUpdate
from envs import EnvironmentFault
from mtrl.cli import main
from mtrl.config import RunConfig
from mtrl.evaluation import EvaluationResult
from mtrl.experiment import Result, run
from mtrl.plots import plot_success, plot_weights
from mtrl.run_folder import RunFolder
from mtrl.run_report import BATCH_FILE, write_results
from mtrl.tracking import METRICS_FILE, JsonlWriter, TensorBoardWriter, evaluation_metrics, make_logger, read_metrics
from tests.grids import grid
from tests.mtrl.paused_runs import checkpoints, run_until

MakeConfig = Callable[..., RunConfig]
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")

# A task that a worker process can import. It fails at a step of its fifth episode, as often as a file says.
FAULTY = """
import os, pathlib, signal
import gymnasium
import numpy as np

LEFT = pathlib.Path({left!r})

class Faulty(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode=None, fault="raise"):
        self.fault, self.episodes, self.steps = fault, 0, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        left = int(LEFT.read_text())
        if self.fault == "begin" and left > 0:
            LEFT.write_text(str(left - 1))
            raise OSError("cannot be placed")
        self.episodes, self.steps = self.episodes + 1, 0
        return self.np_random.normal(size=2).astype(np.float32), {{}}

    def step(self, action):
        self.steps += 1
        state, reward, left = self.np_random.normal(size=2).astype(np.float32), 1.0, int(LEFT.read_text())
        if self.fault == "huge":
            reward = 1e30
        elif self.episodes == 5 and self.steps == 4 and left > 0:
            LEFT.write_text(str(left - 1))
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "nan":
                state[:] = np.nan
            if self.fault == "raise":
                raise OSError("the simulator blew up")
        return state, reward, False, False, {{}}

for fault in ("raise", "die", "nan", "huge", "begin"):
    gymnasium.register("Faulty-" + fault + "-v0", entry_point=Faulty, kwargs={{"fault": fault}}, max_episode_steps=10)
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: MakeConfig) -> MakeConfig:
    """Makes configs of runs on a task that fails in a given way a given number of times, by default while training."""
    (tmp_path / "faulty_tasks.py").write_text(FAULTY.format(left=str(tmp_path / "left")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty_tasks", raising=False)

    def make(fault: str, times: int, workers: int = 0, **changes: Any) -> RunConfig:
        (tmp_path / "left").write_text(str(times))
        env = {"suite": "gym", "tasks": [f"faulty_tasks:Faulty-{fault}-v0"], "workers": workers, "horizon": 10}
        evaluation = {"every_env_steps": 1000, **changes.pop("evaluation", {})}
        env |= changes.pop("env", {})
        return tiny_config(env=env, evaluation=evaluation, total_env_steps=100, threads=1, **changes)

    return make


@grid(
    ("fault", "workers"),
    [("raise", 0), ("nan", 0), ("raise", 1), ("nan", 1), ("die", 1)],
    always=[("nan", 0), ("die", 1)],
)
def test_a_run_gets_over_an_environment_that_fails(faulty: MakeConfig, fault: str, workers: int) -> None:
    result = run(faulty(fault, times=1, workers=workers))
    last = read_metrics(result.folder)[-2]
    assert last["env/restarts"] == last[f"env_restarts/faulty_tasks:Faulty-{fault}-v0"] == 1
    assert RunFolder(result.folder).status == "finished"
    assert MTSAC.load(result.folder / "agent.zip", device="cpu").num_timesteps == 100


@pytest.mark.parametrize("workers", [0, 1])
def test_when_no_restart_is_left_the_run_ends_with_what_was_measured_and_can_go_on(
    faulty: MakeConfig, tmp_path: Path, workers: int
) -> None:
    config = faulty("raise", times=9, workers=workers, env={"max_worker_restarts": 1})
    with pytest.raises(EnvironmentFault, match="'faulty_tasks:Faulty-raise-v0' raised in step: OSError.*1 restart"):
        run(config)
    folder = RunFolder.of(config)
    assert folder.status == "failed"
    assert "the simulator blew up" in folder.record["error"]
    metrics = read_metrics(folder.path)
    assert metrics[-1]["env/restarts"] == 1
    steps = MTSAC.load(folder.path / "agent.zip", device="cpu").num_timesteps
    assert metrics[-1]["env_steps"] == steps > 40
    # All of it is in a checkpoint, which a start after the task was mended goes on from.
    (checkpoint,) = checkpoints(folder.path)
    assert (checkpoint.env_steps, checkpoint.exact) == (steps, False)
    (tmp_path / "left").write_text("0")
    result = run(config)
    assert RunFolder(result.folder).record["resumed"][0]["env_steps"] == steps
    lines = read_metrics(result.folder)
    assert [line["env_steps"] for line in lines] == sorted(line["env_steps"] for line in lines)
    assert lines[-2]["env/restarts"] == 2  # that fault is got over, by the second process
    last = checkpoints(result.folder)[0]
    assert last.env_steps == last.manifest["replay"]["stored"][0] == 100


def test_a_task_that_cannot_even_begin_ends_the_run_with_its_name(faulty: MakeConfig) -> None:
    config = faulty("begin", times=9, env={"max_worker_restarts": 9})
    with pytest.raises(EnvironmentFault, match="'faulty_tasks:Faulty-begin-v0' raised in reset: OSError.*no accident"):
        run(config)
    assert read_metrics(RunFolder.of(config).path)[-1]["env/restarts"] == 1


def test_a_task_that_cannot_begin_when_a_run_goes_on_is_built_anew(
    faulty: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(faulty("begin", times=0), 50, monkeypatch)
    result = run(faulty("begin", times=1))
    assert read_metrics(result.folder)[-2]["env/restarts"] == 1


def test_a_fault_in_an_evaluation_ends_the_run(faulty: MakeConfig) -> None:
    config = faulty("raise", times=1, evaluation={"every_env_steps": 20, "episodes": 6})
    with pytest.raises(EnvironmentFault, match="raised in step: OSError: the simulator blew up$"):
        run(config)  # a measurement without some of its goals would compare with no other
    assert read_metrics(RunFolder.of(config).path)[-1]["env_steps"] == 20


def test_updates_that_stay_without_finite_numbers_end_the_run_and_leave_the_batch(faulty: MakeConfig) -> None:
    config = faulty("huge", times=0, agent={"max_skipped_updates": 5})
    with pytest.raises(NonFiniteUpdate, match="5 updates in a row were skipped, .* the critic loss of 'faulty_tasks"):
        run(config)
    folder = RunFolder.of(config)
    assert folder.status == "failed"
    assert "the critic loss of" in folder.record["error"]
    with np.load(folder.path / BATCH_FILE, allow_pickle=False) as batch:
        assert batch["rewards"].max() == pytest.approx(1e30)
        assert {"states", "actions", "next_states", "terminals", "noise", "target", "critic_loss"} <= set(batch.files)
    assert read_metrics(folder.path)[-1]["train/skipped_updates"] == 5
    agent = MTSAC.load(folder.path / "agent.zip", device="cpu")
    assert all(bool(parameter.isfinite().all()) for parameter in agent.policy.parameters())


def test_what_acts_on_a_fault_alone_does_not_change_a_runs_name(tiny_config: MakeConfig) -> None:
    changed = tiny_config(env={"max_worker_restarts": 3, "worker_timeout": 5.0}, agent={"max_skipped_updates": 7})
    assert changed.identity() == tiny_config().identity()


# ---------------------------------------------------------------------- writers


class Broken(TensorBoardWriter):
    """Fails from its third line on."""

    lines = 0

    def write(self, *_: Any, **__: Any) -> None:
        Broken.lines += 1
        if Broken.lines > 2:
            raise OSError("no space left on device")


def fake_wandb(fails_in: str) -> types.ModuleType:
    """A module ``wandb`` that fails in `init` or when something is logged."""

    class Session:
        step = 0

        def log(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("the network is down")

        def finish(self) -> None:
            raise ConnectionError("the network is down")

    module: Any = types.ModuleType("wandb")

    def init(**_: Any) -> Session:
        if fails_in == "init":
            raise ConnectionError("the network is down")
        return Session()

    module.init = init
    return module


def warnings_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Warning")]


def test_a_writer_that_fails_is_left_out_with_one_warning(
    tiny_config: MakeConfig, finished: Result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mtrl.tracking.TensorBoardWriter", Broken)
    result = run(tiny_config(balancer={"name": "rlw"}, threads=1))
    assert len(read_metrics(result.folder)) == len(read_metrics(finished.folder)) > 10
    assert Broken.lines == 3
    (warning,) = warnings_of(capsys.readouterr().out)
    assert warning.startswith("Warning: TensorBoard failed")
    assert "OSError: no space left on device" in warning


@pytest.mark.parametrize("fails_in", ["init", "log"])
def test_a_network_that_is_down_costs_weights_and_biases_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails_in: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(fails_in))
    tracking = RunConfig.from_dict({"tracking": {"wandb": True}}).tracking
    logger = make_logger(tmp_path, tracking, "name", {}, JsonlWriter(tmp_path / METRICS_FILE))
    for step in range(3):
        logger.record("a", step)
        logger.dump(step)
    logger.close()
    assert [line["a"] for line in read_metrics(tmp_path)] == [0, 1, 2]
    assert len(warnings_of(capsys.readouterr().out)) == 1
    assert any((tmp_path / "tensorboard").iterdir())


def test_event_files_that_cannot_be_opened_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    logger = make_logger(tmp_path, RunConfig().tracking, "name", {}, JsonlWriter(tmp_path / METRICS_FILE))
    logger.record("a", 1)
    logger.dump(0)
    logger.close()
    assert read_metrics(tmp_path)[0]["a"] == 1
    assert len(warnings_of(capsys.readouterr().out)) == 1


def test_plots_that_cannot_be_drawn_cost_no_run(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mtrl.plots.plot_success", lambda *_: 1 / 0)
    assert RunFolder(run(tiny_config(threads=1)).folder).status == "finished"
    assert len(warnings_of(capsys.readouterr().out)) == 1


def test_a_video_that_cannot_be_written_costs_no_evaluation(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise BrokenPipeError("ffmpeg is gone")

    monkeypatch.setattr("mtrl.video.write_mosaic", fails)
    assert main(["evaluate", str(finished.folder), "--episodes", "1", "--workers", "0", "--seed", "77", "--video"]) == 0
    out = capsys.readouterr().out
    assert len(warnings_of(out)) == 1 and "The video failed" in out
    assert (finished.folder / "evaluations" / "seed77-episodes1" / "results.csv").exists()


# ---------------------------------------------------------------------- names

HOSTILE = ("../../up", "/etc/passwd", "a|b", "<script>", "CON", "new\nline", ".hidden", "é" * 300)


def test_names_of_tasks_never_become_names_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    folder.mkdir(parents=True)
    shape = (len(HOSTILE), 2)
    flags, numbers = np.zeros(shape, dtype=bool), np.zeros(shape)
    result = EvaluationResult(HOSTILE, flags, flags, numbers, numbers, numbers)
    logger = make_logger(folder, RunConfig().tracking, "../name", {}, JsonlWriter(folder / METRICS_FILE))
    for tag, value in evaluation_metrics(result, final=True).items():
        logger.record(tag, value)
    logger.dump(10)
    logger.close()
    write_results(result, folder)
    assert plot_success(read_metrics(folder), folder / "success.png")
    plot_weights(read_metrics(folder), folder / "weights.png")
    written = [path for path in tmp_path.rglob("*") if path != folder and path != folder.parent]
    assert written and all(path.is_relative_to(folder) and SAFE.fullmatch(path.name) for path in written)
    # A name cannot break the report either: one line per task, the mean, and the two of the header.
    lines = (folder / "results.md").read_text().splitlines()
    assert len(lines) == len(HOSTILE) + 3 and all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in lines)


def test_settings_never_lead_out_of_the_folder_of_runs(tmp_path: Path) -> None:
    config = RunConfig.from_dict({"runs_dir": str(tmp_path), "agent": {"name": "../../../x y\n"}})
    path = RunFolder.of(config).path
    assert path.parent.parent == tmp_path and SAFE.fullmatch(path.name)


def test_the_metrics_stay_json_whatever_the_tasks_are_called(tmp_path: Path) -> None:
    logger = make_logger(tmp_path, RunConfig().tracking, "name", {}, JsonlWriter(tmp_path / METRICS_FILE))
    logger.record('eval_success/"}\n{', 1.0)
    logger.dump(1)
    logger.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())['eval_success/"}\n{'] == 1.0
