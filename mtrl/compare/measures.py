"""What a run is judged by: one number each, its name and its digits. Any of them can be the primary outcome."""

from dataclasses import dataclass

import numpy as np
from scipy.integrate import trapezoid

from mtrl.errors import ConfigError, nearest

FINAL, WORST, AREA, PER_MINUTE = "final", "worst", "auc", "per_minute"


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    :param name: its column in the tables
    :param words: what it is called in a sentence
    :param definition: how it is computed
    :param digits: after the point, where it is printed
    """

    name: str
    words: str
    definition: str
    digits: int = 2

    def number(self, value: float) -> str:
        """The value as text."""
        return f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """``+0.12``, with a true minus sign."""
        return f"{value:+.{self.digits}f}".replace("-", "\N{MINUS SIGN}")


def measures(worst: int) -> dict[str, Measure]:
    """Every measure by its name.

    :param worst: how many tasks are the worst of a run
    """
    tasks = "a run's worst task" if worst == 1 else f"a run's {worst} worst tasks"
    found = (
        Measure(FINAL, "final success", "mean over tasks of the success in the final evaluation"),
        Measure(WORST, f"final success in {tasks}", "the same over the worst tasks of each run alone"),
        Measure(
            AREA,
            "area under the curve of success",
            "mean height of a run's curve of success over env steps, which begins at zero",
        ),
        Measure(PER_MINUTE, "final success per minute", "final success by the minutes spent on learning", digits=4),
    )
    return {measure.name: measure for measure in found}


MEASURES = tuple(measures(1))


def check_measure(name: str) -> str:
    """The name, if a measure has it.

    :raises ConfigError: if none has
    """
    if name not in MEASURES:
        raise ConfigError(f"primary must be one of {', '.join(MEASURES)}, found {name!r}{nearest(name, MEASURES)}")
    return name


def area_under_curve(env_steps: np.ndarray, success: np.ndarray) -> float:
    """Mean height of a curve of success from the first env step, where it counts as zero, to the last evaluation.

    :param env_steps: of the evaluations, increasing, ``[T]``
    :param success: mean over tasks, ``[T]``
    """
    steps, heights = np.concatenate([[0.0], env_steps]), np.concatenate([[0.0], success])
    return float(trapezoid(heights, steps) / steps[-1])
