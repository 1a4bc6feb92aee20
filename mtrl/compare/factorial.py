"""Two factors at once: what each does on the mean over the other, and whether one changes what the other does.

Every cell of the design is a method, and every seed a block that all cells share, so that an effect is one number per
seed, and its interval that of a mean of runs.
*Source*: Montgomery, *Design and Analysis of Experiments*, chapter 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mtrl.compare import stats
from mtrl.compare.methods import Method, without_defaults
from mtrl.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mtrl.compare.comparison import Comparison

_ALIASES = {"agent": "agent.name", "network": "network.name"}
_BALANCER, _OPTIONS = "balancer", ("balancer.options.", "balancer.actor_options.")
_MAIN, _INTERACTION = "main effect", "interaction"


@dataclass(frozen=True)
class Design:
    """A complete grid of methods over two factors.

    :param factors: what they are called
    :param levels: of each, the one that the others are compared with first
    :param cells: scores of every cell, ``[A, B, R]``, one of each seed
    :param seeds: the R seeds that all cells share
    :param methods: label of every cell, ``[A][B]``
    :param left_out: levels of the second factor without all levels of the first
    """

    factors: tuple[str, str]
    levels: tuple[tuple[str, ...], tuple[str, ...]]
    cells: np.ndarray
    seeds: tuple[int, ...]
    methods: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...] = ()


def split_factors(text: str) -> tuple[str, str]:
    """``agent.critic,balancer`` as two names.

    :raises ConfigError: for any other number of factors than two
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise ConfigError(f"factors must be two settings such as agent.critic,balancer, found {text!r}.")
    return names[0], names[1]


def make_design(comparison: "Comparison", factors: tuple[str, str]) -> Design:
    """The methods of a comparison as a grid over two settings.

    :raises ConfigError: for a setting that no run has, two methods in one cell, or too few combinations or seeds
    """
    levels = [_levels(comparison.methods, factor) for factor in factors]
    values = {method.label: tuple(of[method.label] for of in levels) for method in comparison.methods}
    first, second = (_ordered(values, comparison.baseline.label, i, factor) for i, factor in enumerate(factors))
    grid: dict[tuple[str, ...], Method] = {}
    for method in comparison.methods:
        if (cell := values[method.label]) in grid:
            raise ConfigError(
                f"factors {','.join(factors)} leave {grid[cell].label} and {method.label} in one cell "
                f"({', '.join(cell)}): give the runs of the design alone."
            )
        grid[cell] = method
    complete = [b for b in second if all((a, b) in grid for a in first)]
    if len(complete) < 2:
        missing = next((a, b) for b in second for a in first if (a, b) not in grid)
        raise ConfigError(f"factors need every combination, found no run with {_cell(factors, missing)}.")
    rows = [[grid[a, b] for b in complete] for a in first]
    seeds = sorted(set.intersection(*(set(method.seeds) for row in rows for method in row)))
    if len(seeds) < 2:
        raise ConfigError(f"factors need at least two seeds that all combinations share, found {len(seeds)}.")
    table = comparison.by_run.set_index(["method", "seed"])[comparison.primary_measure.name]
    cells = np.array([[[table[method.label, seed] for seed in seeds] for method in row] for row in rows], dtype=float)
    return Design(
        factors=factors,
        levels=(first, tuple(complete)),
        cells=cells,
        seeds=tuple(seeds),
        methods=tuple(tuple(method.label for method in row) for row in rows),
        left_out=tuple(b for b in second if b not in complete),
    )


def estimate_effects(design: Design, generator: np.random.Generator) -> pd.DataFrame:
    """Main effects and interactions with intervals: effect, of, difference, low, high, seeds, p, p_holm.

    A main effect is a level less the first one, on the mean over all levels of the other factor. An interaction is how
    much larger that difference is at a level of the other factor than at its first. Main effects are corrected
    together (Holm), and so are interactions.
    """
    rows = []
    for effect, of, contrast in _contrasts(design):
        found = stats.bootstrap(contrast[:, None], stats.mean, generator)
        p = stats.permutation_test(contrast, np.zeros_like(contrast), paired=True, generator=generator)
        ends = {"difference": found.value[0], "low": found.low[0], "high": found.high[0]}
        rows.append({"effect": effect, "of": of, **ends, "seeds": found.runs, "p": p})
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby("effect")["p"].transform(stats.holm)
    return table


def _contrasts(design: Design) -> list[tuple[str, str, np.ndarray]]:
    """Every effect as one number per seed, ``[R]``."""
    cells, found = design.cells, []
    for axis, (factor, levels) in enumerate(zip(design.factors, design.levels, strict=True)):
        means = cells.mean(axis=1 - axis)  # [levels, R]
        found += [
            (_MAIN, f"{factor}: {level} against {levels[0]}", means[i] - means[0])
            for i, level in enumerate(levels)
            if i
        ]
    (first, second), (ours, theirs) = design.levels, design.factors
    for i, a in enumerate(first[1:], start=1):
        for j, b in enumerate(second[1:], start=1):
            contrast = (cells[i, j] - cells[0, j]) - (cells[i, 0] - cells[0, 0])
            text = f"{ours}: {a} against {first[0]}, at {theirs}: {b} rather than {second[0]}"
            found.append((_INTERACTION, text, contrast))
    return found


def _levels(methods: Sequence[Method], factor: str) -> dict[str, str]:
    """The level that each method has of a factor, by label."""
    if factor == _BALANCER:
        return _balancers(methods)
    key, found = _ALIASES.get(factor, factor), {}
    for method in methods:
        settings = method.settings
        if key not in settings:
            known = [_BALANCER, *_ALIASES, *settings]
            raise ConfigError(f"factors must be settings of the runs, found {factor!r}{nearest(factor, known)}")
        found[method.label] = str(settings[key])
    return found


def _balancers(methods: Sequence[Method]) -> dict[str, str]:
    """Balancers by name, with their options where methods of one name differ in them."""
    options = {method.label: _options(method) for method in methods}
    several = {
        method.balancer
        for method in methods
        if len({options[other.label] for other in methods if other.balancer == method.balancer}) > 1
    }
    return {
        method.label: f"{method.balancer} ({options[method.label] or 'defaults'})"
        if method.balancer in several
        else method.balancer
        for method in methods
    }


def _options(method: Method) -> str:
    settings = without_defaults(method.settings)
    given = {key: value for key, value in settings.items() if key.startswith(_OPTIONS) and value is not None}
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in sorted(given.items()))


def _ordered(values: dict[str, tuple[str, ...]], baseline: str, place: int, factor: str) -> tuple[str, ...]:
    """The levels of a factor, the baseline's first."""
    reference = values[baseline][place]
    levels = [reference, *sorted({cell[place] for cell in values.values()} - {reference})]
    if len(levels) < 2:
        raise ConfigError(f"factors must be settings that differ between methods, found {factor}={reference} in all.")
    return tuple(levels)


def _cell(factors: Sequence[str], levels: Sequence[str]) -> str:
    return " and ".join(f"{factor}={level}" for factor, level in zip(factors, levels, strict=True))
