"""Statistics of a comparison: seeded bootstrap over runs, interquartile means, profiles, pairwise improvement.

A run is the unit: one agent learns all K tasks, so its K scores are drawn together, never apart (drawing each task on
its own, as for agents of one task each, makes intervals too narrow where the tasks of a run rise and fall together).
The bootstrap is stratified by method: runs are drawn within each.
*Source*: Agarwal et al., *Deep Reinforcement Learning at the Edge of the Statistical Precipice*, NeurIPS 2021;
Hesterberg, *What Teachers Should Know About the Bootstrap*, The American Statistician 69 (4), 2015, section 5.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
REPETITIONS = 10_000
ROUNDING = 1e-9  # of a mean of scores, which must not miss its own threshold by it
FEWEST_RUNS = 5  # with fewer, even an interval that excludes zero is no evidence: two of 2^4 signs alone are 12 %

# Reduces the runs, which are the axis before the last: [..., R, T] -> [..., T].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A statistic of R runs with its interval; NaN where one run allows none.

    :param value: on the runs themselves, ``[T]``
    :param low: lower end, ``[T]``
    :param high: upper end, ``[T]``
    :param runs: R
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


def mean(rows: np.ndarray) -> np.ndarray:
    """Mean over runs: ``[..., R, T] -> [..., T]``."""
    return rows.mean(axis=-2)


def interquartile_mean(rows: np.ndarray) -> np.ndarray:
    """Mean without the best and the worst quarter: ``[..., R, T] -> [..., T]``; below four runs, the mean."""
    return stats.trim_mean(rows, 0.25, axis=-2)


def worst_tasks(scores: np.ndarray, count: int) -> np.ndarray:
    """Mean of each run over its own `count` worst tasks: ``[R, K] -> [R]``."""
    return np.sort(scores, axis=-1)[..., :count].mean(axis=-1)


def profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of each run's tasks with a score of at least each threshold: ``[R, K], [T] -> [R, T]``."""
    return (scores[:, :, None] >= thresholds - ROUNDING).mean(axis=1)


def bootstrap(
    rows: np.ndarray,
    statistic: Statistic,
    generator: np.random.Generator,
    repetitions: int = REPETITIONS,
    level: float = LEVEL,
    widen: bool = True,
) -> Estimate:
    """A statistic over runs with its percentile interval.

    :param rows: a number or a curve per run, ``[R, T]``
    :param statistic: mean or interquartile mean over the runs
    :param generator: of the draws
    :param level: of the interval
    :param widen: take the wider quantiles that make the interval of a mean right for few runs (expanded percentile)
    """
    runs = len(rows)
    value = statistic(rows)
    if runs < 2:
        nothing = np.full_like(value, np.nan)
        return Estimate(value, nothing, nothing, runs)
    # In parts, so that a long curve of many runs does not fill the memory.
    size = max(1, 4_000_000 // rows.size)
    draws = generator.integers(runs, size=(repetitions, runs))
    samples = np.concatenate([statistic(rows[draws[i : i + size]]) for i in range(0, repetitions, size)])
    return _percentiles(value, samples, runs, level, widen)


def difference(
    ours: np.ndarray,
    theirs: np.ndarray,
    paired: bool,
    generator: np.random.Generator,
    repetitions: int = REPETITIONS,
    level: float = LEVEL,
) -> Estimate:
    """Difference of two means with its interval.

    :param ours: a number per run, ``[R]``
    :param theirs: a number per run, ``[R']``; with `paired`, run i shares its seed with run i of ours
    """
    if paired:
        return bootstrap((ours - theirs)[:, None], mean, generator, repetitions, level)
    value, runs = np.array([ours.mean() - theirs.mean()]), min(len(ours), len(theirs))
    if runs < 2:
        nothing = np.full_like(value, np.nan)
        return Estimate(value, nothing, nothing, runs)
    means = [
        scores[generator.integers(len(scores), size=(repetitions, len(scores)))].mean(1) for scores in (ours, theirs)
    ]
    return _percentiles(value, (means[0] - means[1])[:, None], runs, level, widen=True)


def permutation_test(ours: np.ndarray, theirs: np.ndarray, paired: bool, generator: np.random.Generator) -> float:
    """Probability of a difference of means at least as large if the two were exchangeable; exact for few runs.

    :param paired: exchange within pairs that share a seed
    """
    if min(len(ours), len(theirs)) < 2:
        return 1.0
    result = stats.permutation_test(
        (ours, theirs),
        _difference_of_means,
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=10_000,
        rng=generator,
    )
    return float(result.pvalue)


def holm(probabilities: Sequence[float]) -> np.ndarray:
    """Probabilities corrected for their number (Holm 1979): each may be read as if it were the only one."""
    ordered = np.argsort(probabilities)
    count = len(ordered)
    corrected = np.empty(count)
    scaled = np.asarray(probabilities, dtype=float)[ordered] * (count - np.arange(count))
    corrected[ordered] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def probability_of_improvement(
    ours: np.ndarray, theirs: np.ndarray, generator: np.random.Generator, repetitions: int = REPETITIONS
) -> Estimate:
    """Probability that a run of ours beats a run of theirs on a task drawn at random, ties counting one half.

    The Mann-Whitney statistic of every task, averaged over tasks; runs of both are drawn independently.

    :param ours: ``[R, K]``
    :param theirs: ``[R', K]``
    """
    above, equal = ours[:, None] > theirs[None], ours[:, None] == theirs[None]
    wins = (above + 0.5 * equal).mean(axis=2)  # [R, R']
    value, runs = np.array([wins.mean()]), min(wins.shape)
    if runs < 2:
        return Estimate(value, np.array([np.nan]), np.array([np.nan]), runs)
    shares = [generator.multinomial(count, np.full(count, 1 / count), repetitions) / count for count in wins.shape]
    samples = np.einsum("bi,ij,bj->b", shares[0], wins, shares[1], optimize=True)
    return _percentiles(value, samples[:, None], runs, LEVEL, widen=True)


def tail(runs: int, level: float, widen: bool) -> float:
    """Probability that a percentile interval leaves out on either side.

    Widened, it is that of Student's t on R - 1 degrees of freedom and of the deviation with R - 1 in the denominator,
    for which the plain bootstrap of R runs takes the normal law and R.
    """
    outside = (1 - level) / 2
    if not widen:
        return outside
    return float(stats.norm.cdf(stats.t.ppf(outside, runs - 1) * np.sqrt(runs / (runs - 1))))


def _percentiles(value: np.ndarray, samples: np.ndarray, runs: int, level: float, widen: bool) -> Estimate:
    outside = tail(runs, level, widen)
    low, high = np.quantile(samples, [outside, 1 - outside], axis=0)
    return Estimate(value, low, high, runs)


def _difference_of_means(ours: np.ndarray, theirs: np.ndarray, axis: int) -> np.ndarray:
    return ours.mean(axis=axis) - theirs.mean(axis=axis)
