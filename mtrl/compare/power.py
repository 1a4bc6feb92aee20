"""What the seeds at hand can tell apart: the smallest difference that would most likely be found.

*Source*: Cohen, *Statistical Power Analysis for the Behavioral Sciences*, 1988, chapter 2.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from mtrl.compare.stats import LEVEL

POWER = 0.8  # how often a difference of that size would be found
MOST_SEEDS = 1_000  # beyond it, a number of seeds is no plan
_MIDDLES = (np.arange(2_000) + 0.5) / 2_000  # of equal parts of probability: scipy's noncentral t is NaN at its edges


@dataclass(frozen=True)
class Spread:
    """How uncertain a difference of two means of runs is.

    :param paired: deviations are those of differences between runs that share a seed
    :param deviations: standard deviation of each group, or of the differences alone
    :param runs: how many runs each group has
    """

    paired: bool
    deviations: tuple[float, ...]
    runs: tuple[int, ...]

    @classmethod
    def of(cls, ours: np.ndarray, theirs: np.ndarray, paired: bool) -> "Spread":
        """The spread that was found, with two runs of each at least.

        :param ours: a number per run, ``[R]``
        :param theirs: the same, ``[R']``; with `paired`, run i shares its seed with run i of ours
        """
        groups = (ours - theirs,) if paired else (ours, theirs)
        return cls(paired, tuple(float(g.std(ddof=1)) for g in groups), tuple(len(g) for g in groups))

    def with_runs(self, runs: int) -> "Spread":
        """The same spread with another number of runs in every group."""
        return Spread(self.paired, self.deviations, (runs,) * len(self.runs))

    @property
    def standard_error(self) -> float:
        """Of the difference of the means."""
        return float(np.sqrt(sum(self._variances())))

    @property
    def freedom(self) -> float:
        """Degrees of freedom (Welch's, where the runs are not paired)."""
        variances = self._variances()
        if sum(variances) == 0:
            return float(sum(self.runs) - len(self.runs))
        below = sum(v**2 / (n - 1) for v, n in zip(variances, self.runs, strict=True))
        return float(sum(variances) ** 2 / below)

    def _variances(self) -> list[float]:
        return [deviation**2 / n for deviation, n in zip(self.deviations, self.runs, strict=True)]


def detectable_difference(spread: Spread, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
    """The true difference that a two-sided t test at `alpha` would find with probability `power`."""
    freedom = spread.freedom
    # Where the estimated deviation is this many times the true one, each with the same probability.
    scales = np.sqrt(stats.chi2.ppf(_MIDDLES, freedom) / freedom)
    limits = stats.t.ppf(1 - alpha / 2, freedom) * scales

    def lacks(shift: float) -> float:
        return float((stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift)).mean()) - power

    return float(optimize.brentq(lacks, 0.0, limits[-1] + 10)) * spread.standard_error


def seeds_for(difference: float, spread: Spread, alpha: float = 1 - LEVEL, power: float = POWER) -> int | None:
    """The least number of seeds of each method with which a difference of this size would be found.

    :return: None if `MOST_SEEDS` would not do
    """
    wanted = abs(difference)
    if not wanted or detectable_difference(spread.with_runs(MOST_SEEDS), alpha, power) > wanted:
        return None
    low, high = 1, MOST_SEEDS  # low does not suffice, high does
    while high - low > 1:
        middle = (low + high) // 2
        enough = middle > 1 and detectable_difference(spread.with_runs(middle), alpha, power) <= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high


def seeds_for_correction(comparisons: int, alpha: float = 1 - LEVEL) -> int:
    """Shared seeds with which a permutation test of signs, 2 / 2^seeds at least, can stand Holm's correction."""
    return int(np.ceil(np.log2(2 * comparisons / alpha)))
