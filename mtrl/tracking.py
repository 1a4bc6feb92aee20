"""What a run writes while it trains: metrics of evaluations, and the writers behind Stable-Baselines3's logger."""

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from agents.tags import (
    BALANCER_WEIGHT,
    ENV_STEPS,
    EVAL_EPISODES,
    EVAL_FINAL,
    EVAL_LENGTH,
    EVAL_RETURN,
    EVAL_SUCCESS,
    EVAL_SUCCESS_AT_END,
    EVAL_SUCCESS_RATE,
    WALL_TIME,
    of_task,
)
from mtrl.config import TrackingConfig
from mtrl.console import say, without_harm
from mtrl.errors import MissingExtra
from mtrl.evaluation import EvaluationResult
from mtrl.run_folder import write_whole

METRICS_FILE, WANDB_ID_FILE = "metrics.jsonl", "wandb-id.txt"


def evaluation_metrics(result: EvaluationResult, final: bool) -> dict[str, float]:
    """The tags of one evaluation. Returns of whole episodes only: those cut at a success do not compare."""
    metrics: dict[str, float] = {
        EVAL_SUCCESS_RATE: result.success_rate,
        EVAL_EPISODES: float(result.episodes),
        EVAL_FINAL: float(final),
    }
    tables = {EVAL_SUCCESS: result.success, EVAL_LENGTH: result.lengths}
    if result.success_at_end is not None:
        tables |= {EVAL_SUCCESS_AT_END: result.success_at_end, EVAL_RETURN: result.returns}
    elif not result.judges_success:  # then no episode was cut
        tables |= {EVAL_RETURN: result.returns}
    for tag, table in tables.items():
        for name, value in zip(result.task_names, table.mean(axis=1), strict=True):
            metrics[of_task(tag, name)] = float(value)
    return metrics


class JsonlWriter(KVWriter):
    """``metrics.jsonl``: one JSON object per line, on disk as soon as it is written.

    Every line carries ``env_steps`` and ``wall_time`` (seconds since the run began, pauses left out). A value that is
    no finite number is written as null: NaN is not JSON. Lines that a full disk refuses are kept and written later.

    :param path: the file
    :param position: where a checkpoint was made, to resume from: what was written after it is cut off
    """

    def __init__(self, path: Path, position: dict[str, Any] | None = None) -> None:
        self._file = path.open("ab", buffering=0)
        self._unwritten: list[str] = []
        self._bytes = self._file.tell()
        self.started = time.monotonic()
        if position is not None:
            self._resume(position)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        line: dict[str, Any] = {ENV_STEPS: step, WALL_TIME: round(self.seconds, 3)}
        line |= {key: _json_number(value) for key, value in key_values.items()}
        self._unwritten.append(json.dumps(line) + "\n")
        self._write_out()

    @property
    def seconds(self) -> float:
        """Since the run began, pauses left out."""
        return time.monotonic() - self.started

    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps: bytes on disk, lines that still wait for room there, and seconds."""
        return {
            "bytes": self._bytes,
            "unwritten": list(self._unwritten),
            "seconds": self.seconds,
        }

    def sync(self) -> None:
        """Bring what was written to the disk itself."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._write_out()
        self._file.close()

    def _resume(self, position: dict[str, Any]) -> None:
        self.started -= position["seconds"]
        if (lost := position["bytes"] - self._bytes) > 0:
            say(f"Warning: {METRICS_FILE} has lost the last {lost:,} bytes of what came before the checkpoint.")
        self._bytes = min(self._bytes, position["bytes"])
        self._file.truncate(self._bytes)
        self._unwritten = list(position["unwritten"])

    def _write_out(self) -> None:
        data = memoryview("".join(self._unwritten).encode())
        waited, written = len(self._unwritten) > 1, 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            self._file.truncate(self._bytes)  # half a line would spoil the next one
            if not waited:
                say(f"Warning: {METRICS_FILE} cannot be written ({error.strerror}); its lines wait in memory for room.")
            return
        self._bytes += len(data)
        self._unwritten = []


class TensorBoardWriter(TensorBoardOutputFormat):
    """Event files with SB3's tags, and two charts that show all tasks at once on the page "custom scalars".

    :param after: env_steps of the checkpoint that the run resumes from: TensorBoard forgets what came after it
    """

    def __init__(self, folder: Path, after: int | None = None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # here: a run without it need not have TensorBoard

        self.writer = SummaryWriter(str(folder), purge_step=None if after is None else after + 1)
        self._is_closed = False
        charts = {"success per task": EVAL_SUCCESS, "task weights": BALANCER_WEIGHT}
        self.writer.add_custom_scalars(
            {"tasks": {name: ["Multiline", [of_task(tag, ".*")]] for name, tag in charts.items()}}
        )


class WandbWriter(KVWriter):
    """Weights & Biases; nothing is sent unless ``tracking.wandb=true``.

    Its run has one id for as long as the folder lives, kept there, so that a resumed run continues its curves. What
    was sent after the checkpoint is not sent again: the resumed run repeats it.

    :param folder: of the run
    :raises MissingExtra: if wandb is not installed
    """

    def __init__(self, project: str, name: str, folder: Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra(
                "tracking.wandb=true needs Weights & Biases, which is not installed: pip install 'mtrl-toolkit[wandb]'."
            ) from error
        self.run = wandb.init(
            project=project,
            name=name,
            dir=str(folder),
            config=config,
            id=_wandb_id(folder / WANDB_ID_FILE),
            resume="allow",  # the same id, or a new run where the server has none of it
            allow_val_change=True,  # a run may be resumed with more steps
        )

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        if step < self.run.step:  # it was sent before the run was stopped, and cannot be changed
            return
        self.run.log({ENV_STEPS: step, **{key: _json_number(value) for key, value in key_values.items()}}, step=step)

    def close(self) -> None:
        self.run.finish()


def _wandb_id(file: Path) -> str:
    """The id in a file; a new one, written there before anything is sent, where there is none."""
    if file.is_file() and (known := file.read_text(encoding="utf-8").strip()):
        return known
    made = uuid.uuid4().hex[:16]
    write_whole(file, f"{made}\n")
    return made


class Isolated(KVWriter):
    """A writer that a run can do without: its first error disables it, with one warning.

    :param name: as it is called in the warning
    :param make: builds the writer, from `arguments`
    """

    def __init__(self, name: str, make: Callable[..., KVWriter], *arguments: Any) -> None:
        self.name = name
        self.writer = without_harm(name, make, *arguments)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        if self.writer is not None and without_harm(self.name, self._done, key_values, key_excluded, step) is None:
            self.writer = None

    def close(self) -> None:
        if self.writer is not None:
            without_harm(self.name, self.writer.close)
            self.writer = None

    def _done(self, *arguments: Any) -> bool:
        assert self.writer is not None
        self.writer.write(*arguments)
        return True


def make_logger(
    folder: Path,
    tracking: TrackingConfig,
    run_name: str,
    config: dict[str, Any],
    metrics: JsonlWriter,
    after: int | None = None,
) -> Logger:
    """The writers that the config asks for, as one SB3 logger. All but ``metrics.jsonl`` may fail without harm.

    :param metrics: the writer of ``metrics.jsonl``
    :param after: env_steps of the checkpoint that the run resumes from
    :raises MissingExtra: for a writer whose package is not installed
    """
    writers: list[KVWriter] = []
    if tracking.wandb:
        writers.append(Isolated("Weights & Biases", WandbWriter, tracking.wandb_project, run_name, folder, config))
    writers.append(metrics)
    if tracking.tensorboard:
        writers.append(Isolated("TensorBoard", TensorBoardWriter, folder / "tensorboard", after))
    return Logger(str(folder), writers)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; a last line that was cut off by a crash is left out."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def task_series(metrics: Sequence[dict[str, Any]], tag: str) -> dict[str, np.ndarray]:
    """Values of a tag such as ``eval_success`` by task: ``{task: [points, 3]}`` of env_steps, wall_time, value."""
    prefix = of_task(tag, "")
    keys = dict.fromkeys(key for line in metrics for key in line if key.startswith(prefix))
    series = {key.removeprefix(prefix): tag_series(metrics, key) for key in keys}
    return {task: points for task, points in series.items() if len(points)}


def tag_series(metrics: Sequence[dict[str, Any]], tag: str) -> np.ndarray:
    """Values of one tag: ``[points, 3]`` of env_steps, wall_time, value."""
    points = [(line[ENV_STEPS], line[WALL_TIME], line[tag]) for line in metrics if line.get(tag) is not None]
    return np.array(points, dtype=float).reshape(-1, 3)


def _json_number(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, list):
        return [_json_number(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
