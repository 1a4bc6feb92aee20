"""The figures of a comparison. One method has one look in all of them; many methods get a small panel each."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter

from mtrl.compare.comparison import ALIKE, BETTER, ENV_STEPS, SECONDS, TOO_FEW, WORSE, Comparison
from mtrl.compare.measures import FINAL, PER_MINUTE, WORST
from mtrl.compare.style import GRID, INK, MUTED, PAPER, Look, looks, new_figure, panels

WIDTH = 10.0
_TOGETHER = 6  # more methods than this are not drawn over each other
_COLUMNS = 4
_VERDICT_COLOURS = {BETTER: "#009e73", WORSE: "#d55e00", ALIKE: MUTED, TOO_FEW: MUTED}


def draw_scores(comparison: Comparison) -> Figure:
    """Final, interquartile, worst-task and best success of every method, one row each."""
    table = comparison.summary.iloc[::-1].reset_index(drop=True)
    look = _looks(comparison)
    parts = (
        ("final", "final success, mean"),
        ("final_iqm", "final, interquartile mean"),
        ("worst", f"final, {_worst(comparison)}"),
        ("best", "best of any evaluation"),
    )
    figure = new_figure(WIDTH, 0.9 + 0.27 * len(table))
    axes = figure.subplots(1, len(parts), sharey=True)
    for axis, (name, title) in zip(axes, parts, strict=True):
        for y, row in table.iterrows():
            _interval(axis, y, row[name], row[f"{name}_low"], row[f"{name}_high"], look[row["method"]])
        axis.set_title(title, fontsize=9)
        success_axis(axis, "x")
        axis.grid(axis="y", visible=False)
    _row_names(axes[0], table["method"], look)
    return figure


def draw_differences(comparison: Comparison) -> Figure | None:
    """Every method less the baseline, with the verdict as colour; None where there is nothing to compare."""
    table = comparison.differences
    if table.empty:
        return None
    order = list(comparison.summary["method"][::-1])
    order.remove(comparison.baseline.label)
    figure = new_figure(WIDTH, 1.0 + 0.27 * len(order))
    measures = [comparison.measures[name] for name in dict.fromkeys((comparison.primary or FINAL, FINAL, WORST))]
    axes = figure.subplots(1, len(measures), sharey=True)
    look = _looks(comparison)
    for axis, measure in zip(axes, measures, strict=True):
        rows = table[table["measure"] == measure.name].set_index("method")
        axis.axvline(0, color=INK, linewidth=1)
        for y, label in enumerate(order):
            row = rows.loc[label]
            colour = _VERDICT_COLOURS[row["verdict"]]
            solid = row["verdict"] in (BETTER, WORSE)
            ends = row["difference"], row["low"], row["high"]
            _interval(axis, y, *ends, Look(look[label].key, colour, "-", "o"), hollow=not solid)
        axis.set_title(measure.words)
        axis.set_xlabel(f"difference from {comparison.baseline.label}")
        axis.xaxis.set_major_formatter(FuncFormatter(_signed if measure.name != PER_MINUTE else _signed_small))
        axis.grid(axis="y", visible=False)
    _row_names(axes[0], order, look)
    return figure


def draw_curves(comparison: Comparison, clock: str) -> Figure:
    """Success over env steps or wall-clock time, with bands."""
    table = comparison.curves(clock)
    if clock == SECONDS:
        unit, label = _time_unit(table[SECONDS].max())
        table = table.assign(seconds=table[SECONDS] / unit)
    else:
        label = "env steps, all tasks"
    figure = _draw_by_method(comparison, table, clock, label, "success, mean over tasks")
    for axis in figure.axes:
        success_axis(axis, "y")
        axis.set_xlim(left=0)
        if clock == ENV_STEPS:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def draw_profiles(comparison: Comparison) -> Figure:
    """Performance profiles: share of runs and tasks with at least a success, over that success."""
    figure = _draw_by_method(
        comparison, comparison.profiles, "threshold", "final success of at least", "share of runs and tasks"
    )
    for axis in figure.axes:
        success_axis(axis, "y")
        success_axis(axis, "x")
    return figure


def draw_cost(comparison: Comparison) -> Figure | None:
    """Learning time per update, and of the whole run; None where no run has recorded its time."""
    table = comparison.summary.iloc[::-1].reset_index(drop=True)
    if table["ms_per_update"].isna().all():
        return None
    look = _looks(comparison)
    unit, label = _time_unit(table["total_seconds"].max())
    figure = new_figure(WIDTH, 0.9 + 0.27 * len(table))
    axes = figure.subplots(1, 2, sharey=True)
    parts = (("ms_per_update", 1.0, "learning, ms per update (simulation included)"), ("total_seconds", unit, label))
    for axis, (name, scale, title) in zip(axes, parts, strict=True):
        for y, row in table.iterrows():
            value, low, high = (row[f"{name}{end}"] / scale for end in ("", "_low", "_high"))
            _interval(axis, y, value, low, high, look[row["method"]])
        axis.set_xlabel(title)
        axis.set_xlim(left=0)
        axis.grid(axis="y", visible=False)
    axes[0].set_title("per update")
    axes[1].set_title("whole run, evaluations included")
    _row_names(axes[0], table["method"], look)
    return figure


# ---------------------------------------------------------------------- curves of methods


def _draw_by_method(comparison: Comparison, table: pd.DataFrame, axis: str, xlabel: str, ylabel: str) -> Figure:
    """A curve with its band per method: all in one panel if they are few, else each in a panel above the others."""
    look = _looks(comparison)
    curves = {str(label): curve for label, curve in table.groupby("method")}
    order = [label for label in comparison.summary["method"] if label in curves]
    if len(order) <= _TOGETHER:
        figure = new_figure(WIDTH, 4.4)
        alone = figure.subplots()
        for label in order:
            _curve(alone, curves[label], axis, look[label])
        alone.legend(handles=_legend(order, look), loc="center left", bbox_to_anchor=(1.0, 0.5))
        alone.set(xlabel=xlabel, ylabel=ylabel)
        return figure
    baseline = comparison.baseline.label
    order = [label for label in order if label != baseline]
    figure, axes = panels(len(order), _COLUMNS, WIDTH, 1.9, top=0.25)
    gap = pd.DataFrame({axis: [np.nan], "value": [np.nan]})
    everyone = pd.concat([part for label in order for part in (curves[label], gap)])  # one line, drawn once
    for panel, label in zip(axes, order, strict=True):
        panel.plot(everyone[axis], everyone["value"], color=GRID, linewidth=0.8, zorder=1)
        if baseline in curves:
            _curve(panel, curves[baseline], axis, look[baseline], width=1.2, band=False)
        _curve(panel, curves[label], axis, look[label])
        panel.set_title(label, color=look[label].colour)
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    handles = [
        Line2D([], [], color=INK, linewidth=1.2, label=f"{baseline} (baseline)"),
        Line2D([], [], color=GRID, linewidth=1.2, label="the other methods"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def _curve(axes: Axes, curve: pd.DataFrame, x: str, look: Look, width: float = 1.8, band: bool = True) -> None:
    (line,) = axes.plot(curve[x], curve["value"], color=look.colour, linestyle=look.dash, linewidth=width, zorder=3)
    line.set_gid(f"line-{look.key}")
    if band and not curve["low"].isna().all():
        area = axes.fill_between(curve[x], curve["low"], curve["high"], color=look.colour, alpha=0.16, linewidth=0)
        area.set_gid(f"band-{look.key}")


def _legend(labels: list[str], look: dict[str, Look]) -> list[Line2D]:
    return [
        Line2D([], [], color=look[label].colour, linestyle=look[label].dash, linewidth=1.8, label=label)
        for label in labels
    ]


# ---------------------------------------------------------------------- parts of a figure


def _looks(comparison: Comparison) -> dict[str, Look]:
    return looks([method.label for method in comparison.methods], comparison.baseline.label)


def _worst(comparison: Comparison) -> str:
    return "worst task" if comparison.worst == 1 else f"{comparison.worst} worst tasks"


def _interval(axes: Axes, y: float, value: float, low: float, high: float, look: Look, hollow: bool = False) -> None:
    """A point with its interval."""
    (line,) = axes.plot([low, high], [y, y], color=look.colour, linewidth=2.2, solid_capstyle="butt", zorder=2)
    (point,) = axes.plot([value], [y], look.marker, color=look.colour, markersize=6, zorder=3, clip_on=False)
    if hollow:
        point.set_markerfacecolor(PAPER)
    line.set_gid(f"interval-{look.key}")
    point.set_gid(f"point-{look.key}")


def _row_names(axes: Axes, names: Iterable[str], look: dict[str, Look]) -> None:
    labels = list(names)
    for panel in axes.figure.axes:
        panel.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(labels)), labels)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_gid(f"name-{look[label].key}")
        if look[label].colour == INK:
            tick.set_fontweight("bold")
    axes.set_ylim(-0.6, len(labels) - 0.4)


def success_axis(axes: Axes, which: str) -> None:
    """An axis of success, from 0 to 1."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xlim if which == "x" else axes.set_ylim)(-0.03, 1.03)
    axis.set_ticks(np.linspace(0, 1, 5), ["0", "0.25", "0.5", "0.75", "1"])


def _time_unit(seconds: float) -> tuple[float, str]:
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return unit, f"wall-clock time, {name}"
    return 1.0, "wall-clock time, seconds"


def _signed_small(value: float, position: int) -> str:
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _signed(value: float, position: int) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-9 else "0"
