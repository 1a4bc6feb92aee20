"""Statistics of a comparison against closed forms, scipy, rliable where it is installed, and known truths."""

from typing import Any

import numpy as np
import pytest
from scipy import stats as reference

from mtrl.compare import stats
from mtrl.compare.comparison import THRESHOLDS


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_interquartile_mean_leaves_out_the_best_and_the_worst_quarter() -> None:
    runs = np.array([0.0, 0.5, 0.6, 0.7, 0.8, 1.0, 0.9, 0.1])[:, None]
    assert stats.interquartile_mean(runs) == pytest.approx(np.mean([0.5, 0.6, 0.7, 0.8]))
    assert stats.interquartile_mean(runs[:3]) == pytest.approx(np.mean([0.0, 0.5, 0.6]))


def test_worst_tasks_are_those_of_each_run() -> None:
    scores = np.array([[1.0, 0.0, 0.5], [0.2, 0.9, 0.4]])
    assert stats.worst_tasks(scores, 1) == pytest.approx([0.0, 0.2])
    assert stats.worst_tasks(scores, 2) == pytest.approx([0.25, 0.3])


def test_a_profile_counts_scores_of_at_least_the_threshold() -> None:
    scores = np.array([[0.0, 0.5], [1.0, 1.0]])
    assert stats.profile(scores, np.array([0.0, 0.5, 1.0])).tolist() == [[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]


def test_a_share_of_episodes_is_at_least_its_own_threshold() -> None:
    shares = np.arange(51) / 50
    reached = stats.profile(shares[:, None], THRESHOLDS)  # [51, T]
    assert reached.sum(axis=1).tolist() == list(range(1, 52))  # k of 50 episodes reach the thresholds 0 to k / 50
    mean = np.array([[0.1 + 0.2 + 0.3, 1 - 0.9]])  # 0.6 and 0.1 but for rounding, above and below
    assert stats.profile(mean, np.array([0.1, 0.6])).tolist() == [[1.0, 0.5]]


def test_without_widening_many_runs_give_the_normal_interval_of_a_mean() -> None:
    rows = generator().normal(0.5, 0.2, (400, 1))
    found = stats.bootstrap(rows, stats.mean, generator(1), widen=False)
    half = 1.96 * rows.std() / np.sqrt(len(rows))
    assert found.value == pytest.approx(rows.mean())
    assert (found.low[0], found.high[0]) == pytest.approx((rows.mean() - half, rows.mean() + half), abs=2e-3)


@pytest.mark.parametrize("runs", [2, 5, 10])
def test_the_widened_interval_is_students(runs: int) -> None:
    """The normal law with the bootstrap's deviation, at the widened quantile, has the ends of Student's t."""
    deviation = 1.0  # with R - 1 in the denominator
    narrow = deviation * np.sqrt((runs - 1) / runs) / np.sqrt(runs)
    ours = -reference.norm.ppf(stats.tail(runs, 0.95, widen=True)) * narrow
    assert ours == pytest.approx(reference.t.ppf(0.975, runs - 1) * deviation / np.sqrt(runs))


def test_many_runs_need_no_widening() -> None:
    assert stats.tail(100_000, 0.95, widen=True) == pytest.approx(0.025, abs=1e-4)


def coverage(runs: int, widen: bool, repeats: int = 400) -> float:
    """Part of the intervals of a mean success that hold the true one; four tasks that rise and fall together."""
    draw, inside = generator(7), 0
    for _ in range(repeats):
        level = draw.beta(4, 4, (runs, 1))  # what a seed does to all tasks; mean 0.5
        scores = draw.binomial(50, np.broadcast_to(level, (runs, 4))) / 50
        found = stats.bootstrap(scores.mean(axis=1, keepdims=True), stats.mean, draw, 1_000, widen=widen)
        inside += bool(found.low[0] <= 0.5 <= found.high[0])
    return inside / repeats


@pytest.mark.parametrize("runs", [5, 10])
def test_intervals_hold_the_truth_as_often_as_they_say(runs: int) -> None:
    assert 0.92 <= coverage(runs, widen=True) <= 0.98


def test_the_plain_percentile_interval_of_five_runs_is_too_narrow() -> None:
    assert coverage(5, widen=False) < 0.90


def test_drawing_tasks_apart_would_be_too_narrow() -> None:
    """Why a run is the unit: tasks that share a run's luck are no independent evidence."""
    draw = generator(3)
    scores = np.broadcast_to(draw.normal(0.5, 0.1, (10, 1)), (10, 20))
    together = stats.bootstrap(scores.mean(axis=1, keepdims=True), stats.mean, draw, widen=False)
    apart = [draw.choice(scores[:, k], (10_000, 10)).mean(axis=1) for k in range(20)]
    low, high = np.quantile(np.mean(apart, axis=0), [0.025, 0.975])
    assert (high - low) < 0.4 * (together.high[0] - together.low[0])


@pytest.mark.parametrize("runs", [5, 10])
def test_equals_are_told_apart_hardly_more_often_than_one_in_twenty(runs: int) -> None:
    draw, false = generator(9), 0
    for _ in range(500):
        ours, theirs = draw.beta(2, 2, (2, runs)).round(1)
        found = stats.difference(ours, theirs, True, draw, 1_000)
        false += bool(found.low[0] > 0 or found.high[0] < 0)
    assert 0.02 <= false / 500 <= 0.10


def test_one_run_has_no_interval() -> None:
    found = stats.bootstrap(np.array([[0.5]]), stats.mean, generator())
    assert found.value == pytest.approx(0.5)
    assert np.isnan([found.low[0], found.high[0]]).all()


def test_curves_are_estimated_point_by_point() -> None:
    rows = np.stack([np.linspace(0, 1, 30) * s for s in (0.8, 0.9, 1.0, 0.7)])
    found = stats.bootstrap(rows, stats.mean, generator(), 2_000)
    assert found.value == pytest.approx(rows.mean(axis=0))
    assert np.all(found.low <= found.value) and np.all(found.value <= found.high)
    assert found.low.shape == (30,)


def test_pairs_that_share_a_seed_share_its_luck() -> None:
    luck = generator().normal(0, 0.2, 10)
    ours, theirs = 0.6 + luck, 0.5 + luck
    paired = stats.difference(ours, theirs, True, generator())
    unpaired = stats.difference(ours, theirs, False, generator())
    assert (paired.value[0], unpaired.value[0]) == pytest.approx((0.1, 0.1))
    assert paired.low[0] == pytest.approx(0.1)
    assert unpaired.low[0] < 0 < unpaired.high[0]


def test_an_unpaired_difference_has_the_deviation_of_both() -> None:
    draw = generator(5)
    ours, theirs = draw.normal(0, 1, 300), draw.normal(0, 2, 200)
    found = stats.difference(ours, theirs, False, draw)
    half = 1.96 * np.sqrt(ours.var() / 300 + theirs.var() / 200)
    assert found.high[0] - found.low[0] == pytest.approx(2 * half, rel=0.05)


def test_ten_pairs_of_one_sign_have_the_exact_probability_of_two_signs_of_1024() -> None:
    ours = np.linspace(0.5, 0.9, 10)
    assert stats.permutation_test(ours, ours - 0.1, True, generator()) == pytest.approx(2 / 2**10)
    assert stats.permutation_test(ours, ours, True, generator()) == 1.0
    assert stats.permutation_test(ours[:1], ours[:1], False, generator()) == 1.0


def test_holms_correction() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_the_probability_of_improvement_is_the_mann_whitney_statistic_of_the_tasks() -> None:
    draw = generator(2)
    ours, theirs = draw.integers(0, 5, (10, 4)) / 4, draw.integers(0, 4, (8, 4)) / 4
    found = stats.probability_of_improvement(ours, theirs, draw)
    expected = [reference.mannwhitneyu(ours[:, k], theirs[:, k]).statistic / 80 for k in range(4)]
    assert found.value == pytest.approx(np.mean(expected))
    assert found.low[0] < found.value[0] < found.high[0]
    other = stats.probability_of_improvement(theirs, ours, draw)
    assert other.value == pytest.approx(1 - found.value)


def test_a_seed_fixes_every_number() -> None:
    rows = generator().random((6, 3))
    first, second = (stats.bootstrap(rows, stats.interquartile_mean, generator(4)) for _ in range(2))
    assert first.low.tolist() == second.low.tolist()


def test_point_estimates_and_intervals_agree_with_rliable() -> None:
    library, metrics = _rliable()
    draw = generator(11)
    ours, theirs = draw.beta(5, 3, (10, 4)), draw.beta(3, 3, (10, 4))
    assert stats.mean(ours.mean(axis=1, keepdims=True)) == pytest.approx(metrics.aggregate_mean(ours))
    assert stats.interquartile_mean(ours.reshape(-1, 1)) == pytest.approx(metrics.aggregate_iqm(ours))
    found = stats.probability_of_improvement(ours, theirs, draw)
    assert found.value == pytest.approx(metrics.probability_of_improvement(ours, theirs))
    thresholds = np.linspace(0.05, 0.95, 19)
    profiles, _ = library.create_performance_profile({"ours": ours}, thresholds, reps=2)
    assert stats.profile(ours, thresholds).mean(axis=0) == pytest.approx(profiles["ours"])
    # With one task, drawing runs within it and drawing whole runs are the same law. rliable draws globally.
    np.random.seed(0)  # noqa: NPY002
    _, theirs_interval = library.get_interval_estimates(
        {"ours": ours[:, :1]}, lambda x: np.array([metrics.aggregate_mean(x)]), reps=10_000
    )
    own = stats.bootstrap(ours[:, :1], stats.mean, draw, widen=False)
    assert [own.low[0], own.high[0]] == pytest.approx(theirs_interval["ours"][:, 0], abs=6e-3)


def _rliable() -> tuple[Any, Any]:
    try:
        from rliable import library, metrics
    except ImportError:
        pytest.skip("rliable is not installed: pip install rliable 'pandas<3'")
    except TypeError as error:  # arch 7, which rliable needs, breaks while it is imported beside pandas 3
        pytest.skip(f"rliable cannot be imported beside these packages, it needs pandas<3: {error}")
    return library, metrics
