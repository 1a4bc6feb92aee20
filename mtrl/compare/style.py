"""How the figures look: one colour, line and marker per method; light as files, in the page's own colours in HTML."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colours of a light sheet; in the page they become CSS variables, so that a dark page has light ink.
INK, MUTED, GRID, PAPER = "#1b1f24", "#5b6471", "#dde2e8", "#fffffe"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}

Dash: TypeAlias = Any  # a name such as "-", or an offset and lengths, as matplotlib takes it

# Okabe and Ito's colours, told apart with any colour vision, then again with other lines and markers.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8f8f00")
_DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">", "*")


@dataclass(frozen=True)
class Look:
    """How a method is drawn, everywhere."""

    key: str
    colour: str
    dash: Dash
    marker: str


def looks(labels: Sequence[str], baseline: str) -> dict[str, Look]:
    """A look for every method; the baseline's is plain ink."""
    found = {baseline: Look("m0", INK, "-", "o")}
    for i, label in enumerate(label for label in labels if label != baseline):
        dash = _DASHES[i // len(_COLOURS) % len(_DASHES)]
        found[label] = Look(f"m{i + 1}", _COLOURS[i % len(_COLOURS)], dash, _MARKERS[(i + 1) % len(_MARKERS)])
    return found


@contextmanager
def house_style() -> Iterator[None]:
    """Settings of matplotlib for the figures of a report."""
    with mpl.rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.7,
            "text.color": INK,
            "text.parse_math": False,  # a label is the name of a method, whatever signs it has
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "legend.frameon": False,
            "svg.hashsalt": "mtrl",
        }
    ):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure that is drawn to files only; in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    count: int, columns: int, width: float, height: float, top: float = 0.0, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """Small panels with a common axis of env steps or time, row by row.

    :param height: of a row
    :param top: more room above, for a legend
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(width, rows * height + 0.35 + top)
    grid = figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    for i in range(count - columns, count):  # the lowest panel of a column has the numbers, also above an empty place
        axes[i].tick_params(labelbottom=True)
    return figure, axes[:count]


def save_png(figure: Figure, path: Path) -> None:
    """The figure as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white")


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element for a page: no fixed size, its colours, ids that no other has."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    size = re.search(r'viewBox="[^"]*"', head)
    assert size is not None, "matplotlib writes the size of a figure"
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    width = f'style="max-width: {6.7 * figure.get_figwidth():.1f}rem"'  # letters of one size in all figures
    return f'<svg class="figure" {size[0]} {width} role="img" aria-label="{name}">{body}'
