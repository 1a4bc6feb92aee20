"""The parts of a report in order: each a title, a few words, a table or a figure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtrl.compare import plots, stats, task_plots
from mtrl.compare.comparison import ENV_STEPS, SECONDS, Comparison
from mtrl.compare.protocol import describe, mixed_fields, protocol_of
from mtrl.compare.verdict import enumerate_words, progress, signed
from mtrl.config import flatten

_HARDEST = 3  # tasks of a method that are named
ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; the first column is a name."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A part of the report.

    :param key: its name in links and files
    :param text: what is shown, and how to read it
    :param figure: None where there is nothing to draw
    :param folded: for readers who ask for it
    """

    key: str
    title: str
    text: str
    table: Table | None = None
    figure: Figure | None = None
    folded: bool = False


def sections(comparison: Comparison) -> list[Section]:
    """Every part of the report below the verdict."""
    runs = f"{stats.LEVEL:.0%}".replace("%", " %")
    band = f"Bands are {runs} bootstrap intervals over seeds."
    drawn: list[tuple[str, str, str, Callable[[Comparison], Figure | None]]] = [
        ("scores", "Final and best success", _scores_text(comparison), plots.draw_scores),
        (
            "differences",
            f"Difference from {comparison.baseline.label}",
            "Filled: the interval excludes zero. Hollow: it does not, or there are too few seeds for a verdict. "
            "Differences are taken seed by seed where the seeds are shared.",
            plots.draw_differences,
        ),
        (
            "curves-env-steps",
            "Success over env steps",
            f"Evaluations while training ({_episodes(comparison)}), the last one the final evaluation. {band}",
            lambda given: plots.draw_curves(given, ENV_STEPS),
        ),
        (
            "curves-wall-clock",
            "Success over wall-clock time",
            f"The same against the time since a run began, evaluations included. A run that has ended keeps its last "
            f"value until the last one of its method ends. {band} {_machines_text(comparison)}",
            lambda given: plots.draw_curves(given, SECONDS),
        ),
        (
            "tasks",
            "Final success per task",
            "Mean over seeds. Tasks from the easiest on the left to the hardest.",
            task_plots.draw_heat_map,
        ),
        (
            "profiles",
            "Performance profiles",
            f"Share of all runs and tasks that reach at least a success; higher is better. {band}",
            plots.draw_profiles,
        ),
        (
            "improvement",
            "Probability of improvement",
            "How likely a run of the row's method beats a run of the column's on a task drawn at random, ties counting "
            f"one half. A star: the {runs} interval of this pair excludes 0.5, uncorrected for the number of pairs.",
            task_plots.draw_improvement,
        ),
        ("weights", "Task weights over time", _weights_text(comparison), task_plots.draw_weights),
        ("conflict", "Gradient conflict over time", _conflict_text(comparison), task_plots.draw_conflict),
        (
            "cost",
            "Cost",
            "Learning time per gradient update with the simulation that runs beside it, and the time of whole runs; "
            f"means with {runs} intervals. {_machines_text(comparison)}",
            plots.draw_cost,
        ),
    ]
    found = [
        Section(key, title, text, table=_TABLES[key](comparison) if key in _TABLES else None, figure=draw(comparison))
        for key, title, text, draw in drawn
    ]
    return [*found, *_record(comparison)]


def summary_table(comparison: Comparison) -> Table:
    """The table that stands below the verdict."""
    differences = comparison.differences
    rows = differences[differences["measure"] == "final"].set_index("method") if len(differences) else differences
    worst = "worst task" if comparison.worst == 1 else f"{comparison.worst} worst tasks"
    header = ["method", "seeds", "final, mean", "95 % interval", "difference", "95 % interval", "verdict"]
    table = []
    for _, row in comparison.summary.iterrows():
        label = str(row["method"])
        cells = [label, str(row["seeds"]), f"{row['final']:.2f}", interval(row["final_low"], row["final_high"])]
        if label == comparison.baseline.label:
            cells += [ABSENT, ABSENT, "baseline"]
        else:
            other = rows.loc[label]
            ends = interval(other["low"], other["high"], signed)
            cells += [signed(other["difference"]), ends, other["verdict"]]
        cells += [f"{row[name]:.2f}" for name in ("final_iqm", "worst", "best")]
        table.append(cells)
    return Table([*header, "final, IQM", f"final, {worst}", "best"], table)


def narrow(summary: Table) -> Table:
    """The summary for a terminal: without the interval of the mean itself, and the interquartile mean."""
    kept = [i for i in range(len(summary.header)) if i not in (3, 7)]
    return Table([summary.header[i] for i in kept], [[row[i] for i in kept] for row in summary.rows])


def interval(low: float, high: float, number: Callable[[float], str] = "{:.2f}".format) -> str:
    """``0.10 to 0.20``; a dash where there is none."""
    return ABSENT if low != low else f"{number(low)} to {number(high)}"


# ---------------------------------------------------------------------- what the runs were


def _record(comparison: Comparison) -> list[Section]:
    return [
        Section("seeds", "Seeds", "Statistics are over finished runs only.", table=_seeds_table(comparison)),
        Section(
            "protocol",
            "Protocol and budget",
            "What every number on this page is labelled with."
            if not comparison.mixed
            else "The runs differ in the fields marked with a star, which list every value that occurs.",
            table=_protocol_table(comparison),
        ),
        Section("commands", "Commands", "", table=_commands_table(comparison), folded=True),
    ]


def _seeds_table(comparison: Comparison) -> Table:
    rows = [
        [
            method.label,
            str(len(method.runs)),
            ", ".join(map(str, method.seeds)) or ABSENT,
            "; ".join(map(progress, method.unfinished)) or ABSENT,
            ", ".join(map(str, method.missing)) or ABSENT,
        ]
        for method in (*comparison.methods, *comparison.without_result)
    ]
    return Table(["method", "finished", "their seeds", "unfinished", "missing"], rows)


def _protocol_table(comparison: Comparison) -> Table:
    runs = comparison.runs
    mixed = mixed_fields(runs)
    rows = []
    for field in dict.fromkeys(field for run in runs for field in protocol_of(run)):
        values = mixed.get(field) or [describe(protocol_of(runs[0]).get(field))]
        rows.append([f"{field} *" if field in mixed else field, " | ".join(values)])
    versions = [flatten(run.record.get("versions") or {}) for run in runs]
    for package in dict.fromkeys(name for found in versions for name in found):
        values = sorted({str(found.get(package, ABSENT)) for found in versions})
        rows.append([f"version of {package}", " | ".join(values)])
    commits = sorted({str((run.record.get("git") or {}).get("commit") or "unknown")[:12] for run in runs})
    rows.append(["commit", " | ".join(commits)])
    rows.append(["machine", " | ".join(_machines(comparison))])
    return Table(["field", "value"], rows)


def _commands_table(comparison: Comparison) -> Table:
    rows = [
        [method.label, str(run.seed), str(run.record.get("command", ABSENT))]
        for method in comparison.methods
        for run in method.runs
    ]
    return Table(["method", "seed", "command"], rows)


def _machines(comparison: Comparison) -> list[str]:
    found = set()
    for run in comparison.runs:
        machine, agent = run.record.get("machine") or {}, run.record.get("agent") or {}
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        threads = f", {agent['torch_threads']} threads" if "torch_threads" in agent else ""
        found.add(f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores{gpu}{threads}")
    return sorted(found)


def _machines_text(comparison: Comparison) -> str:
    machines = _machines(comparison)
    if len(machines) > 1:
        return f"Caution: these runs were made on {len(machines)} different machines or numbers of threads."
    return "Times compare only if the machine did nothing else, or the same, beside every run."


# ---------------------------------------------------------------------- words that depend on the runs


def _scores_text(comparison: Comparison) -> str:
    worst = "its worst task" if comparison.worst == 1 else f"its {comparison.worst} worst tasks"
    return (
        "Final: the final evaluation of a run, mean over tasks. Interquartile mean: over the seeds, without the best "
        f"and the worst quarter. Worst: mean of a run over {worst}. Best: the highest mean over tasks of any "
        f"evaluation of a run, most of them with few episodes ({_episodes(comparison)}), so a maximum of noisy "
        "numbers that lies above what the agent can do; it grows with the number of evaluations "
        f"({_counts(len(run.success) for run in comparison.runs)} in these runs). Bars are 95 % intervals."
    )


def _episodes(comparison: Comparison) -> str:
    given = (flatten(run.config).get("evaluation.episodes", "?") for run in comparison.runs)
    return f"{_counts(given)} episodes per task"


def _counts(values: Iterable[object]) -> str:
    return " or ".join(sorted({str(value) for value in values}))


def _weights_text(comparison: Comparison) -> str:
    flat = [method.label for method in comparison.methods if not task_plots.has_weights(comparison, method)]
    text = "Weights of the critic's losses, mean over seeds; 1 is the plain average."
    if len(flat) == len(comparison.methods):
        return f"{text} No method has any other than 1 throughout."
    return f"{text} All ones, or not recorded, and not drawn: {enumerate_words(flat)}." if flat else text


def _conflict_text(comparison: Comparison) -> str:
    measured = {method.label for method in task_plots.with_conflict(comparison)}
    silent = [method.label for method in comparison.methods if method.label not in measured]
    text = "Share of task pairs whose gradients have a negative inner product, mean over seeds."
    if not measured:
        return f"{text} None of these methods computes the gradients of single tasks, so none records it."
    not_drawn = f" Not recorded by {enumerate_words(silent)}." if silent else ""
    return f"{text} Recorded only by balancers that compute the gradients of single tasks.{not_drawn}"


def _cost_table(comparison: Comparison) -> Table:
    summary = comparison.summary
    baseline = summary.loc[summary["method"] == comparison.baseline.label, "ms_per_update"].iloc[0]
    rows = [
        [
            str(row["method"]),
            _number(row["ms_per_update"], ".2f"),
            interval(row["ms_per_update_low"], row["ms_per_update_high"]),
            _number(row["ms_per_update"] / baseline if baseline else np.nan, ".2f"),
            _number(row["total_seconds"] / 60, ".1f"),
        ]
        for _, row in summary.iterrows()
    ]
    header = ["method", "ms per update", "95 % interval", f"times {comparison.baseline.label}", "minutes per run"]
    return Table(header, rows)


def _worst_table(comparison: Comparison) -> Table:
    """The hardest tasks of every method, by their mean over seeds."""
    scores = comparison.scores.groupby(["method", "task"])["final"].mean()
    rows = []
    for label in comparison.summary["method"]:
        hardest = scores[label].sort_values(kind="stable").head(_HARDEST)
        rows.append([str(label), ", ".join(f"{task} {value:.2f}" for task, value in hardest.items())])
    return Table(["method", "hardest tasks, mean over seeds"], rows)


def _number(value: float, form: str) -> str:
    return ABSENT if pd.isna(value) else format(value, form)


_TABLES: dict[str, Callable[[Comparison], Table]] = {"cost": _cost_table, "tasks": _worst_table}
