"""Writes docs/methods from the registry and the docstrings: ``python -m docs.methods.generate``.

A page stands for a file of agents/balancers. Only the part between the two comments is written; notes below it stay.
A test fails when a page is not current.
"""

import inspect
from collections import defaultdict
from pathlib import Path
from typing import Any

from agents.balancers import list_balancers
from agents.balancing.balancer import Direction, Needs
from agents.balancing.registry import BalancerRecord, declaration
from agents.settings import explanations

FOLDER = Path(__file__).resolve().parent
BEGIN = "<!-- written by `python -m docs.methods.generate` from the docstrings -->"
END = "<!-- end of the generated part -->"

_REQUIRED: dict[str, dict[str, Any]] = {  # what a method cannot be made without, for two tasks
    "static": {"weights": [1.0, 1.0]},
    "schedule": {"times": [0.0], "weights": [[1.0, 1.0]]},
}
_SITES = {"arXiv": "https://arxiv.org/abs/", "openreview": "https://openreview.net/forum?id="}


def pages() -> dict[str, str]:
    """Every page by file name, as it should be; notes come from the page on disk."""
    modules: dict[str, list[BalancerRecord]] = defaultdict(list)
    for record in list_balancers():
        modules[record.balancer.__module__].append(record)
    written = {_page(module): _with_notes(_page(module), _method_page(records)) for module, records in modules.items()}
    return {**written, "README.md": _with_notes("README.md", _index())}


def _page(module: str) -> str:
    return module.removeprefix("agents.balancers.").replace(".", "_") + ".md"


def _with_notes(name: str, generated: str) -> str:
    path = FOLDER / name
    _, _, notes = path.read_text(encoding="utf-8").partition(END) if path.exists() else ("", "", "\n")
    return f"{generated}{END}{notes}"


def _index() -> str:
    lines = [
        "# The methods",
        "",
        BEGIN,
        "",
        "| method | family | cost | actor | what it does | paper |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for record in list_balancers():
        cells = [
            f"[`{record.name}`]({_page(record.balancer.__module__)})",
            record.family,
            record.cost,
            "no" if Needs.POSITIVE_LOSSES in _needs(record) else "yes",
            record.summary,
            _link(record.paper),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _method_page(records: list[BalancerRecord]) -> str:
    module = inspect.getmodule(records[0].balancer)
    title = (inspect.getdoc(module) or "").splitlines()[0].rstrip(".")
    parts = [f"# {title}", BEGIN, *(_section(record) for record in records)]
    return "\n\n".join(parts) + "\n\n"


def _section(record: BalancerRecord) -> str:
    text = inspect.getdoc(record.balancer) or ""
    prose, _, _ = text.partition("\n:param ")
    prose = prose.strip().replace("\nDiffers from", "\n\nDiffers from").replace("``", "`")
    parts = [f"## `{record.name}`", f"{record.summary[0].upper()}{record.summary[1:]}.", _facts(record), prose]
    if record.options:
        parts.append(_options(record))
    return "\n\n".join(parts)


def _facts(record: BalancerRecord) -> str:
    needs = _needs(record)
    family = record.family if record.family == "scheduler" else f"{record.family} space"
    facts = [family, record.cost, _link(record.paper)]
    if Needs.POSITIVE_LOSSES in needs:
        facts.append("needs positive losses: for critics only")
    if Needs.SECOND_LOOK in needs:
        facts.append("looks at the losses again after the step")
    if issubclass(record.balancer, Direction):
        facts.append("composes a direction of its own: stands last in a composition")
    return " · ".join(facts)


def _options(record: BalancerRecord) -> str:
    declared = declaration(record.balancer)
    meanings, parameters = explanations(declared), inspect.signature(declared).parameters
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for name in (name for name in parameters if name in record.options):
        default = parameters[name].default
        shown = "required" if default is inspect.Parameter.empty else f"`{default!r}`"
        lines.append(f"| `{name}` | {shown} | {meanings.get(name, '').replace('``', '`')} |")
    return "\n".join(lines)


def _needs(record: BalancerRecord) -> Needs:
    """What a method needs with default options."""
    if "source" in record.options:  # recorded weights, which need a finished run to be made, and nothing of an update
        return Needs.NOTHING
    return record.make(2, **_REQUIRED.get(record.name, {})).needs


def _link(paper: str) -> str:
    site, _, identifier = paper.partition(" ")
    return f"[{paper}]({_SITES[site]}{identifier})" if site in _SITES else paper


def main() -> None:
    """Rewrite the pages that are not current."""
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"docs/methods/{name} written")


if __name__ == "__main__":
    main()
