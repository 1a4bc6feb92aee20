"""Runs of several protocols: a comparison for each, side by side on one page, and no number over two of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mtrl.compare import stats
from mtrl.compare.comparison import Comparison
from mtrl.compare.plots import draw_differences
from mtrl.compare.protocol import describe, protocol_of
from mtrl.compare.report import FIGURES, MARKDOWN, PAGE, render, write_report
from mtrl.compare.runs import LeftOut, Run, find_runs, read_head
from mtrl.compare.style import house_style, to_svg
from mtrl.compare.tables import ABSENT, Table, summary_table
from mtrl.compare.verdict import Verdict, judge
from mtrl.errors import RunFolderError
from mtrl.provenance import command
from mtrl.run_folder import now, safe_name

FAMILY = "primary.csv"
_FAMILY_COLUMNS = [
    "family",
    "part",
    "method",
    "measure",
    "difference",
    "low",
    "high",
    "seeds",
    "verdict",
    "p",
    "p_holm",
]


@dataclass(frozen=True)
class Part:
    """The runs of one protocol.

    :param title: the suite, and what tells it from other parts of the same suite
    :param folders: of the runs
    """

    title: str
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class _Shown:
    """A part as the page shows it."""

    title: str
    slug: str
    comparison: Comparison
    verdict: Verdict
    summary: Table
    svg: Markup | None

    @property
    def page(self) -> str:
        return f"{self.slug}/{PAGE}"

    @property
    def markdown(self) -> str:
        return f"{self.slug}/{MARKDOWN}"


def split_by_protocol(paths: Sequence[str | Path]) -> tuple[list[Part], list[LeftOut]]:
    """The run folders below the paths by protocol, and those of which it is not known.

    A run that stopped before its protocol was known belongs to the runs with the same environments, budget and
    evaluation.

    :raises RunFolderError: for a path that holds no run, or if no run has a protocol
    """
    runs, left_out = [], []
    for folder in find_runs(paths):
        try:
            runs.append(read_head(folder))
        except (OSError, ValueError) as error:
            left_out.append(LeftOut(folder, str(error)))
    groups: dict[str, list[Run]] = {}
    for run in (run for run in runs if run.protocol):
        groups.setdefault(_key(protocol_of(run)), []).append(run)
    if not groups:
        raise RunFolderError(f"No run below {', '.join(map(str, paths))} has come so far that its protocol is known.")
    for run in (run for run in runs if not run.protocol):
        home = [members for members in groups.values() if _circumstances(run) == _circumstances(members[0])]
        if home:
            home[0].append(run)
        else:
            left_out.append(LeftOut(run.folder, "it stopped before its protocol was known"))
    titles = _titles([members[0] for members in groups.values()])
    parts = [
        Part(title, tuple(run.folder for run in members))
        for title, members in zip(titles, groups.values(), strict=True)
    ]
    return sorted(parts, key=_title), left_out


def primary_family(parts: Mapping[str, Comparison], families: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Every primary comparison of every part, corrected together: part, family, method, difference, p, p_holm, ...

    Nothing is averaged over parts: a correction counts tests, whatever they are of.

    :param parts: comparisons by title
    :param families: what each part is corrected with, by title; None corrects all of them together
    """
    tables = [
        comparison.primary_differences.assign(part=title, family="all" if families is None else families[title])
        for title, comparison in parts.items()
        if comparison.others
    ]
    if not tables:
        return pd.DataFrame(columns=_FAMILY_COLUMNS)
    table = pd.concat(tables, ignore_index=True)
    table["p_holm"] = table.groupby("family")["p"].transform(stats.holm)
    return table[_FAMILY_COLUMNS]


def write_overview(
    parts: Mapping[str, Comparison],
    folder: str | Path,
    left_out: Sequence[LeftOut] = (),
    families: Mapping[str, str] | None = None,
) -> Path:
    """Write a report for each part below a folder, and a page over all of them.

    :param parts: comparisons by title
    :param families: what each part is corrected with, by title; None corrects all of them together
    :return: the page
    """
    folder = Path(folder)
    shown = []
    for title, comparison in parts.items():
        slug = safe_name(title)
        write_report(comparison, folder / slug)
        shown.append(
            _Shown(title, slug, comparison, judge(comparison), summary_table(comparison), _svg(comparison, slug))
        )
    family = primary_family(parts, families)
    family.to_csv(folder / FAMILY, index=False)
    context = {
        "parts": shown,
        "matrix": _matrix(parts, family),
        "families": family.groupby("family", sort=False).size().to_dict(),
        "left_out": [f"'{one.folder}' is left out: {one.reason}." for one in left_out],
        "looks": {},
        "command": command(),
        "made": now(),
        "figures": FIGURES,
    }
    for template, name in (("overview.html.j2", PAGE), ("overview.md.j2", MARKDOWN)):
        (folder / name).write_text(render(template, context), encoding="utf-8")
    return folder / PAGE


def _matrix(parts: Mapping[str, Comparison], family: pd.DataFrame) -> Table:
    """A row per method and a column per part: the difference in the primary measure, the verdict, and p."""
    columns = {title: {comparison.baseline.label: "baseline"} for title, comparison in parts.items()}
    for _, row in family.iterrows():
        title, measure = str(row["part"]), parts[str(row["part"])].primary_measure
        text = f"{measure.signed(row['difference'])}, {row['verdict']} (p = {row['p_holm']:.3f})"
        columns[title][str(row["method"])] = text
    labels = dict.fromkeys(str(label) for comparison in parts.values() for label in comparison.summary["method"])
    rows = [[label, *(cells.get(label, ABSENT) for cells in columns.values())] for label in labels]
    return Table(["method", *columns], rows)


def _svg(comparison: Comparison, slug: str) -> Markup | None:
    with house_style():
        figure = draw_differences(comparison)
        # Matplotlib escapes the texts of a figure; nothing else enters it.
        return None if figure is None else Markup(to_svg(figure, f"differences-{slug}"))


def _titles(runs: Sequence[Run]) -> list[str]:
    """The suite of each, and in brackets the fields of the protocol that tell apart runs of one suite."""
    protocols = [protocol_of(run) for run in runs]
    titles = []
    for ours in protocols:
        suite = str(ours.get("suite", "unknown suite"))
        alike = [one for one in protocols if one.get("suite") == ours.get("suite")]
        fields = dict.fromkeys(field for one in alike for field in one)
        varied = [field for field in fields if len({_key(one.get(field)) for one in alike}) > 1]
        text = ", ".join(_field(field, ours.get(field)) for field in varied)
        titles.append(f"{suite} ({text})" if text else suite)
    return titles


def _field(name: str, value: Any) -> str:
    if name == "tasks":
        return f"{len(value)} tasks from {value[0]}" if value else "no tasks"
    return f"{name.replace('_', ' ')} {describe(value)}"


def _circumstances(run: Run) -> str:
    return _key([run.config.get(name) for name in ("env", "total_env_steps", "evaluation")])


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _title(part: Part) -> str:
    return part.title
