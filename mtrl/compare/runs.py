"""Run folders as they lie on disk -> runs with their numbers; what cannot be used is named with its reason."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.tags import BALANCER_WEIGHT, CONFLICT_SHARE, ENV_STEPS, EVAL_SUCCESS, UPDATES, WALL_TIME, of_task
from mtrl.errors import RunFolderError
from mtrl.run_folder import (
    CONFIG_FILE,
    FAILED,
    FINISHED,
    RECORD_FILE,
    RESULTS_CSV,
    RunFolder,
    failures_before,
    was_set_aside,
)
from mtrl.tracking import read_metrics


@dataclass(frozen=True)
class Series:
    """Something measured over a run.

    :param env_steps: transitions over all tasks, ``[T]``
    :param seconds: wall-clock time since the run began, ``[T]``
    :param values: ``[T]`` or, per task, ``[T, K]``
    """

    env_steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.env_steps)


@dataclass(frozen=True)
class Run:
    """One run.

    :param folder: where it lies
    :param config: the settings it was started with
    :param record: its ``run.json``
    :param success: rate of success at every evaluation, ``[T, K]``; the last one is the final evaluation if the run
        is finished
    :param final: success of the final evaluation, ``[K]``; None if the run is not finished
    :param final_at_end: the same at the last step of the episodes; None where it was not measured
    :param weights: weights of the critic's losses, ``[T, K]``
    :param conflict: share of task pairs in conflict, ``[T]``, by network (``critic``, ``actor``)
    :param updates: gradient updates
    :param env_steps: how far it has come, over all tasks
    :param failures_before: runs that failed in its folder before it
    """

    folder: Path
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    success: Series
    final: np.ndarray | None = None
    final_at_end: np.ndarray | None = None
    weights: Series | None = None
    conflict: Mapping[str, Series] = field(default_factory=dict)
    updates: int = 0
    env_steps: int = 0
    failures_before: int = 0

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config.get("seed", 0))

    @property
    def status(self) -> str:
        """``finished``, or how far it has come."""
        return str(self.record.get("status", "without a status"))

    @property
    def finished(self) -> bool:
        """Whether it has a final result."""
        return self.final is not None

    @property
    def failures(self) -> int:
        """How often it failed, whatever became of it afterwards."""
        return self.failures_before + (self.status == FAILED)

    @property
    def parameters(self) -> Mapping[str, int]:
        """Parameters of ``actor`` and ``critic`` (all critics together); empty where they were not recorded."""
        return (self.record.get("agent") or {}).get("parameters") or {}

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What its numbers are labelled with; empty for a run that stopped before it was known."""
        return self.record.get("protocol") or {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The K tasks, in order."""
        return tuple(self.protocol.get("tasks", ()))

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of ``learning``, ``evaluations`` and ``final_evaluation``."""
        return self.record.get("seconds") or {}


@dataclass(frozen=True)
class LeftOut:
    """A folder that holds a run which cannot be used, and why."""

    folder: Path
    reason: str


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """The run folders that are given or lie below what is given, each once; those that a new run has replaced are not.

    :raises RunFolderError: for a path that does not exist, or that holds no run
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise RunFolderError(f"No runs at '{path}': there is no such folder.")
        below = [path] if (path / RECORD_FILE).is_file() else sorted(file.parent for file in path.rglob(RECORD_FILE))
        below = [folder for folder in below if folder == path or not was_set_aside(folder)]
        if not below:
            raise RunFolderError(f"No runs at '{path}': neither it nor a folder below it holds a {RECORD_FILE}.")
        found |= dict.fromkeys(folder.resolve() for folder in below)
    return list(found)


def read_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[LeftOut]]:
    """Every run below the paths, and the folders whose files cannot be read.

    :raises RunFolderError: for a path that holds no run
    """
    runs, left_out = [], []
    for folder in find_runs(paths):
        try:
            runs.append(read_run(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            left_out.append(LeftOut(folder, " ".join(str(error).split()) or type(error).__name__))
    return runs, left_out


def read_head(folder: Path) -> Run:
    """A run's settings and record alone, without anything that it measured.

    :raises RunFolderError: if a file is missing or does not hold what it should
    """
    record = RunFolder(folder).record
    if not record:
        raise RunFolderError(f"its {RECORD_FILE} cannot be read")
    nothing = np.empty(0)
    return Run(folder, _config(folder), record, Series(nothing, nothing, nothing))


def read_run(folder: Path) -> Run:
    """One run; without final results if it is not finished.

    :raises RunFolderError: if a file is missing or does not hold what it should
    """
    record = RunFolder(folder).record
    if not record:
        raise RunFolderError(f"its {RECORD_FILE} cannot be read")
    tasks = tuple((record.get("protocol") or {}).get("tasks", ()))
    metrics = read_metrics(folder)
    _make_clock_run_on(metrics)
    final, at_end = _final(folder, tasks) if record.get("status") == FINISHED else (None, None)
    success = _task_series(metrics, EVAL_SUCCESS, tasks)
    if final is not None and not len(success):
        raise RunFolderError("it is finished, but its metrics hold no evaluation")
    weights = _task_series(metrics, BALANCER_WEIGHT, tasks)
    return Run(
        folder=folder,
        config=_config(folder),
        record=record,
        success=success,
        final=final,
        final_at_end=at_end,
        weights=weights if len(weights) else None,
        conflict=_conflict(metrics),
        updates=int(next((line[UPDATES] for line in reversed(metrics) if line.get(UPDATES)), 0)),
        env_steps=int(metrics[-1][ENV_STEPS]) if metrics else 0,
        failures_before=failures_before(folder),
    )


def _config(folder: Path) -> dict[str, Any]:
    import yaml

    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunFolderError(f"it holds no {CONFIG_FILE}") from error
    # OmegaConf would take most of the time of a comparison; these files hold plain values only.
    config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(config, dict):
        raise RunFolderError(f"its {CONFIG_FILE} is no group of settings")
    return config


def _final(folder: Path, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    import pandas

    try:
        table = pandas.read_csv(folder / RESULTS_CSV, index_col="task").loc[list(tasks)]
    except FileNotFoundError as error:
        raise RunFolderError(f"it is finished, but holds no {RESULTS_CSV}") from error
    except KeyError as error:
        raise RunFolderError(f"its {RESULTS_CSV} does not hold its tasks") from error
    at_end = table["success_at_end"].to_numpy(dtype=float) if "success_at_end" in table else None
    return table["success"].to_numpy(dtype=float), None if at_end is None or np.isnan(at_end).any() else at_end


def _make_clock_run_on(metrics: list[dict[str, Any]]) -> None:
    """A run that was continued in a new process starts its clock again: count on from where it stood."""
    before, offset = 0.0, 0.0
    for line in metrics:
        seconds = float(line[WALL_TIME])
        if seconds + offset < before:
            offset = before
        before = line[WALL_TIME] = seconds + offset


def _task_series(metrics: Sequence[Mapping[str, Any]], tag: str, tasks: Sequence[str]) -> Series:
    """The lines that hold the tag for every task; of two at one place, the later: the final evaluation."""
    keys = [of_task(tag, task) for task in tasks]
    lines = {
        line[ENV_STEPS]: line
        for line in metrics
        if keys and keys[0] in line and all(line.get(key) is not None for key in keys)
    }
    ordered = [lines[step] for step in sorted(lines)]
    values = np.array([[line[key] for key in keys] for line in ordered], dtype=float).reshape(len(ordered), len(keys))
    return _series(ordered, values)


def _conflict(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    keys = {key: match[1] for line in metrics[-3:] for key in line if (match := CONFLICT_SHARE.match(key))}
    found = {}
    for key, network in keys.items():
        lines = [line for line in metrics if line.get(key) is not None]
        found[network] = _series(lines, np.array([line[key] for line in lines], dtype=float))
    return found


def _series(lines: Sequence[Mapping[str, Any]], values: np.ndarray) -> Series:
    steps, seconds = ([line[key] for line in lines] for key in (ENV_STEPS, WALL_TIME))
    return Series(np.array(steps, dtype=float), np.array(seconds, dtype=float), values)
