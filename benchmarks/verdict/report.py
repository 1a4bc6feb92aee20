"""Small files of the runs, kept beside the docs, and the report that is made from them alone."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from agents.tags import ENV_STEPS, EVAL_SUCCESS, UPDATES
from benchmarks.verdict.design import BASELINE, BLOCKS, CONDITIONED, PLAIN, PRIMARY, SUITES, Agent
from benchmarks.verdict.runs import Planned
from mtrl.compare import Comparison, Run, compare_runs, read_runs, write_overview
from mtrl.errors import ConfigError, RunFolderError
from mtrl.run_folder import CONFIG_FILE, RECORD_FILE, RESULTS_CSV
from mtrl.tracking import METRICS_FILE, read_metrics

LARGEST = 5_000_000  # bytes of a file that is kept
_KEPT = (
    "status",
    "started",
    "ended",
    "protocol",
    "seeds",
    "agent",
    "versions",
    "seconds",
    "success_rate",
    "error",
    "plugins",
)
_MACHINE = ("cpu", "cores", "gpu")
_WORST = {"mt10": 3}  # tasks; elsewhere a fifth of them
_NOT_HERE = {"runs_dir": "runs", "run_dir": None}  # where a run lay says nothing of it
PILOTS, DATA, HOURS = "pilots.csv", "data", "core-hours.csv"


def keep_small_files(planned: Iterable[Planned], place: Path) -> None:
    """Copy of every run that has begun what a comparison reads: settings, record, results, evaluations."""
    for one in planned:
        folder = one.run.path
        tries = [folder, *sorted(folder.parent.glob(f"{folder.name}.failed-*"))] if folder.parent.is_dir() else []
        for path in tries:
            if (path / RECORD_FILE).is_file():
                _keep(path, place / path.name, one)


def _keep(source: Path, target: Path, one: Planned) -> None:
    target.mkdir(parents=True, exist_ok=True)
    record = json.loads((source / RECORD_FILE).read_text(encoding="utf-8"))
    small = {key: record[key] for key in _KEPT if key in record}
    small["machine"] = {key: (record.get("machine") or {}).get(key) for key in _MACHINE}
    small["git"] = {"commit": (record.get("git") or {}).get("commit")}
    settings = [word for word in one.overrides if not word.startswith("runs_dir=")]
    small["command"] = "python train.py " + " ".join(f"'{w}'" if set(w) & set("[]{} ") else w for w in settings)
    if "error" in small:
        small["error"] = str(small["error"]).replace(str(source), source.name)
    (target / RECORD_FILE).write_text(json.dumps(small, indent=1) + "\n", encoding="utf-8")
    config = yaml.safe_load((source / CONFIG_FILE).read_text(encoding="utf-8"))
    (target / CONFIG_FILE).write_text(yaml.safe_dump({**config, **_NOT_HERE}, sort_keys=False), encoding="utf-8")
    if (source / RESULTS_CSV).is_file():
        shutil.copyfile(source / RESULTS_CSV, target / RESULTS_CSV)
    lines = _evaluations(read_metrics(source)) if (source / METRICS_FILE).is_file() else []
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if len(text) > LARGEST:
        raise ValueError(f"'{source}' has {len(text):,} bytes of evaluations: at most {LARGEST:,} are kept.")
    (target / METRICS_FILE).write_text(text, encoding="utf-8")


def _evaluations(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that a comparison needs: every evaluation, and the last number of updates."""
    prefix = EVAL_SUCCESS.partition("/")[0] + "/"
    found = []
    for line in metrics:
        kept = {key: value for key, value in line.items() if key.startswith(prefix)}
        if kept:
            found.append({**{key: line[key] for key in (ENV_STEPS, "wall_time")}, **kept})
    counted = [line for line in metrics if line.get(UPDATES)]
    if counted:
        found.append({key: counted[-1][key] for key in (ENV_STEPS, "wall_time", UPDATES)})
    return sorted(found, key=_env_steps)


# ---------------------------------------------------------------------- the report


def write_study(out: Path) -> Path | None:
    """The reports of all runs that are kept below a folder: a part for each suite and agent, none over two.

    Methods are compared in ``report``, whose comparisons are the primary ones; what conditioning does to them stands in
    ``designs``.

    :return: the page of the methods; None if there is nothing to compare yet
    """
    parts: dict[str, Comparison] = {}
    designs: dict[str, Comparison] = {}
    hours = []
    for suite in SUITES:
        runs = _runs(out / DATA / suite)
        hours += [_hours(suite, run) for run in runs]
        for algorithm, sound in CONDITIONED.items():
            ours, both = _of(runs, sound), [*_of(runs, sound), *_of(runs, PLAIN[algorithm])]
            _add(parts, f"{suite}, {sound.name}", ours, None)
            if len(both) > len(ours):
                _add(designs, f"{suite}, {sound.name}: conditioning x balancing", both, ("agent", "balancer"))
    if hours:
        table = pd.DataFrame(hours).groupby(["suite", "agent", "status"])["core_hours"].agg(["count", "sum"]).round(2)
        table.reset_index().rename(columns={"count": "runs", "sum": "core_hours"}).to_csv(out / HOURS, index=False)
    if designs:
        write_overview(designs, out / "designs", families=_suites(designs))
    return write_overview(parts, out / "report", families=_suites(parts)) if parts else None


def _suites(titles: Iterable[str]) -> dict[str, str]:
    """The suite of every part: comparisons are corrected together within one."""
    return {title: title.partition(",")[0] for title in titles}


def _add(parts: dict[str, Comparison], title: str, runs: Sequence[Run], factors: tuple[str, str] | None) -> None:
    """A comparison of these runs, if they make one by now."""
    folders, worst = [run.folder for run in runs], _WORST.get(title.partition(",")[0])
    if len({run.config["balancer"]["name"] for run in runs if run.finished}) < 2:
        return
    try:
        names = sorted({str(run.config["agent"]["name"]) for run in runs})
        baseline = BASELINE if len(names) == 1 else f"{BASELINE} ({names[0]})"
        parts[title] = compare_runs(
            folders, baseline=baseline, primary=PRIMARY, factors=factors, reference="bests", worst=worst
        )
    except ConfigError as error:  # a block that has just begun has no baseline, or no whole design
        print(f"{title}: {error}")


def write_pilots(out: Path) -> None:
    """Success of every pilot by its budget, from which the budgets of the protocol follow."""
    rows = [
        {
            "block": block.name,
            "agent": run.config["agent"]["name"],
            "steps_per_task": run.protocol["env_steps"] // len(run.tasks),
            "seed": run.seed,
            "success": None if run.final is None else round(float(run.final.mean()), 4),
        }
        for block in BLOCKS
        if block.pilot
        for run in _runs(out / DATA / block.name)
        if run.protocol
    ]
    if rows:
        table = pd.DataFrame(rows).sort_values(["block", "agent", "steps_per_task", "seed"])
        table.to_csv(out / PILOTS, index=False)


def _runs(place: Path) -> list[Run]:
    try:
        return read_runs([place])[0]
    except RunFolderError:
        return []


def _of(runs: Iterable[Run], agent: Agent) -> list[Run]:
    return [run for run in runs if run.config["agent"]["name"] == agent.name]


def _hours(suite: str, run: Run) -> dict[str, Any]:
    seconds = sum(run.seconds.values()) or (run.success.seconds[-1] if len(run.success) else 0.0)
    return {
        "suite": suite,
        "agent": run.config["agent"]["name"],
        "status": run.status,
        "core_hours": seconds * (run.config.get("threads") or 1) / 3600,
    }


def _env_steps(line: dict[str, Any]) -> float:
    return float(line[ENV_STEPS])
