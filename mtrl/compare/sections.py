"""The parts of a report in order: each a title, a few words, a table or a figure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure

from mtrl.compare import plots, power, stats, study_plots, task_plots
from mtrl.compare.comparison import ENV_STEPS, SECONDS, Comparison
from mtrl.compare.tables import (
    Table,
    architecture_table,
    commands_table,
    cost_table,
    effects_table,
    machines,
    protocol_table,
    references_table,
    seeds_table,
    sensitivity_table,
    worst_table,
)
from mtrl.compare.verdict import enumerate_words
from mtrl.config import flatten

_PUBLISHED = (
    "Other people's numbers under other people's protocols: they were not measured as these runs were, and stand in no "
    "statistic, interval or verdict of this page. Env steps are per task, on a logarithmic axis."
)


@dataclass(frozen=True)
class Section:
    """A part of the report.

    :param key: its name in links and files
    :param text: what is shown, and how to read it
    :param figure: None where there is nothing to draw
    :param folded: for readers who ask for it
    """

    key: str
    title: str
    text: str
    table: Table | None = None
    figure: Figure | None = None
    folded: bool = False


def sections(comparison: Comparison) -> list[Section]:
    """Every part of the report below the verdict."""
    runs = f"{stats.LEVEL:.0%}".replace("%", " %")
    band = f"Bands are {runs} bootstrap intervals over seeds."
    drawn: list[tuple[str, str, str, Callable[[Comparison], Figure | None]]] = [
        ("scores", "Final and best success", _scores_text(comparison), plots.draw_scores),
        (
            "differences",
            f"Difference from {comparison.baseline.label}",
            "Filled: the interval excludes zero. Hollow: it does not, or there are too few seeds for a verdict. "
            "Differences are taken seed by seed where the seeds are shared.",
            plots.draw_differences,
        ),
        (
            "curves-env-steps",
            "Success over env steps",
            f"Evaluations while training ({_episodes(comparison)}), the last one the final evaluation. {band}",
            lambda given: plots.draw_curves(given, ENV_STEPS),
        ),
        (
            "curves-wall-clock",
            "Success over wall-clock time",
            f"The same against the time since a run began, evaluations included. A run that has ended keeps its last "
            f"value until the last one of its method ends. {band} {_machines_text(comparison)}",
            lambda given: plots.draw_curves(given, SECONDS),
        ),
        (
            "tasks",
            "Final success per task",
            "Mean over seeds. Tasks from the easiest on the left to the hardest.",
            task_plots.draw_heat_map,
        ),
        (
            "profiles",
            "Performance profiles",
            f"Share of all runs and tasks that reach at least a success; higher is better. {band}",
            plots.draw_profiles,
        ),
        (
            "improvement",
            "Probability of improvement",
            "How likely a run of the row's method beats a run of the column's on a task drawn at random, ties counting "
            f"one half. A star: the {runs} interval of this pair excludes 0.5, uncorrected for the number of pairs.",
            task_plots.draw_improvement,
        ),
        ("weights", "Task weights over time", _weights_text(comparison), task_plots.draw_weights),
        ("conflict", "Gradient conflict over time", _conflict_text(comparison), task_plots.draw_conflict),
        (
            "cost",
            "Cost",
            "Learning time per gradient update with the simulation that runs beside it, and the time of whole runs; "
            f"means with {runs} intervals. {_machines_text(comparison)}",
            plots.draw_cost,
        ),
    ]
    found = [
        Section(key, title, text, table=_TABLES[key](comparison) if key in _TABLES else None, figure=draw(comparison))
        for key, title, text, draw in drawn
    ]
    return [*_study(comparison), *found, *_record(comparison)]


# ---------------------------------------------------------------------- what a planned study asks


def _study(comparison: Comparison) -> list[Section]:
    """The parts that a comparison has only if there is something to say in them."""
    found = []
    if comparison.design is not None:
        found.append(
            Section(
                "factors",
                "Two factors",
                _factors_text(comparison),
                table=effects_table(comparison),
                figure=study_plots.draw_design(comparison),
            )
        )
    if comparison.others:
        found.append(
            Section(
                "sensitivity",
                "What would change this verdict",
                _sensitivity_text(comparison),
                sensitivity_table(comparison),
            )
        )
    if len({method.network for method in comparison.methods}) > 1:
        text = "The same runs by architecture. Parameters of the critics are those of all of them together."
        found.append(Section("architectures", "Architectures", text, architecture_table(comparison)))
    if comparison.references:
        found.append(
            Section(
                "references",
                "Beside published results",
                _PUBLISHED,
                table=references_table(comparison),
                figure=study_plots.draw_references(comparison),
            )
        )
    return found


def _factors_text(comparison: Comparison) -> str:
    design = comparison.design
    assert design is not None, "asked for where there is one"
    text = (
        f"{comparison.primary_measure.words.capitalize()} over {' and '.join(design.factors)}, from the "
        f"{len(design.seeds)} seeds that all combinations share. A main effect is taken on the mean over the other "
        "factor. An interaction says by how much a difference changes with the other factor: where it is not zero, the "
        "main effects alone mislead. Main effects are corrected together, and so are interactions."
    )
    if not design.left_out:
        return text
    return f"{text} Left out for want of combinations: {enumerate_words(design.left_out)}."


def _sensitivity_text(comparison: Comparison) -> str:
    return (
        f"Detectable: the true difference in {comparison.primary_measure.words} that these seeds would find with a "
        f"probability of {power.POWER:g}, from the spread of the runs (two-sided t test at 5 %), by itself and where "
        "Holm's correction is strictest. The last column: seeds of each method with which a true difference as large "
        f"as the one found would be; a dash is more than {power.MOST_SEEDS:,}. A difference that was not found and is "
        "smaller than detectable may well be there."
    )


# ---------------------------------------------------------------------- what the runs were


def _record(comparison: Comparison) -> list[Section]:
    return [
        Section("seeds", "Seeds", "Statistics are over finished runs only.", table=seeds_table(comparison)),
        Section(
            "protocol",
            "Protocol and budget",
            "What every number on this page is labelled with."
            if not comparison.mixed
            else "The runs differ in the fields marked with a star, which list every value that occurs.",
            table=protocol_table(comparison),
        ),
        Section("commands", "Commands", "", table=commands_table(comparison), folded=True),
    ]


def _machines_text(comparison: Comparison) -> str:
    found = machines(comparison)
    if len(found) > 1:
        return f"Caution: these runs were made on {len(found)} different machines or numbers of threads."
    return "Times compare only if the machine did nothing else, or the same, beside every run."


# ---------------------------------------------------------------------- words that depend on the runs


def _scores_text(comparison: Comparison) -> str:
    worst = "its worst task" if comparison.worst == 1 else f"its {comparison.worst} worst tasks"
    return (
        "Final: the final evaluation of a run, mean over tasks. Interquartile mean: over the seeds, without the best "
        f"and the worst quarter. Worst: mean of a run over {worst}. Best: the highest mean over tasks of any "
        f"evaluation of a run, most of them with few episodes ({_episodes(comparison)}), so a maximum of noisy "
        "numbers that lies above what the agent can do; it grows with the number of evaluations "
        f"({_counts(len(run.success) for run in comparison.runs)} in these runs). Bars are 95 % intervals."
    )


def _episodes(comparison: Comparison) -> str:
    given = (flatten(run.config).get("evaluation.episodes", "?") for run in comparison.runs)
    return f"{_counts(given)} episodes per task"


def _counts(values: Iterable[object]) -> str:
    return " or ".join(sorted({str(value) for value in values}))


def _weights_text(comparison: Comparison) -> str:
    flat = [method.label for method in comparison.methods if not task_plots.has_weights(comparison, method)]
    text = "Weights of the critic's losses, mean over seeds; 1 is the plain average."
    if len(flat) == len(comparison.methods):
        return f"{text} No method has any other than 1 throughout."
    return f"{text} All ones, or not recorded, and not drawn: {enumerate_words(flat)}." if flat else text


def _conflict_text(comparison: Comparison) -> str:
    measured = {method.label for method in task_plots.with_conflict(comparison)}
    silent = [method.label for method in comparison.methods if method.label not in measured]
    text = "Share of task pairs whose gradients have a negative inner product, mean over seeds."
    if not measured:
        return f"{text} None of these methods computes the gradients of single tasks, so none records it."
    not_drawn = f" Not recorded by {enumerate_words(silent)}." if silent else ""
    return f"{text} Recorded only by balancers that compute the gradients of single tasks.{not_drawn}"


_TABLES: dict[str, Callable[[Comparison], Table]] = {"cost": cost_table, "tasks": worst_table}
