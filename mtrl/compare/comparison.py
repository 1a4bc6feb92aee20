"""Methods side by side: the runs behind them, and every number of the report as a tidy frame."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mtrl.compare import power, stats
from mtrl.compare.factorial import Design, estimate_effects, make_design
from mtrl.compare.measures import FINAL, PER_MINUTE, Measure, area_under_curve, check_measure, measures
from mtrl.compare.methods import Method, choose_baseline, group_methods
from mtrl.compare.protocol import mixed_fields, refuse_mixed
from mtrl.compare.references import Reference, read_references
from mtrl.compare.runs import LeftOut, Run, read_runs
from mtrl.errors import ConfigError, RunFolderError

BETTER, WORSE, ALIKE, TOO_FEW = "better", "worse", "not distinguishable", "too few seeds"
ENV_STEPS, SECONDS = "env_steps", "seconds"
_CURVE_REPETITIONS, _CURVE_POINTS = 2_000, 60
THRESHOLDS = np.arange(51) / 50  # each as exact as k of 50 episodes


@dataclass(frozen=True)
class Comparison:
    """Finished runs of several methods, under one protocol unless it says otherwise.

    :param methods: those with a finished run, in the order of their labels
    :param baseline: the one that the others are compared with
    :param tasks: the K tasks that all runs have
    :param without_result: methods none of whose runs is finished
    :param left_out: folders that could not be read
    :param mixed: fields of the protocol in which the runs differ, with their values
    :param worst: how many of its tasks are the worst tasks of a run
    :param seed: of every bootstrap
    :param primary: the measure that was declared as the primary outcome; None if none was, and `final` leads
    :param factors: two settings whose effects are estimated, each on the mean over the other
    :param references: published results of the same suite, to be shown beside; they enter no statistic
    """

    methods: tuple[Method, ...]
    baseline: Method
    tasks: tuple[str, ...]
    without_result: tuple[Method, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    mixed: Mapping[str, Sequence[str]] | None = None
    worst: int = 1
    seed: int = 0
    primary: str | None = None
    factors: tuple[str, str] | None = None
    references: tuple[Reference, ...] = ()

    @property
    def suite(self) -> str:
        """What the suite of the runs is called."""
        return str(self.runs[0].protocol.get("suite", "unknown suite"))

    @property
    def measures(self) -> dict[str, Measure]:
        """What a run is judged by, by name."""
        return measures(self.worst)

    @property
    def primary_measure(self) -> Measure:
        """What the verdict speaks of first."""
        return self.measures[self.primary or FINAL]

    @property
    def others(self) -> list[Method]:
        """All methods but the baseline."""
        return [method for method in self.methods if method is not self.baseline]

    @property
    def runs(self) -> list[Run]:
        """Every run that counts."""
        return [run for method in self.methods for run in method.runs]

    def final(self, method: Method) -> np.ndarray:
        """Final success, ``[R, K]``."""
        return np.array([_of_tasks(run.final, run, self.tasks) for run in method.runs])

    # ------------------------------------------------------------------ what was measured

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Final success of every run in every task: method, seed, task, final, final_at_end."""
        rows = []
        for method, run in self._pairs():
            at_end = run.final_at_end if run.final_at_end is not None else np.full(len(run.tasks), np.nan)
            finals, ends = (_of_tasks(values, run, self.tasks) for values in (run.final, at_end))
            rows += [
                {"method": method.label, "seed": run.seed, "task": task, "final": final, "final_at_end": end}
                for task, final, end in zip(self.tasks, finals, ends, strict=True)
            ]
        return pd.DataFrame(rows)

    @cached_property
    def by_run(self) -> pd.DataFrame:
        """One row per run: its measures, best success (mean over tasks), updates, seconds, folder."""
        rows = []
        for method, run in self._pairs():
            final = _of_tasks(run.final, run, self.tasks)[None]
            evaluated = _of_tasks(run.success.values, run, self.tasks).mean(axis=1)
            learning = run.seconds.get("learning", np.nan)
            rows.append(
                {
                    "method": method.label,
                    "seed": run.seed,
                    "final": final.mean(),
                    "best": max(np.nanmax(evaluated), final.mean()),
                    "worst": stats.worst_tasks(final, self.worst)[0],
                    "worst_task": stats.worst_tasks(final, 1)[0],
                    "auc": area_under_curve(run.success.env_steps, evaluated),
                    "per_minute": 60 * final.mean() / learning if learning else np.nan,
                    "updates": run.updates,
                    "learning_seconds": learning,
                    "total_seconds": sum(run.seconds.values()) if run.seconds else np.nan,
                    "ms_per_update": 1e3 * learning / run.updates if run.updates else np.nan,
                    "folder": str(run.folder),
                }
            )
        return pd.DataFrame(rows)

    def evaluations(self) -> pd.DataFrame:
        """Success at every evaluation: method, seed, env_steps, seconds, task, success."""
        frames = []
        for method, run in self._pairs():
            values = _of_tasks(run.success.values, run, self.tasks)
            frame = pd.DataFrame(values, columns=pd.Index(self.tasks, name="task"))
            frame = frame.assign(env_steps=run.success.env_steps, seconds=run.success.seconds)
            frame = frame.melt(id_vars=[ENV_STEPS, SECONDS], var_name="task", value_name="success")
            frames.append(frame.assign(method=method.label, seed=run.seed))
        table = pd.concat(frames, ignore_index=True)
        return table[["method", "seed", "env_steps", "seconds", "task", "success"]]

    # ------------------------------------------------------------------ what follows from it

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per method, best in the primary measure first: ``final``, ``final_low``, ``final_high``, ..."""
        rows = []
        for method in self.methods:
            runs = self.by_run[self.by_run["method"] == method.label]
            row: dict[str, object] = {"method": method.label, "seeds": len(runs), "failures": method.failures}
            row |= {f"{side}_parameters": method.parameters.get(side, np.nan) for side in ("actor", "critic")}
            for name, column, statistic in (
                ("final", "final", stats.mean),
                ("final_iqm", "final", stats.interquartile_mean),
                ("worst", "worst", stats.mean),
                ("worst_task", "worst_task", stats.mean),
                ("best", "best", stats.mean),
                ("auc", "auc", stats.mean),
                ("per_minute", "per_minute", stats.mean),
                ("ms_per_update", "ms_per_update", stats.mean),
                ("total_seconds", "total_seconds", stats.mean),
            ):
                values = runs[column].to_numpy(dtype=float)[:, None]
                row |= _cells(name, stats.bootstrap(values, statistic, self.generator(name, method.label)))
            rows.append(row)
        return pd.DataFrame(rows).sort_values(
            [self.primary_measure.name, "method"], ascending=[False, True], ignore_index=True
        )

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Every other method less the baseline, in every measure.

        Paired by seed where the seeds are shared; with the probability of a permutation test, corrected for the number
        of methods (Holm), and a verdict.
        """
        rows = [self._difference(method, measure) for measure in self.measures for method in self.others]
        table = pd.DataFrame(rows)
        if rows:
            table["p_holm"] = table.groupby("measure")["p"].transform(stats.holm)
        return table

    @property
    def primary_differences(self) -> pd.DataFrame:
        """The rows of `differences` that are of the primary measure."""
        table = self.differences
        return table[table["measure"] == self.primary_measure.name] if len(table) else table

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """What these seeds can tell in the primary measure, for each method but the baseline.

        `detectable` is the true difference that would be found with a probability of 0.8, each comparison by itself,
        `corrected` the same where Holm's correction is strictest, `needed` the seeds of each method with which the
        difference that was found would be (NaN beyond 1,000).
        """
        rows, measure = [], self.primary_measure.name
        for method in self.others:
            ours, theirs, paired = self._values(method, measure)
            count = min(len(ours), len(theirs))
            found = ours.mean() - theirs.mean() if count else np.nan
            row: dict[str, object] = {"method": method.label, "difference": found}
            row |= {"seeds": count, "paired": paired}
            limits = dict.fromkeys(("detectable", "corrected", "needed"), np.nan)
            if count > 1:
                spread, alpha = power.Spread.of(ours, theirs, paired), 1 - stats.LEVEL
                limits["detectable"] = power.detectable_difference(spread, alpha)
                limits["corrected"] = power.detectable_difference(spread, alpha / len(self.others))
                limits["needed"] = power.seeds_for(found, spread) or np.nan
            rows.append(row | limits)
        return pd.DataFrame(rows)

    @cached_property
    def design(self) -> Design | None:
        """The methods as a grid over two factors; None if none were asked for."""
        return None if self.factors is None else make_design(self, self.factors)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Main effects and interactions of the factors in the primary measure; empty without factors."""
        if self.design is None:
            return pd.DataFrame()
        return estimate_effects(self.design, self.generator("effects", *self.design.factors))

    @cached_property
    def improvement(self) -> pd.DataFrame:
        """Probability that a run of `method` beats a run of `other` on a random task, for every pair."""
        rows, finals = [], {method.label: self.final(method) for method in self.methods}
        labels = list(finals)
        for i, ours in enumerate(labels):
            for theirs in labels[i + 1 :]:
                generator = self.generator("improvement", ours, theirs)
                found = stats.probability_of_improvement(finals[ours], finals[theirs], generator)
                value, low, high = found.value[0], found.low[0], found.high[0]
                rows.append((ours, theirs, value, low, high))
                rows.append((theirs, ours, 1 - value, 1 - high, 1 - low))
        return pd.DataFrame(rows, columns=["method", "other", "probability", "low", "high"])

    @cached_property
    def profiles(self) -> pd.DataFrame:
        """Share of runs and tasks with a final success of at least each threshold, with bands."""
        frames = []
        for method in self.methods:
            rows = stats.profile(self.final(method), THRESHOLDS)
            found = stats.bootstrap(rows, stats.mean, self.generator("profile", method.label), _CURVE_REPETITIONS)
            frames.append(_curve(method, "threshold", THRESHOLDS, found))
        return pd.concat(frames, ignore_index=True)

    def curves(self, clock: str) -> pd.DataFrame:
        """Mean success over tasks, against env steps or seconds, with bands over the runs of a method.

        Against env steps a curve reaches as far as all its runs have been evaluated. Against seconds, a run that has
        ended keeps its last value (its agent is there to be used) until the last run of its method ends.

        :param clock: ``env_steps`` or ``seconds``
        """
        return self._curves[clock]

    @cached_property
    def _curves(self) -> dict[str, pd.DataFrame]:
        return {clock: self._estimate_curves(clock) for clock in (ENV_STEPS, SECONDS)}

    def _estimate_curves(self, clock: str) -> pd.DataFrame:
        grid = _grid([getattr(run.success, clock) for run in self.runs], exact=clock == ENV_STEPS)
        frames = []
        for method in self.methods:
            ends = max(getattr(run.success, clock)[-1] for run in method.runs)
            places = np.union1d(grid[grid < ends], ends)  # a short curve may have no other place of the grid
            rows = np.array([self._on_grid(run, clock, places) for run in method.runs])
            points = ~np.isnan(rows).any(axis=0)
            if points.any():  # runs of one method that were never measured at the same time have no mean
                generator = self.generator(clock, method.label)
                found = stats.bootstrap(rows[:, points], stats.mean, generator, _CURVE_REPETITIONS)
                frames.append(_curve(method, clock, places[points], found))
        nothing = pd.DataFrame(columns=["method", clock, "value", "low", "high"])
        return pd.concat(frames, ignore_index=True) if frames else nothing

    def generator(self, *purpose: str) -> np.random.Generator:
        """A generator of its own for every number, so that none depends on which others are asked for."""
        return np.random.default_rng([self.seed, zlib.crc32("\0".join(purpose).encode())])

    def _pairs(self) -> Iterable[tuple[Method, Run]]:
        return ((method, run) for method in self.methods for run in method.runs)

    def _on_grid(self, run: Run, clock: str, grid: np.ndarray) -> np.ndarray:
        values = _of_tasks(run.success.values, run, self.tasks).mean(axis=1)
        right = np.nan if clock == ENV_STEPS else values[-1]
        return np.interp(grid, getattr(run.success, clock), values, left=np.nan, right=right)

    def _values(self, method: Method, measure: str) -> tuple[np.ndarray, np.ndarray, bool]:
        """A measure of the runs of a method and of the baseline, and whether they are paired by seed."""
        table = self.by_run.set_index("seed").dropna(subset=[measure])
        ours, theirs = (table.loc[table["method"] == m.label, measure] for m in (method, self.baseline))
        shared = ours.index.intersection(theirs.index)
        paired = set(ours.index) == set(theirs.index) or len(shared) >= stats.FEWEST_RUNS
        if paired:
            ours, theirs = ours[shared], theirs[shared]
        return ours.to_numpy(float), theirs.to_numpy(float), paired

    def _difference(self, method: Method, measure: str) -> dict[str, object]:
        ours, theirs, paired = self._values(method, measure)
        generator = self.generator(measure, "of", method.label)
        if not min(len(ours), len(theirs)):  # where no run has measured it
            nothing = dict.fromkeys(("difference", "low", "high"), np.nan)
            rest = {"seeds": 0, "paired": paired, "p": 1.0, "verdict": TOO_FEW}
            return {"method": method.label, "measure": measure, **nothing, **rest}
        found = stats.difference(ours, theirs, paired=paired, generator=generator)
        return {
            "method": method.label,
            "measure": measure,
            "difference": found.value[0],
            "low": found.low[0],
            "high": found.high[0],
            "seeds": found.runs,
            "paired": paired,
            "p": stats.permutation_test(ours, theirs, paired=paired, generator=generator),
            "verdict": _verdict(found),
        }


def compare_runs(
    paths: Sequence[str | Path],
    *,
    baseline: str | None = None,
    allow_mixed: bool = False,
    labels: Mapping[str, str] | None = None,
    worst: int | None = None,
    seed: int = 0,
    primary: str | None = None,
    factors: tuple[str, str] | None = None,
    reference: str | None = None,
) -> Comparison:
    """Read runs and set their methods side by side.

    :param paths: run folders, or folders of them
    :param baseline: label of the method that the others are compared with; None is plain averaging, ``unitary``
    :param allow_mixed: take runs of different protocols too, and say in what they differ
    :param labels: other names for the methods
    :param worst: how many tasks are the worst of a run; None is a fifth of them, at least one
    :param seed: of the bootstrap
    :param primary: the measure that was declared as the primary outcome before the runs: ``final``, ``worst``, ``auc``
        or ``per_minute``; None declares none, and final success leads
    :param factors: two settings, such as ``("agent.critic", "balancer")``, whose effects are to be estimated
    :param reference: a collection of published results (``bests``), to be shown beside those of the same suite
    :raises ConfigError: if protocols are mixed, nothing is finished, a name is not that of a method, or a negative seed
    """
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, found {seed}.")
    if primary is not None:
        check_measure(primary)
    shelf = () if reference is None else read_references(reference)
    runs, left_out = read_runs(paths)
    finished = [run for run in runs if run.finished]
    if not finished:
        raise RunFolderError(f"No finished run below {', '.join(map(str, paths))}: {_states(runs, left_out)}.")
    if not allow_mixed:
        refuse_mixed(finished)
    mixed = mixed_fields(finished)
    methods = group_methods(runs, labels, also_apart=mixed)
    compared = [method for method in methods if method.runs]
    tasks = [task for task in finished[0].tasks if all(task in run.tasks for run in finished)]
    if not tasks:
        raise ConfigError("The runs have no task in common: there is nothing to compare.")
    count = max(1, round(len(tasks) / 5)) if worst is None else worst
    if not 1 <= count <= len(tasks):
        raise ConfigError(f"worst must be between 1 and the {len(tasks)} tasks, found {count}.")
    if primary == PER_MINUTE and (untimed := [run for run in finished if not run.seconds.get("learning")]):
        raise ConfigError(
            f"primary={PER_MINUTE} needs the learning time of every run, and '{untimed[0].folder}' has none."
        )
    found = Comparison(
        methods=tuple(compared),
        baseline=choose_baseline(compared, baseline),
        tasks=tuple(tasks),
        without_result=tuple(method for method in methods if not method.runs),
        left_out=tuple(left_out),
        mixed=mixed,
        worst=count,
        seed=seed,
        primary=primary,
        factors=factors,
        references=tuple(one for one in shelf if one.suite == finished[0].protocol.get("suite")),
    )
    _ = found.design  # a design that cannot be made is said before anything is drawn
    return found


def _states(runs: Sequence[Run], left_out: Sequence[LeftOut]) -> str:
    states = [f"{run.folder.name} is {run.status}" for run in runs]
    states += [f"{folder.folder.name} cannot be used ({folder.reason})" for folder in left_out]
    more = f" and {len(states) - 3} more" if len(states) > 3 else ""
    return "; ".join(states[:3]) + more


def _verdict(found: stats.Estimate) -> str:
    if found.runs < stats.FEWEST_RUNS:
        return TOO_FEW
    if found.low[0] > 0:
        return BETTER
    return WORSE if found.high[0] < 0 else ALIKE


def _of_tasks(values: np.ndarray | None, run: Run, tasks: Sequence[str]) -> np.ndarray:
    assert values is not None, "only finished runs are compared"
    return values[..., [run.tasks.index(task) for task in tasks]]


def _grid(clocks: Sequence[np.ndarray], exact: bool) -> np.ndarray:
    """The places where a curve has a point: where something was measured, unless these are too many."""
    places = np.unique(np.concatenate(clocks))
    if exact and len(places) <= _CURVE_POINTS:
        return places
    return np.linspace(places[0], places[-1], _CURVE_POINTS)


def _curve(method: Method, axis: str, grid: np.ndarray, found: stats.Estimate) -> pd.DataFrame:
    columns = {axis: grid, "value": found.value, "low": found.low, "high": found.high}
    return pd.DataFrame({"method": method.label, **columns})


def _cells(name: str, found: stats.Estimate) -> dict[str, float]:
    return {name: found.value[0], f"{name}_low": found.low[0], f"{name}_high": found.high[0]}
