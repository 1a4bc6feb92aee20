"""A run leaves everything behind that is needed to read, check and repeat it; whatever happens to it."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import MTSAC
from envs import EnvironmentFault, make_suite
from mtrl import evaluate
from mtrl.callbacks import Every
from mtrl.config import RunConfig
from mtrl.errors import MissingExtra, RunFolderError
from mtrl.evaluation import wilson_interval
from mtrl.experiment import Result, run
from mtrl.plots import plot_weights
from mtrl.run_folder import RunFolder, safe_name
from mtrl.tracking import JsonlWriter, read_metrics, task_series
from tests.mtrl.processes import ENDLESS, training, wait_for_metrics

TASKS = [f"point-{k}" for k in range(4)]
MakeConfig = Callable[..., RunConfig]


def test_the_folder_holds_all_it_promises(finished: Result) -> None:
    written = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*") if path.is_file()}
    promised = {"config.yaml", "command.txt", "run.json", "metrics.jsonl", "results.csv", "results.md", "agent.zip"}
    assert promised | {"plots/success.png", "plots/weights.png"} <= written
    assert any(name.startswith("tensorboard/events") for name in written)


def test_the_folder_is_named_by_suite_agent_balancer_seed_and_content(finished: Result) -> None:
    assert finished.folder.parent.name == "pointmass"
    name, _, digits = finished.folder.name.rpartition("-")
    assert name == "mtsac-rlw-seed1"
    assert len(digits) == 8
    assert int(digits, 16) >= 0


def test_the_config_in_the_folder_gives_the_same_run(finished: Result) -> None:
    folder = RunFolder.existing(finished.folder)
    assert RunFolder.of(folder.config()).path == finished.folder


def test_the_record_says_with_what_and_by_which_rules(finished: Result) -> None:
    record = json.loads((finished.folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert {"python", "torch", "mujoco", "metaworld", "gymnasium", "stable_baselines3"} <= record["versions"].keys()
    assert record["machine"]["cores"] >= 1
    assert record["seeds"] == {"run": 1, "environments": 1, "agent": 1, "evaluation": 1}
    assert record["protocol"]["tasks"] == TASKS
    assert record["protocol"]["evaluation"]["episodes_per_task"] == 4
    assert record["agent"]["precision"] == "float32"
    assert record["seconds"].keys() == {"learning", "evaluations", "checkpoints", "final_evaluation"}
    assert record["command"] == (finished.folder / "command.txt").read_text().strip()


def test_evaluation_lines_carry_steps_time_and_success_per_task(finished: Result) -> None:
    lines = [line for line in read_metrics(finished.folder) if "eval/success_rate" in line]
    assert [line["env_steps"] for line in lines] == sorted({line["env_steps"] for line in lines})
    assert lines[-1]["env_steps"] == 160
    for line in lines:
        rates = [line[f"eval_success/{task}"] for task in TASKS]
        assert line["eval/success_rate"] == pytest.approx(np.mean(rates))
        assert line["wall_time"] > 0
    assert [line["eval/final"] for line in lines] == [0.0] * (len(lines) - 1) + [1.0]
    assert all(f"eval_success_at_end/{task}" in lines[-1] and f"eval_return/{task}" in lines[-1] for task in TASKS)
    assert not any(key.startswith("eval_success_at_end/") for line in lines[:-1] for key in line)


def test_training_lines_carry_the_agents_own_metrics(finished: Result) -> None:
    last = [line for line in read_metrics(finished.folder) if "train/critic_loss" in line][-1]
    assert last["env_steps"] == 160
    for tag in ("train_critic_loss/", "balancer_weight/", "rollout_success/", "ent_coef/"):
        assert {f"{tag}{task}" for task in TASKS} <= last.keys()
    assert 0.05 < last["time/memory_gb"] < psutil.virtual_memory().total / 1e9


def test_the_table_holds_the_last_evaluation_with_wilson_intervals(finished: Result) -> None:
    table = pandas.read_csv(finished.folder / "results.csv", index_col="task")
    last = [line for line in read_metrics(finished.folder) if "eval/success_rate" in line][-1]
    assert list(table.index) == [*TASKS, "mean"]
    for task in TASKS:
        row = table.loc[task]
        assert row["success"] == last[f"eval_success/{task}"]
        assert (row["low"], row["high"]) == pytest.approx(wilson_interval(4 * row["success"], 4))
    markdown = (finished.folder / "results.md").read_text().splitlines()
    assert len(markdown) == 2 + 5
    assert markdown[-1].startswith("| mean")


def test_the_agent_in_the_folder_scores_what_the_table_says(finished: Result) -> None:
    model = MTSAC.load(finished.folder / "agent.zip")
    again = evaluate(model, make_suite("pointmass"), episodes=4, seed=1, horizon=10, workers=0)
    assert again.to_frame()["return"].to_numpy() == pytest.approx(finished.table["return"].to_numpy(), rel=1e-4)


def test_tensorboard_shows_all_tasks_in_one_chart(finished: Result) -> None:
    events = EventAccumulator(str(finished.folder / "tensorboard")).Reload()
    scalars = events.Tags()["scalars"]
    assert {"eval/success_rate", "eval_success/point-0", "balancer_weight/point-0", "train/critic_loss"} <= set(scalars)
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"eval_success/.*" in layout
    assert b"balancer_weight/.*" in layout


@pytest.mark.parametrize("name", ["success.png", "weights.png"])
def test_plots_are_pictures_with_something_on_them(finished: Result, name: str) -> None:
    from PIL import Image

    picture = np.asarray(Image.open(finished.folder / "plots" / name).convert("RGB"))
    assert picture.shape[0] > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_weights_that_are_always_one_are_no_picture(tmp_path: Path) -> None:
    lines = [{"env_steps": 1, "wall_time": 1.0, "balancer_weight/a": 1.0, "balancer_weight/b": 1.0}]
    assert not plot_weights(lines, tmp_path / "weights.png")
    assert not (tmp_path / "weights.png").exists()


def test_a_finished_run_is_skipped_with_a_sentence_and_its_table(
    finished: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    again = run(RunFolder.existing(finished.folder).config())
    assert again.skipped
    assert again.success_rate == finished.success_rate
    said = capsys.readouterr().out
    assert "nothing to do" in said
    assert "point-3" in said
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}


def test_the_learning_rate_falls_in_a_straight_line_to_its_final_value(tiny_config: MakeConfig) -> None:
    folder = run(tiny_config(agent={"learning_rate": 1e-3, "final_learning_rate": 1e-4})).folder
    lines = [line for line in read_metrics(folder) if "train/learning_rate" in line]
    done = [(line["env_steps"] - 4) / 160 for line in lines]  # before the vector step in which the update was made
    assert [line["train/learning_rate"] for line in lines] == pytest.approx([1e-3 - 9e-4 * share for share in done])
    assert done[-1] > 0.95


def test_two_runs_with_one_seed_measure_the_same(finished: Result, tmp_path: Path) -> None:
    values = RunFolder.existing(finished.folder).config().to_dict()
    again = run(RunConfig.from_dict({**values, "runs_dir": str(tmp_path)}))
    series = [task_series(read_metrics(r.folder), "train_critic_loss") for r in (finished, again)]
    for task in TASKS:
        assert np.array_equal(series[0][task][:, 2], series[1][task][:, 2])


@pytest.mark.parametrize(("warmup", "warned"), [(39, False), (40, True)])
def test_a_warm_up_as_long_as_the_budget_is_said_at_the_start(
    warmup: int, warned: bool, tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_config(agent={"warmup_steps_per_task": warmup}))
    said = capsys.readouterr().out
    sentences = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert len(sentences) == warned
    if warned:
        assert (
            "agent.warmup_steps_per_task=40 in each of 4 tasks is a warm-up of 160 env steps, and the run has 160"
            in sentences[0]
        )
        assert said.index("Warning: ") < said.index("Learnt")


def test_a_run_that_goes_on_past_its_warm_up_is_warned_no_more(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tiny_config(agent={"warmup_steps_per_task": 40}, checkpoint={"every_env_steps": 80})).folder
    capsys.readouterr()
    run(tiny_config(agent={"warmup_steps_per_task": 40}, total_env_steps=240, run_dir=str(folder)))
    said = capsys.readouterr().out
    assert "Resuming from step" in said and "Warning" not in said


def test_a_run_that_was_not_finished_is_kept_aside(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(run_dir=str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text(json.dumps({"status": "interrupted"}))
    (tmp_path / "mine" / "metrics.jsonl").write_text("precious\n")
    assert not run(config).skipped
    assert (tmp_path / "mine.interrupted-1" / "metrics.jsonl").read_text() == "precious\n"


def test_a_folder_with_other_files_is_not_touched(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match="must be empty or a run"):
        run(tiny_config(run_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_input_writes_nothing(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="divisible by the 4 tasks"):
        run(tiny_config(agent={"batch_size": 5}))
    assert list(tmp_path.iterdir()) == []


def test_a_fault_leaves_metrics_agent_and_reason(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _stop_at_step(monkeypatch, 120, EnvironmentFault("task 'point-1' returned NaN"))
    config = tiny_config()
    with pytest.raises(EnvironmentFault):
        run(config)
    folder = RunFolder.of(config)
    assert folder.status == "failed"
    assert "point-1" in folder.record["error"]
    assert read_metrics(folder.path)[-1]["env_steps"] >= 100
    assert (folder.path / "agent.zip").exists()


def test_a_stop_leaves_metrics_agent_and_plot(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stop_at_step(monkeypatch, 120, KeyboardInterrupt())
    config = tiny_config()
    with pytest.raises(KeyboardInterrupt):
        run(config)
    folder = RunFolder.of(config)
    assert folder.status == "interrupted"
    assert MTSAC.load(folder.path / "agent.zip").num_timesteps == 120
    assert (folder.path / "plots" / "success.png").exists()
    assert "Stopped" in capsys.readouterr().out


def test_control_c_ends_the_command_with_130_and_leaves_a_run(tmp_path: Path) -> None:
    settings = ("env=pointmass", f"run_dir={tmp_path / 'r'}", ENDLESS)
    with training(*settings, "tracking.every_env_steps=40", "evaluation.every_env_steps=200") as process:
        wait_for_metrics(tmp_path / "r", "eval/success_rate")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert RunFolder(tmp_path / "r").status == "interrupted"
    assert MTSAC.load(tmp_path / "r" / "agent.zip").num_timesteps >= 200


def test_a_clock_ticks_once_for_every_interval() -> None:
    clock = Every(env_steps=10)
    assert [step for step in range(0, 41, 4) if clock(step)] == [12, 20, 32, 40]
    assert clock(95)
    assert not clock(99)
    assert clock(100)


def test_metrics_are_json_even_where_a_value_is_no_number(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write({"a": float("nan"), "b": np.float32(2), "c": np.array([1.0, np.inf])}, {}, step=3)
    writer.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in line
    assert json.loads(line) == {"env_steps": 3, "wall_time": pytest.approx(0, abs=1), "a": None, "b": 2, "c": [1, None]}


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 1}\n{"env_st')
    assert read_metrics(tmp_path) == [{"env_steps": 1}]


def test_wandb_that_is_not_installed_is_one_sentence(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mtrl-toolkit\[wandb\]'"):
        run(tiny_config(tracking={"wandb": True}))


@pytest.mark.parametrize(
    ("text", "name"),
    [("igb_v1+cagrad", "igb_v1+cagrad"), ("son_goku:pcgrad", "son_goku_pcgrad"), ("../../etc", "_.._etc"), ("", "_")],
)
def test_file_names_come_from_a_safe_alphabet(text: str, name: str) -> None:
    assert safe_name(text) == name


def _stop_at_step(monkeypatch: pytest.MonkeyPatch, env_steps: int, error: BaseException) -> None:
    """Raise inside learning when that many env_steps are made."""
    from mtrl.console import Quiet

    def step(self: Quiet, now: int, updates: int) -> None:
        if now >= env_steps:
            raise error

    monkeypatch.setattr(Quiet, "step", step)
