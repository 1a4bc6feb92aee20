"""What a search leaves: the best agent, the weights that led to it, the population as a plot, a fair comparison."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.config import RunConfig
from mtrl.run_folder import AGENT_FILE, FINISHED, RunFolder
from mtrl.tune.evolution import Outcome, ranking
from mtrl.tune.population import Book
from mtrl.tune.search import Search
from mtrl.weight_schedule import write_schedule

SCHEDULE, PLOT, COMPARISON, COMPARISON_JSON = "schedule.json", "population.png", "comparison.md", "comparison.json"


@dataclass(frozen=True)
class Final:
    """N finished runs of one kind, at equal budget.

    :param success: of the final evaluations ``[N, K]``; NaN for a run that is not finished
    :param outcomes: by training episodes, as a search ranks its members
    """

    success: np.ndarray
    outcomes: Sequence[Outcome]

    @property
    def chosen(self) -> int:
        """The run that training episodes call the best; its final evaluation had no say in it."""
        return ranking(self.outcomes)[0]

    def summary(self) -> dict[str, Any]:
        """Numbers of a row of the comparison; means over tasks, NaN as None."""
        means, worst = self.success.mean(axis=1), self.success.min(axis=1)
        return {
            "runs": len(means),
            "mean": _known(np.nanmean(means)) if np.isfinite(means).any() else None,
            "mean_worst_task": _known(np.nanmean(worst)) if np.isfinite(worst).any() else None,
            "best_of_n": _known(means[self.chosen]),
            "best_of_n_worst_task": _known(worst[self.chosen]),
            "each": [_known(value) for value in means],
        }


def read_finals(configs: Sequence[RunConfig], outcomes: Sequence[Outcome]) -> Final:
    """The final evaluations of runs.

    :param outcomes: of the same runs
    """
    rows = []
    for config in configs:
        folder = RunFolder.of(config)
        rows.append(folder.results().drop("mean")["success"].to_numpy(float) if folder.status == FINISHED else [])
    tasks = max(map(len, rows), default=0)
    return Final(np.array([row if len(row) else np.full(tasks, np.nan) for row in rows]), outcomes)


def write_findings(search: Search) -> list[str]:
    """Write the schedule and the agent of the best member, and the plot; returns the names of the files."""
    from mtrl.tune.plot import plot_population

    book, folder, best = search.book, search.folder, search.best
    write_schedule(book.schedule(best), folder / SCHEDULE)
    shutil.copyfile(RunFolder.of(search.config(best)).path / AGENT_FILE, folder / AGENT_FILE)
    plot_population(book, best, folder / PLOT)
    return [AGENT_FILE, SCHEDULE, PLOT]


def write_comparison(finals: Mapping[str, Final], book: Book, folder: Path) -> list[str]:
    """Write the comparison of the population with N seeds of each baseline, all of the same budget.

    :param finals: the population's first, then the baselines' by name
    """
    from tabulate import tabulate

    rows = {name: final.summary() for name, final in finals.items()}
    settings = book.settings
    (folder / COMPARISON_JSON).write_text(
        json.dumps({"env_steps_each": settings.total_env_steps, **rows}, indent=1) + "\n"
    )
    table = [
        [
            name,
            row["runs"],
            *(_text(row[key]) for key in ("mean", "mean_worst_task", "best_of_n", "best_of_n_worst_task")),
        ]
        for name, row in rows.items()
    ]
    header = ["", "runs", "mean", "its worst task", "best of N", "its worst task"]
    lines = [
        f"# {settings.algorithm.upper()} against N seeds, {settings.total_env_steps:,} env steps each",
        tabulate(table, headers=header, tablefmt="github", disable_numparse=True),
        "Success in the final evaluation, mean over tasks. A search spends N budgets for one agent: *best of N* in the "
        "first row. It stands against the best of N seeds, which costs the same, and against their mean, which is what "
        f"one budget buys. *Best* is chosen by training episodes ({settings.metric}), never by the evaluation that is "
        "reported.",
    ]
    if book.faults:
        lines.append(f"Members replaced because they could not continue: {len(book.faults)}.")
    (folder / COMPARISON).write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return [COMPARISON, COMPARISON_JSON]


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(float(value), 4)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
