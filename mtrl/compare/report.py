"""The report on disk: a page that needs nothing beside it, the same as Markdown, numbers as CSV, figures as PNG."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtrl.compare.comparison import ENV_STEPS, SECONDS, Comparison
from mtrl.compare.sections import Section, sections, summary_table
from mtrl.compare.style import house_style, looks, save_png, to_svg
from mtrl.compare.verdict import Verdict, judge
from mtrl.errors import RunFolderError
from mtrl.places import require_folder
from mtrl.provenance import command
from mtrl.run_folder import RECORD_FILE, now

PAGE, MARKDOWN, DATA, FIGURES = "report.html", "report.md", "data", "figures"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Part:
    """A section with its figure as text."""

    section: Section
    svg: Markup | None


def require_place(folder: Path) -> None:
    """Check that a report can be written in a folder.

    :raises RunFolderError: if the folder is a file, or a run
    :raises ConfigError: if nothing can be written there
    """
    if folder.is_file() or (folder / RECORD_FILE).exists():
        raise RunFolderError(f"out must be a folder for the report, found '{folder}', which is a file or a run.")
    require_folder(folder, "--out")


def write_report(comparison: Comparison, folder: str | Path) -> Path:
    """Write ``report.html``, ``report.md``, ``data/*.csv`` and ``figures/*.png``; an older report is replaced.

    :return: the page
    :raises ConfigError: as `require_place` does
    """
    folder = Path(folder)
    require_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DATA, FIGURES):
        if (folder / PAGE).exists() and (folder / name).is_dir():
            shutil.rmtree(folder / name)  # else figures of an older report would stay beside the new ones
    _write_data(comparison, folder / DATA)
    with house_style():
        parts = [_drawn(section, folder / FIGURES) for section in sections(comparison)]
    context = _context(comparison, judge(comparison), parts)
    for template, name in (("report.html.j2", PAGE), ("report.md.j2", MARKDOWN)):
        (folder / name).write_text(_render(template, context), encoding="utf-8")
    return folder / PAGE


def _write_data(comparison: Comparison, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, table in {
        "summary": comparison.summary,
        "differences": comparison.differences,
        "improvement": comparison.improvement,
        "profiles": comparison.profiles,
        "curves_env_steps": comparison.curves(ENV_STEPS),
        "curves_wall_clock": comparison.curves(SECONDS),
        "runs": comparison.by_run,
        "scores": comparison.scores,
        "evaluations": comparison.evaluations(),
    }.items():
        table.to_csv(folder / f"{name}.csv", index=False)


def _drawn(section: Section, folder: Path) -> _Part:
    if section.figure is None:
        return _Part(section, None)
    save_png(section.figure, folder / f"{section.key}.png")
    section.figure.set_layout_engine("none")  # all is in its place now, and finding it takes as long as drawing
    # Matplotlib escapes the texts of a figure; nothing else enters it.
    return _Part(section, Markup(to_svg(section.figure, section.key)))


def _context(comparison: Comparison, verdict: Verdict, parts: Sequence[_Part]) -> dict[str, Any]:
    protocol = comparison.runs[0].protocol
    look = looks([method.label for method in comparison.methods], comparison.baseline.label)
    return {
        "comparison": comparison,
        "suite": protocol.get("suite", "unknown suite"),
        "env_steps": protocol.get("env_steps"),
        "verdict": verdict,
        "summary": summary_table(comparison),
        "parts": parts,
        "looks": {label: look[label] for label in comparison.summary["method"]},
        "command": command(),
        "made": now(),
        "figures": FIGURES,
        "data": DATA,
    }


def _render(template: str, context: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _markdown_cell, "tied": _tied}
    return environment.get_template(template).render(context)


def _tied(text: str) -> str:
    """Text in which a number stays on the line of its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _markdown_cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
