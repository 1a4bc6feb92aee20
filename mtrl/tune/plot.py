"""The population as a plot: success and copies over the budget, the line that led to the best member, its weights."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mtrl.tune.population import Book

_BEST, _OTHER, _COPY = "#0072B2", "#9aa4b0", "#D55E00"


def plot_population(book: Book, best: int, path: Path) -> None:
    """Draw a search.

    :param best: the member whose line is drawn in bold, with its weights
    """
    figure = Figure(figsize=(9, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    success, weights, spread = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    _draw_members(success, book, best)
    _draw_line(weights, book, best)
    _draw_spread(spread, book)
    for axes in (success, weights, spread):
        axes.grid(alpha=0.3)
        axes.spines[["right", "top"]].set_visible(False)
    spread.set_xlabel("budget used")
    spread.xaxis.set_major_formatter(PercentFormatter(1.0))
    settings = book.settings
    figure.suptitle(f"{settings.algorithm.upper()}, population {settings.population}", fontweight="bold")
    figure.savefig(path, dpi=130)


def _metrics(book: Book) -> np.ndarray:
    """What each member came to in each generation that has ended, ``[G, N]``; NaN where it is not known."""
    metrics = [[np.nan if outcome.metric is None else outcome.metric for outcome in ended] for ended in book.ended]
    return np.array(metrics, dtype=float)


def _draw_members(axes: Axes, book: Book, best: int) -> None:
    values, share = _metrics(book), 1 / book.settings.intervals
    for number, generation in enumerate(book.generations[: len(values)]):
        for member, now in enumerate(generation.members):
            start = member if now.parent is None else now.parent
            before = values[number - 1, start] if number else np.nan
            colour = _OTHER if now.parent is None else _COPY
            axes.plot(
                [number * share, (number + 1) * share], [before, values[number, member]], color=colour, linewidth=1
            )
    points = (np.arange(len(values)) + 1) * share
    for member in range(values.shape[1]):
        axes.plot(points, values[:, member], ".", color=_OTHER, markersize=5)
    line = book.line(best)[: len(values)]
    axes.plot(
        points, values[np.arange(len(values)), line], "-o", color=_BEST, linewidth=2.5, label="line of the best member"
    )
    axes.plot([], [], color=_COPY, label="copy of a better member")
    axes.plot([], [], color=_OTHER, label="member")
    axes.set_ylabel(book.settings.metric.replace("_", " "))
    axes.legend(frameon=False, fontsize="small")


def _draw_line(axes: Axes, book: Book, best: int) -> None:
    schedule = book.schedule(best)
    times = [*schedule.times, 1.0]
    for task, name in enumerate(book.settings.tasks):
        values = [row[task] for row in schedule.weights]
        axes.step(times, [*values, values[-1]], where="post", label=name)
    axes.axhline(1.0, color=_OTHER, linewidth=0.8)
    axes.set_ylabel("weights of\nthe best line")
    if len(book.settings.tasks) <= 14:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")


def _draw_spread(axes: Axes, book: Book) -> None:
    """Every task's weight in every member, at the beginning of every interval."""
    for number, generation in enumerate(book.generations):
        table = np.array([member.genes.weights for member in generation.members])  # [N, K]
        places = (number + np.linspace(0.2, 0.8, table.shape[1])) / book.settings.intervals
        for task in range(table.shape[1]):
            axes.plot(np.full(len(table), places[task]), table[:, task], ".", color=f"C{task % 10}", markersize=4)
    axes.axhline(1.0, color=_OTHER, linewidth=0.8)
    axes.set_ylabel("weights of\nall members")
