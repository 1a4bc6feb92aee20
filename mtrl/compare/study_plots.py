"""Figures of a planned study: two factors against each other, and published results beside one's own."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mtrl.compare import stats
from mtrl.compare.comparison import ENV_STEPS, Comparison
from mtrl.compare.measures import PER_MINUTE
from mtrl.compare.plots import WIDTH, success_axis
from mtrl.compare.style import MUTED, looks, new_figure

_DASHES = ("--", ":", "-.", (0, (6, 1.5, 1.5, 1.5)), (0, (1, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_design(comparison: Comparison) -> Figure | None:
    """Mean of every cell with its interval, a line per level of the second factor; parallel lines do not interact."""
    design = comparison.design
    if design is None:
        return None
    (first, second), measure = design.levels, comparison.primary_measure
    look = looks(second, second[0])
    figure = new_figure(WIDTH, max(4.0, 0.9 + 0.2 * len(second)))  # the legend needs a line for each
    axes = figure.subplots()
    shift = 0.24 / max(len(second) - 1, 1)
    for j, level in enumerate(second):
        generator = comparison.generator("cells", level)
        found = stats.bootstrap(design.cells[:, j].T, stats.mean, generator)  # [R, A]
        places = np.arange(len(first)) + shift * j - 0.12 * (len(second) > 1)
        below, above = (np.abs(end - found.value) for end in (found.low, found.high))
        style = look[level]
        axes.errorbar(
            places,
            found.value,
            (below, above),
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markersize=6,
            linewidth=1.8,
            label=level,
        )
    axes.set_xticks(range(len(first)), first)
    axes.set(xlabel=design.factors[0], ylabel=measure.words)
    axes.set_xlim(-0.4, len(first) - 0.6)
    if measure.name != PER_MINUTE:
        success_axis(axes, "y")
    axes.legend(title=design.factors[1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_references(comparison: Comparison) -> Figure | None:
    """Curves of the runs over env steps per task, and published ones in grey."""
    if not comparison.references:
        return None
    look = looks([method.label for method in comparison.methods], comparison.baseline.label)
    tasks, curves = len(comparison.runs[0].tasks), dict(list(comparison.curves(ENV_STEPS).groupby("method")))
    figure = new_figure(WIDTH, 4.8)
    axes = figure.subplots()
    for label in comparison.summary["method"]:
        if label in curves:
            style, curve = look[label], curves[label]
            axes.plot(curve[ENV_STEPS] / tasks, curve["value"], color=style.colour, linestyle=style.dash, label=label)
    for i, reference in enumerate(comparison.references):
        steps, success = zip(*reference.success, strict=True)
        text = f"{reference.name} (published)"
        dash, marker = _DASHES[i % len(_DASHES)], _MARKERS[i % len(_MARKERS)]
        axes.plot(steps, success, color=MUTED, linestyle=dash, marker=marker, markersize=5, linewidth=1.1, label=text)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel="env steps per task", ylabel="success, mean over tasks")
    success_axis(axes, "y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure
