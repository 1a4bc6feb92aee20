"""Figures with a place for every task or pair: heat map, improvement matrix, task weights, conflict over time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

from mtrl.compare.comparison import Comparison
from mtrl.compare.methods import Method
from mtrl.compare.plots import WIDTH
from mtrl.compare.runs import Series
from mtrl.compare.style import Dash, looks, new_figure, panels

_TASK_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8f8f00")
_TASK_DASHES: tuple[Dash, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)))
_MOST_LINES = 14  # more tasks than this are a heat map: nobody follows fifty lines
_WIDE = 30  # a larger ratio of weights is drawn on a logarithmic axis
_LIGHT, _DARK = "#fefefe", "#111111"  # on a coloured cell, whatever the page's colours are
_POINTS = 60
NETWORKS = ("critic", "actor")


def draw_heat_map(comparison: Comparison) -> Figure:
    """Final success of every method in every task, mean over runs; tasks from easy to hard."""
    methods = {method.label: method for method in comparison.methods}
    labels = list(comparison.summary["method"])
    values = np.array([comparison.final(methods[label]).mean(axis=0) for label in labels])
    order = np.argsort(-values.mean(axis=0), kind="stable")
    tasks = [comparison.tasks[i] for i in order]
    figure = new_figure(WIDTH, 1.5 + 0.27 * len(labels) + (0.07 * max(map(len, tasks)) if len(tasks) > 6 else 0))
    axes = figure.subplots()
    image = axes.imshow(values[:, order], cmap="cividis", vmin=0, vmax=1, aspect="auto")
    if len(tasks) <= 16:
        _numbers(axes, values[:, order], [[f"{v:.2f}" for v in row] for row in values[:, order]], 0.5)
    _cells(axes, labels, tasks, comparison.baseline.label)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("final success")
    bar.outline.set_visible(False)
    return figure


def draw_improvement(comparison: Comparison) -> Figure | None:
    """Probability that the method of the row beats the one of the column; framed where the interval excludes a half."""
    if len(comparison.methods) < 2:
        return None
    labels = list(comparison.summary["method"])
    table = comparison.improvement.set_index(["method", "other"])
    matrix = np.full((len(labels), len(labels)), np.nan)
    texts = [["" for _ in labels] for _ in labels]
    figure = new_figure(min(WIDTH, 3.6 + 0.52 * len(labels)), 1.7 + 0.36 * len(labels))
    axes = figure.subplots()
    for i, ours in enumerate(labels):
        for j, theirs in enumerate(labels):
            if i == j:
                continue
            row = table.loc[(ours, theirs)]
            matrix[i, j] = row["probability"]
            sure = row["low"] > 0.5 or row["high"] < 0.5
            texts[i][j] = f"{row['probability']:.2f}" + ("*" if sure else "")
    image = axes.imshow(matrix, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    _numbers(axes, np.abs(np.nan_to_num(matrix, nan=0.5) - 0.5), texts, 0.3, light_above=True)
    _cells(axes, labels, labels, comparison.baseline.label)
    axes.set(ylabel="this method ...", xlabel="... against this one")
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("probability of improvement")
    bar.outline.set_visible(False)
    return figure


def draw_weights(comparison: Comparison) -> Figure | None:
    """Task weights of the critic's losses over env steps, a panel per method; None if no method has any but one."""
    methods = {method.label: method for method in comparison.methods}
    found = {label: _mean_weights(comparison, methods[label]) for label in comparison.summary["method"]}
    curves = {label: series for label, series in found.items() if series is not None}
    if not curves:
        return None
    many = len(comparison.tasks) > _MOST_LINES
    figure, axes = panels(len(curves), 3, WIDTH, 2.6 if many else 2.1, top=0.0 if many else 0.3, sharey=many)
    for panel, (label, series) in zip(axes, curves.items(), strict=True):
        _draw_shares(panel, series) if many else _draw_lines(panel, series)
        panel.set_title(label)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.supxlabel("env steps, all tasks", fontsize=9)
    if many:
        figure.supylabel("task, in the order of the suite", fontsize=9)
        figure.colorbar(axes[0].collections[0], ax=axes, label="weight relative to the mean weight", fraction=0.03)
        return figure
    figure.supylabel("weight (1 is the plain average)", fontsize=9)
    handles = [
        Line2D([], [], color=_colour(k), linestyle=_dash(k), label=task) for k, task in enumerate(comparison.tasks)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 5))
    return figure


def _draw_lines(panel: Axes, series: Series) -> None:
    for k, values in enumerate(series.values.T):
        panel.plot(series.env_steps, values, color=_colour(k), linestyle=_dash(k), linewidth=1.3)
    if series.values.min() > 0 and series.values.max() / series.values.min() > _WIDE:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(FuncFormatter(_plain))  # the axis' own writes mathematics, which is off here
        panel.yaxis.set_minor_formatter(NullFormatter())


def _draw_shares(panel: Axes, series: Series) -> None:
    """A row per task; relative weights, since the methods' scales differ by orders of magnitude."""
    relative = series.values / np.maximum(np.abs(series.values).mean(axis=1, keepdims=True), 1e-12)
    edges, rows = np.concatenate([[0], series.env_steps]), np.arange(series.values.shape[1] + 1)
    panel.pcolormesh(edges, rows, relative.T, cmap="cividis", vmin=0, vmax=3, rasterized=True)


def draw_conflict(comparison: Comparison) -> Figure | None:
    """Share of task pairs whose gradients conflict, over env steps; None if no method records it."""
    look = looks([method.label for method in comparison.methods], comparison.baseline.label)
    measured = with_conflict(comparison)
    if not measured:
        return None
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots(1, len(NETWORKS), sharey=True)
    for panel, network in zip(axes, NETWORKS, strict=True):
        for method in measured:
            series = _mean_series([run.conflict[network] for run in method.runs if network in run.conflict])
            if series is None:
                continue
            style = look[method.label]
            (line,) = panel.plot(
                series.env_steps, series.values, color=style.colour, linestyle=style.dash, linewidth=1.6
            )
            line.set_gid(f"line-{style.key}")
        panel.set_title(network)
        panel.set_xlabel("env steps, all tasks")
        panel.set_xlim(left=0)
        panel.set_ylim(-0.03, 1.03)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0].set_ylabel("share of task pairs in conflict")
    handles = [
        Line2D([], [], color=look[m.label].colour, linestyle=look[m.label].dash, label=m.label) for m in measured
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def with_conflict(comparison: Comparison) -> list[Method]:
    """The methods that record how often the gradients of two tasks conflict."""
    return [method for method in comparison.methods if any(run.conflict for run in method.runs)]


def has_weights(comparison: Comparison, method: Method) -> bool:
    """Whether a method records weights that are not one throughout."""
    return _mean_weights(comparison, method) is not None


def _mean_weights(comparison: Comparison, method: Method) -> Series | None:
    columns = [method.runs[0].tasks.index(task) for task in comparison.tasks]
    weights = [run.weights for run in method.runs if run.weights is not None]
    mean = _mean_series([Series(w.env_steps, w.seconds, w.values[:, columns]) for w in weights])
    return None if mean is None or np.allclose(mean.values, 1.0, atol=1e-6) else mean


def _mean_series(series: list[Series]) -> Series | None:
    """Mean over runs of what was measured, at places where all of them have been."""
    if not series:
        return None
    start, end = max(s.env_steps[0] for s in series), min(s.env_steps[-1] for s in series)
    grid = np.linspace(start, end, _POINTS)
    tables = [s.values.reshape(len(s), -1) for s in series]
    resampled = [
        np.stack([np.interp(grid, s.env_steps, column) for column in table.T], axis=1)
        for s, table in zip(series, tables, strict=True)
    ]
    return Series(grid, grid, np.mean(resampled, axis=0).reshape(_POINTS, *series[0].values.shape[1:]))


def _cells(axes: Axes, rows: list[str], columns: list[str], baseline: str) -> None:
    slanted, upright = len(columns) > 6, len(columns) > 25
    axes.set_xticks(range(len(columns)), columns)
    if upright:
        axes.tick_params(axis="x", rotation=90, labelsize=7)
    elif slanted:
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        axes.tick_params(axis="x", pad=1)
        for tick in axes.get_xticklabels():
            tick.set_rotation_mode("anchor")
    axes.set_yticks(range(len(rows)), rows)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set_fontweight("bold" if tick.get_text() == baseline else "normal")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _numbers(axes: Axes, shades: np.ndarray, texts: list[list[str]], turn: float, light_above: bool = False) -> None:
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            light = (shades[i, j] > turn) == light_above
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=_LIGHT if light else _DARK)


def _plain(value: float, position: int) -> str:
    return f"{value:g}"


def _colour(task: int) -> str:
    return _TASK_COLOURS[task % len(_TASK_COLOURS)]


def _dash(task: int) -> Dash:
    return _TASK_DASHES[task // len(_TASK_COLOURS) % len(_TASK_DASHES)]
