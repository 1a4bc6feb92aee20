"""The tables of a report, as text in rows and columns."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mtrl.compare.comparison import Comparison
from mtrl.compare.measures import AREA, PER_MINUTE
from mtrl.compare.protocol import describe, mixed_fields, protocol_of
from mtrl.compare.verdict import progress
from mtrl.config import flatten

_HARDEST = 3  # tasks of a method that are named
ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; the first column is a name.

    :param narrow: places of the columns that a terminal has room for; empty is all of them
    """

    header: list[str]
    rows: list[list[str]]
    narrow: list[int] = field(default_factory=list)


def summary_table(comparison: Comparison) -> Table:
    """The table that stands below the verdict."""
    measure, rows = comparison.primary_measure, comparison.primary_differences
    rows = rows.set_index("method") if len(rows) else rows
    worst = "worst task" if comparison.worst == 1 else f"{comparison.worst} worst tasks"
    own = {AREA: "area under curve", PER_MINUTE: "success per minute"}.get(measure.name)  # has no column otherwise
    header = ["method", "seeds", "failed", "final, mean", "95 % interval", *([own] if own else []), "difference"]
    header += ["95 % interval", "verdict", "final, IQM", f"final, {worst}", "best"]
    header += ["parameters, actor", "parameters, critic", "ms per update"]
    table = []
    for _, row in comparison.summary.iterrows():
        label = str(row["method"])
        cells = [label, str(row["seeds"]), str(row["failures"]), f"{row['final']:.2f}"]
        cells += [interval(row["final_low"], row["final_high"]), *([measure.number(row[measure.name])] if own else [])]
        if label == comparison.baseline.label:
            cells += [ABSENT, ABSENT, "baseline"]
        else:
            other = rows.loc[label]
            ends = interval(other["low"], other["high"], measure.signed)
            cells += [measure.signed(other["difference"]), ends, other["verdict"]]
        cells += [f"{row[name]:.2f}" for name in ("final_iqm", "worst", "best")]
        cells += [number(row[f"{side}_parameters"], ",.0f") for side in ("actor", "critic")]
        cells += [number(row["ms_per_update"], ".2f")]
        table.append(cells)
    dropped = {"final, IQM", "parameters, actor", "parameters, critic", "ms per update"}
    if not comparison.summary["failures"].any():
        dropped.add("failed")
    return Table(header, table, [i for i, name in enumerate(header) if name not in dropped and i != 4])


def narrow(summary: Table) -> Table:
    """A table for a terminal: without what has less to say."""
    kept = summary.narrow or range(len(summary.header))
    return Table([summary.header[i] for i in kept], [[row[i] for i in kept] for row in summary.rows])


def interval(low: float, high: float, text: Callable[[float], str] = "{:.2f}".format) -> str:
    """``0.10 to 0.20``; a dash where there is none."""
    return ABSENT if low != low else f"{text(low)} to {text(high)}"


def number(value: float, form: str) -> str:
    """A number as text; a dash where there is none."""
    return ABSENT if pd.isna(value) else format(value, form)


def architecture_table(comparison: Comparison) -> Table:
    """Methods by architecture, the best first within each; architectures in the order of their best method."""
    methods = {method.label: method for method in comparison.methods}
    summary = comparison.summary.assign(network=[methods[label].network for label in comparison.summary["method"]])
    rows = []
    for network in summary["network"].unique():
        for _, row in summary[summary["network"] == network].iterrows():
            sizes = [number(row[f"{side}_parameters"], ",.0f") for side in ("actor", "critic")]
            ends = interval(row["final_low"], row["final_high"])
            cost = number(row["ms_per_update"], ".2f")
            rows.append(
                [str(network), *sizes, str(row["method"]), str(row["seeds"]), f"{row['final']:.2f}", ends, cost]
            )
    header = ["architecture", "parameters, actor", "parameters, critic", "method", "seeds", "final, mean"]
    return Table([*header, "95 % interval", "ms per update"], rows)


def sensitivity_table(comparison: Comparison) -> Table:
    """What the seeds of every method can tell in the primary measure."""
    measure, rows = comparison.primary_measure, []
    for _, row in comparison.sensitivity.iterrows():
        limits = [ABSENT if pd.isna(row[name]) else measure.number(row[name]) for name in ("detectable", "corrected")]
        needed = number(row["needed"], ".0f")
        rows.append([str(row["method"]), str(row["seeds"]), measure.signed(row["difference"]), *limits, needed])
    header = ["method", "seeds", "difference found", "detectable", "detectable after Holm"]
    return Table([*header, "seeds for the difference found"], rows)


def references_table(comparison: Comparison) -> Table:
    """Published results, each at its largest number of env steps, with source and protocol."""
    rows = []
    for reference in comparison.references:
        steps, success = reference.success[-1]
        seeds = ABSENT if reference.seeds is None else str(reference.seeds)
        rows.append([reference.name, f"{success:.2f}", f"{steps:,}", seeds, reference.protocol, reference.source])
    return Table(["published", "success", "env steps per task", "seeds", "protocol", "source"], rows)


def effects_table(comparison: Comparison) -> Table:
    """Main effects and interactions of two factors."""
    measure = comparison.primary_measure
    rows = [
        [
            str(row["effect"]),
            str(row["of"]),
            measure.signed(row["difference"]),
            interval(row["low"], row["high"], measure.signed),
            str(row["seeds"]),
            f"{row['p']:.3f}",
            f"{row['p_holm']:.3f}",
        ]
        for _, row in comparison.effects.iterrows()
    ]
    return Table(["effect", "of", "difference", "95 % interval", "seeds", "p", "p after Holm"], rows)


def seeds_table(comparison: Comparison) -> Table:
    """Which seeds of every method are there."""
    rows = [
        [
            method.label,
            str(len(method.runs)),
            ", ".join(map(str, method.seeds)) or ABSENT,
            "; ".join(map(progress, method.unfinished)) or ABSENT,
            str(method.failures),
            ", ".join(map(str, method.missing)) or ABSENT,
        ]
        for method in (*comparison.methods, *comparison.without_result)
    ]
    return Table(["method", "finished", "their seeds", "unfinished", "failed", "missing"], rows)


def protocol_table(comparison: Comparison) -> Table:
    """What the numbers are labelled with, versions and machines."""
    runs = comparison.runs
    mixed = mixed_fields(runs)
    rows = []
    for name in dict.fromkeys(name for run in runs for name in protocol_of(run)):
        values = mixed.get(name) or [describe(protocol_of(runs[0]).get(name))]
        rows.append([f"{name} *" if name in mixed else name, " | ".join(values)])
    versions = [flatten(run.record.get("versions") or {}) for run in runs]
    for package in dict.fromkeys(name for found in versions for name in found):
        values = sorted({str(found.get(package, ABSENT)) for found in versions})
        rows.append([f"version of {package}", " | ".join(values)])
    commits = sorted({str((run.record.get("git") or {}).get("commit") or "unknown")[:12] for run in runs})
    rows.append(["commit", " | ".join(commits)])
    rows.append(["machine", " | ".join(machines(comparison))])
    return Table(["field", "value"], rows)


def commands_table(comparison: Comparison) -> Table:
    """The command of every run."""
    rows = [
        [method.label, str(run.seed), str(run.record.get("command", ABSENT))]
        for method in comparison.methods
        for run in method.runs
    ]
    return Table(["method", "seed", "command"], rows)


def machines(comparison: Comparison) -> list[str]:
    """Processors and threads that the runs were made with."""
    found = set()
    for run in comparison.runs:
        machine, agent = run.record.get("machine") or {}, run.record.get("agent") or {}
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        threads = f", {agent['torch_threads']} threads" if "torch_threads" in agent else ""
        found.add(f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores{gpu}{threads}")
    return sorted(found)


def cost_table(comparison: Comparison) -> Table:
    """Time per update and per run."""
    summary = comparison.summary
    baseline = summary.loc[summary["method"] == comparison.baseline.label, "ms_per_update"].iloc[0]
    rows = [
        [
            str(row["method"]),
            number(row["ms_per_update"], ".2f"),
            interval(row["ms_per_update_low"], row["ms_per_update_high"]),
            number(row["ms_per_update"] / baseline if baseline else np.nan, ".2f"),
            number(row["total_seconds"] / 60, ".1f"),
        ]
        for _, row in summary.iterrows()
    ]
    header = ["method", "ms per update", "95 % interval", f"times {comparison.baseline.label}", "minutes per run"]
    return Table(header, rows)


def worst_table(comparison: Comparison) -> Table:
    """The hardest tasks of every method, by their mean over seeds."""
    scores = comparison.scores.groupby(["method", "task"])["final"].mean()
    rows = []
    for label in comparison.summary["method"]:
        hardest = scores[label].sort_values(kind="stable").head(_HARDEST)
        rows.append([str(label), ", ".join(f"{task} {value:.2f}" for task, value in hardest.items())])
    return Table(["method", "hardest tasks, mean over seeds"], rows)
