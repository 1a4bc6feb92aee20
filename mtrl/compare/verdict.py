"""What the numbers say, in plain words, and what they do not say."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mtrl.compare import power, stats
from mtrl.compare.comparison import ALIKE, BETTER, TOO_FEW, WORSE, Comparison
from mtrl.compare.measures import FINAL, WORST
from mtrl.compare.methods import Method
from mtrl.compare.runs import Run

_ALPHA = 1 - stats.LEVEL


@dataclass(frozen=True)
class Verdict:
    """Sentences, the most important first.

    :param headline: who is better than the baseline in the primary measure, and who is not
    :param details: the numbers, one sentence per verdict
    :param worst: the same for the worst tasks; or for final success, where the worst tasks are primary
    :param caution: what to keep in mind
    :param seeds: which runs are missing or unfinished
    :param declared: that the primary outcome was declared, if it was
    :param change: what would change the verdict
    """

    headline: str
    details: tuple[str, ...]
    worst: str
    caution: tuple[str, ...]
    seeds: tuple[str, ...]
    declared: str = ""
    change: str = ""


def judge(comparison: Comparison) -> Verdict:
    """The verdict of a comparison."""
    seeds = tuple(seed_notes(comparison))
    if not comparison.others:
        return Verdict("One method only: there is nothing to compare it with.", (), "", (), seeds)
    primary = comparison.primary_measure
    second = comparison.measures[WORST if primary.name != WORST else FINAL]
    table = comparison.differences
    first, other = (table[table["measure"] == measure.name] for measure in (primary, second))
    return Verdict(
        headline=_headline(comparison, first, primary.words),
        details=tuple(_details(comparison, first)),
        worst=_headline(comparison, other, second.words),
        caution=tuple(_cautions(comparison, first)),
        seeds=seeds,
        declared=_declared(comparison),
        change=_change(comparison),
    )


def seed_notes(comparison: Comparison) -> list[str]:
    """A sentence for every method that lacks seeds which others have, and for every run that cannot be used."""
    notes = [_missing(method) for method in comparison.methods if method.missing or method.unfinished]
    notes += [
        f"{method.label} has no finished run and is not compared: {', '.join(map(progress, method.unfinished))}."
        for method in comparison.without_result
    ]
    return notes + [f"'{left.folder}' is left out: {left.reason}." for left in comparison.left_out]


def progress(run: Run) -> str:
    """``seed 3 is interrupted at 40 %``."""
    total = run.protocol.get("env_steps")
    how_far = f" at {100 * run.env_steps / total:.0f} %" if total and run.env_steps else ""
    return f"seed {run.seed} is {run.status}{how_far}"


def enumerate_words(words: Sequence[str]) -> str:
    """``a``; ``a and b``; ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _missing(method: Method) -> str:
    wanted = len(method.runs) + len(method.unfinished) + len(method.missing)
    parts = [progress(run) for run in method.unfinished]
    if method.missing:
        plural = "s" if len(method.missing) > 1 else ""
        parts.append(f"seed{plural} {enumerate_words([str(seed) for seed in method.missing])} missing")
    return f"{method.label} has {len(method.runs)} of {wanted} seeds: {'; '.join(parts)}."


def _declared(comparison: Comparison) -> str:
    if comparison.primary is None:
        return ""
    measure = comparison.primary_measure
    return (
        f"Primary outcome, declared before the runs: {measure.words}, which is {measure.definition}. Its "
        f"{len(comparison.others)} comparisons are corrected together (Holm); every other number on this page is "
        "secondary."
    )


def _change(comparison: Comparison) -> str:
    """How large a difference had to be to be found, and what is out of reach with these seeds."""
    measure, table = comparison.primary_measure, comparison.sensitivity
    known = table.dropna(subset=["detectable"])
    if known.empty:
        return "With one seed of a method no difference can be told from chance."
    seeds, count = int(known["seeds"].min()), len(table)
    text = (
        f"What would change this verdict: with {seeds} seeds, a true difference in {measure.words} of "
        f"{measure.number(known['detectable'].median())} (median over the methods; "
        f"{measure.number(known['detectable'].min())} to {measure.number(known['detectable'].max())}) would be found "
        f"with a probability of {power.POWER:g}, each comparison by itself"
    )
    needed = power.seeds_for_correction(count)
    if count > 1 and known["paired"].all() and seeds < needed:
        return f"{text}. After correction for {count} comparisons none can be: that takes {needed} seeds at least."
    if count > 1:
        text += f", and one of {measure.number(known['corrected'].median())} after correction for {count} comparisons"
    return f"{text}. Smaller ones need more seeds."


def _headline(comparison: Comparison, table: pd.DataFrame, measure: str) -> str:
    baseline = comparison.baseline.label
    labels = {verdict: _labels(comparison, table, verdict) for verdict in (BETTER, WORSE, ALIKE, TOO_FEW)}
    if len(labels[TOO_FEW]) == len(table):
        return (
            f"Too few seeds for a verdict on {measure}: {stats.FEWEST_RUNS} of a method and of {baseline} are needed "
            f"at least."
        )
    parts = [] if labels[BETTER] else [f"no method is better than {baseline}"]
    for verdict, words in (
        (BETTER, f"better than {baseline}"),
        (ALIKE, f"not distinguishable from {baseline}"),
        (WORSE, f"worse than {baseline}"),
    ):
        if labels[verdict]:
            parts.append(f"{enumerate_words(labels[verdict])} {_be(labels[verdict])} {words}")
    parts[0] += f" in {measure}"
    if labels[TOO_FEW]:
        parts.append(f"{enumerate_words(labels[TOO_FEW])} {_have(labels[TOO_FEW])} too few seeds for a verdict")
    stands, falls = _after_correction(comparison, table)
    if falls:
        which = f"only those of {enumerate_words(stands)}" if stands else "none"
        parts[-1] += (
            f" (of these differences, {which} stand{'' if stands else 's'} correction for {len(table)} comparisons)"
        )
    text = "; ".join(parts) + "."
    return text if labels[BETTER] else text[0].upper() + text[1:]  # a method's name keeps its letters


def _details(comparison: Comparison, table: pd.DataFrame) -> list[str]:
    measure = comparison.primary_measure
    summary = comparison.summary.set_index("method")[measure.name]
    theirs = summary[comparison.baseline.label]
    lines = []
    for label in summary.index.drop(comparison.baseline.label):
        row = table.set_index("method").loc[label]
        interval = "one seed, no interval"
        if row["low"] == row["low"]:
            interval = f"95 % interval {measure.signed(row['low'])} to {measure.signed(row['high'])}"
        how = f"{row['seeds']} shared seeds" if row["paired"] else "seeds not shared"
        lines.append(
            f"{label}: {row['verdict']}; {measure.number(summary[label])} against {measure.number(theirs)}, difference "
            f"{measure.signed(row['difference'])} ({interval}, {how}; p = {row['p']:.3f}, {row['p_holm']:.3f} after "
            "Holm)."
        )
    return lines


def _cautions(comparison: Comparison, table: pd.DataFrame) -> list[str]:
    found = []
    count, stands, falls = len(table), *_after_correction(comparison, table)
    if count > 1 and (stands or falls):
        text = (
            f"{count} methods were compared with {comparison.baseline.label}, each at 95 %: of twenty that are no "
            f"different, one would be expected to look so. After Holm's correction for {count} comparisons "
        )
        if not falls:
            text += "all of these differences stand."
        elif not stands:
            text += "none of these differences stands."
        else:
            text += f"those of {enumerate_words(stands)} stand, those of {enumerate_words(falls)} do not."
        found.append(text)
    if failed := [method for method in (*comparison.methods, *comparison.without_result) if method.failures]:
        counts = [f"{method.label} {method.failures}" for method in failed]
        found.append(
            f"Runs failed: {enumerate_words(counts)}. Numbers are of the runs that finished, which flatters a method "
            "that fails where learning goes badly."
        )
    if comparison.mixed:
        found.append(
            f"The runs were not measured in the same way: they differ in {enumerate_words(list(comparison.mixed))}. "
            "What differs between methods may come from there."
        )
    if few := [method.label for method in comparison.methods if 1 < len(method.runs) < stats.FEWEST_RUNS]:
        found.append(
            f"Intervals of fewer than {stats.FEWEST_RUNS} seeds ({enumerate_words(few)}) are for orientation: with so "
            "few, all differences having one sign is no rare accident."
        )
    return found


def _after_correction(comparison: Comparison, table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The methods that differ from the baseline also after correction for their number, and those that do not."""
    differ = table[table["verdict"].isin([BETTER, WORSE])]
    stands = differ["p_holm"] <= _ALPHA
    return _labels(comparison, differ[stands]), _labels(comparison, differ[~stands])


def _labels(comparison: Comparison, table: pd.DataFrame, verdict: str | None = None) -> list[str]:
    """Methods of a table with a verdict, best first."""
    chosen = set(table["method"] if verdict is None else table.loc[table["verdict"] == verdict, "method"])
    return [label for label in comparison.summary["method"] if label in chosen]


def _be(words: Sequence[str]) -> str:
    return "is" if len(words) == 1 else "are"


def _have(words: Sequence[str]) -> str:
    return "has" if len(words) == 1 else "have"
