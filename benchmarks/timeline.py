"""The picture of `benchmarks.pipeline`: an average vector step, one lane for the learner and one for each worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from benchmarks.spans import Part
from mtrl.compare.style import GRID, MUTED, house_style, new_figure, save_png

if TYPE_CHECKING:
    from benchmarks.pipeline import Breakdown

# Groups of parts in the order of the legend, each with its colour and the leaves that it holds. Okabe and Ito's
# colours; of the passes, the backward ones are the darker.
_COLOURS = {
    "act": "#56b4e9",
    "sample": "#8f8f00",
    "target": "#999999",
    "critic forward": "#0072b2",
    "critic backward": "#004a75",
    "actor forward": "#e69f00",
    "actor backward": "#a87400",
    "balancer": "#cc79a7",
    "clip, optimisers, temperature, Polyak": "#009e73",
    "wait for workers": GRID,
    "simulate": "#d55e00",
    "collect, store, callbacks": "#f0e442",
    "the rest": MUTED,
}
_STEPPING = {"clip", "optimiser", "temperature", "Polyak"}
_STORING = {"send actions", "collect", "store", "callbacks"}
_LANE = 0.72  # height


class Bar(NamedTuple):
    """A stretch of a lane."""

    group: str
    begin: float  # seconds
    end: float


def group_of(part: Part) -> str:
    """The group whose colour a part has."""
    leaf = part.path[-1]
    if leaf in _STEPPING:
        return "clip, optimisers, temperature, Polyak"
    if leaf in _STORING:
        return "collect, store, callbacks"
    if leaf == "balancer":
        return "balancer"
    owner = next((place for place in ("critic", "actor") if place in part.path), None)
    if owner is not None and leaf != owner:
        return f"{owner} {'forward' if leaf == 'forward' else 'backward'}"
    return leaf if leaf in _COLOURS else "the rest"


def bars(parts: Sequence[Part]) -> Iterator[Bar]:
    """Bars of the learner's lane, the outer ones first: what is drawn later lies on top."""
    for part in sorted(parts, key=_depth):
        yield Bar(group_of(part), part.begin, part.end)


def _depth(part: Part) -> int:
    return len(part.path)


def draw(breakdowns: Sequence[Breakdown], path: Path) -> None:
    """Write the picture.

    :param path: a PNG
    """
    lanes = [1 + len(breakdown.simulation) for breakdown in breakdowns]
    with house_style():
        figure = new_figure(9.0, 1.3 + sum(0.75 + 0.38 * count for count in lanes))
        axes = figure.subplots(len(breakdowns), 1, height_ratios=[1 + count for count in lanes], squeeze=False)[:, 0]
        seen: set[str] = set()
        for ax, breakdown in zip(axes, breakdowns, strict=True):
            seen |= _draw_step(ax, breakdown)
        patches = [Patch(color=colour, label=name) for name, colour in _COLOURS.items() if name in seen]
        figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=8)
        save_png(figure, path)


def _draw_step(ax: Axes, breakdown: Breakdown) -> set[str]:
    drawn = list(bars(breakdown.parts))
    for bar in drawn:
        ax.barh(0, (bar.end - bar.begin) * 1e3, left=bar.begin * 1e3, height=_LANE, color=_COLOURS[bar.group])
    for lane, (begin, end) in enumerate(breakdown.simulation, start=1):
        ax.barh(lane, (end - begin) * 1e3, left=begin * 1e3, height=_LANE, color=_COLOURS["simulate"])
    workers = [f"worker {w + 1}" for w in range(len(breakdown.simulation))]
    ax.set_yticks(range(1 + len(workers)), ["learner", *workers])
    ax.invert_yaxis()
    ax.set_xlim(0, breakdown.seconds * 1e3)
    ax.set_xlabel("ms")
    ax.set_title(f"{breakdown.name}: a vector step takes {breakdown.seconds * 1e3:.1f} ms")
    ax.grid(axis="y", visible=False)
    groups = {bar.group for bar in drawn}
    return groups | {"simulate"} if breakdown.simulation else groups
