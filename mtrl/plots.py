"""Plots of one run: success per task over time, task weights over time. Drawn to files, never to a screen."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from agents.tags import BALANCER_WEIGHT, EVAL_SUCCESS, EVAL_SUCCESS_RATE
from mtrl.tracking import tag_series, task_series

# Okabe and Ito's colours, told apart with any colour vision; black is the mean's.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999933")
_DASHES = ("-", "--", ":", "-.")
_MOST_LINES = 14  # more tasks than this are a heat map: nobody follows fifty lines

Metrics = Sequence[dict[str, Any]]


def plot_success(metrics: Metrics, path: Path) -> bool:
    """Success of every task over env_steps, the mean in bold, minutes on a second axis.

    :return: whether there was anything to draw
    """
    series = task_series(metrics, EVAL_SUCCESS)
    if not series:
        return False
    mean = tag_series(metrics, EVAL_SUCCESS_RATE)
    return _draw(series, mean, path, title="Success per task", label="success rate", limits=(-0.02, 1.02))


def plot_weights(metrics: Metrics, path: Path) -> bool:
    """Weights that the balancer gave to every task's critic loss, over env_steps; 1 is the plain average.

    :return: whether there was anything to draw: weights that are one throughout are not
    """
    series = task_series(metrics, BALANCER_WEIGHT)
    if all(np.allclose(points[:, 2], 1.0, atol=1e-6) for points in series.values()):
        return False
    return _draw(series, None, path, title="Task weights (critic)", label="weight", limits=None)


def _draw(
    series: dict[str, np.ndarray],
    mean: np.ndarray | None,
    path: Path,
    title: str,
    label: str,
    limits: tuple[float, float] | None,
) -> bool:
    many = len(series) > _MOST_LINES
    figure = Figure(figsize=(9, 4.6 + (0.17 * len(series) if many else 0)), layout="constrained")
    FigureCanvasAgg(figure)
    if many and mean is not None:
        top, bottom = figure.subplots(2, 1, height_ratios=(3, 0.17 * len(series) + 1), sharex=True)
        _draw_lines(top, {}, mean)
        _draw_heat_map(figure, bottom, series, label)
    elif many:
        top = bottom = figure.subplots()
        _draw_heat_map(figure, bottom, series, label)
    else:
        top = bottom = figure.subplots()
        _draw_lines(top, series, mean)
    if not many or mean is not None:
        _finish_lines(top, f"mean {label}" if many else label, limits)
    bottom.set_xlabel("env steps, all tasks")
    bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
    _add_minutes(top, next(iter(series.values())) if mean is None else mean)
    figure.suptitle(title, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return True


def _draw_lines(axes: Axes, series: dict[str, np.ndarray], mean: np.ndarray | None) -> None:
    styles = itertools.product(_DASHES, _COLOURS)
    for (task, points), (dash, colour) in zip(series.items(), styles, strict=False):
        axes.plot(points[:, 0], points[:, 2], dash, color=colour, linewidth=1.4, label=task, **_marker(points))
    if mean is not None:
        axes.plot(mean[:, 0], mean[:, 2], color="black", linewidth=3, label="mean", **_marker(mean))
    if series:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")


def _marker(points: np.ndarray) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if len(points) <= 3 else {}


def _finish_lines(axes: Axes, label: str, limits: tuple[float, float] | None) -> None:
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.spines[["right"]].set_visible(False)
    axes.set_xlim(left=0)
    if limits is not None:
        axes.set_ylim(*limits)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_heat_map(figure: Figure, axes: Axes, series: dict[str, np.ndarray], label: str) -> None:
    """One row per task; a cell reaches from the measurement before to its own."""
    steps = next(iter(series.values()))[:, 0]
    edges = np.concatenate([[0], steps])
    values = np.array([np.interp(steps, points[:, 0], points[:, 2]) for points in series.values()])
    image = axes.pcolormesh(edges, np.arange(len(series) + 1), values, cmap="cividis")
    if label == "success rate":
        image.set_clim(0, 1)
    axes.set_yticks(np.arange(len(series)) + 0.5, list(series), fontsize="x-small")
    axes.invert_yaxis()
    figure.colorbar(image, ax=axes, label=label, fraction=0.04)


def _add_minutes(axes: Axes, points: np.ndarray) -> None:
    """A second axis on top: when, in minutes of wall-clock time, that many env_steps had been made."""
    steps, minutes = np.concatenate([[0], points[:, 0]]), np.concatenate([[0], points[:, 1]]) / 60
    ticks = np.asarray(MaxNLocator(7).tick_values(0, minutes[-1]))
    ticks = ticks[(ticks >= 0) & (ticks <= minutes[-1])]
    above = axes.twiny()
    above.set_xlim(axes.get_xlim())
    above.set_xticks(np.interp(ticks, minutes, steps), [f"{tick:g}" for tick in ticks])
    above.set_xlabel("minutes")
    above.spines[["right"]].set_visible(False)
