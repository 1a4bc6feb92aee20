"""Writes docs/networks from the registry and the docstrings: ``python -m docs.networks.generate``.

A page stands for an architecture. Only the part between the two comments is written; notes below it stay.
A test fails when a page is not current.
"""

import inspect
import re
from pathlib import Path

from agents.networks import NETWORKS, TaskNetwork
from agents.networks.matching import metaworld_parameter_counts
from agents.registry import Record

FOLDER = Path(__file__).resolve().parent
BEGIN = "<!-- written by `python -m docs.networks.generate` from the docstrings -->"
END = "<!-- end of the generated part -->"

_PARAMETER = re.compile(r"^:param (\w+): (.*(?:\n[ ]+.*)*)", re.MULTILINE)
_PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")


def pages() -> dict[str, str]:
    """Every page by file name, as it should be; notes come from the page on disk."""
    written = {f"{record.name}.md": _page(record) for record in NETWORKS.listed()}
    return {name: _with_notes(name, text) for name, text in {**written, "README.md": _index()}.items()}


def _with_notes(name: str, generated: str) -> str:
    path = FOLDER / name
    _, _, notes = path.read_text(encoding="utf-8").partition(END) if path.exists() else ("", "", "\n")
    return f"{generated}{END}{notes}"


def _index() -> str:
    sides = list(metaworld_parameter_counts("mlp"))
    lines = [
        "# The architectures",
        "",
        BEGIN,
        "",
        "Parameters are those of the default options, on the observations and actions of Meta-World.",
        "",
        "| " + " | ".join(["`network=`", "architecture", *sides]) + " |",
        "| --- | --- | " + " | ".join("---:" for _ in sides) + " |",
    ]
    for record in NETWORKS.listed():
        counts = [f"{count:,}" for count in metaworld_parameter_counts(record.name).values()]
        cells = [f"[`{record.name}`]({record.name}.md)", record.summary, *counts]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n"


def _page(record: Record[TaskNetwork]) -> str:
    module = inspect.getmodule(record.make)
    title = (inspect.getdoc(module) or "").splitlines()[0].rstrip(".")
    text = inspect.getdoc(record.make) or ""
    prose, _, _ = text.partition("\n\n:param ")
    _, _, details = prose.partition("\n\n")
    details = _PAPER.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", details.strip().replace("``", "`"))
    parts = [f"# {title}", BEGIN, f"`network={record.name}`: {record.summary}", details, _options(record)]
    return "\n\n".join(part for part in parts if part) + "\n\n"


def meanings_of(record: Record[TaskNetwork]) -> dict[str, str]:
    """What the docstrings of an architecture, and of those that it extends, say of every option."""
    found: dict[str, str] = {}
    for kind in reversed(inspect.getmro(record.make)):  # type: ignore[arg-type]  # it is a class
        text = inspect.cleandoc(kind.__doc__ or "")
        found |= {name: " ".join(meaning.split()) for name, meaning in _PARAMETER.findall(text)}
    return found


def _options(record: Record[TaskNetwork]) -> str:
    meanings = meanings_of(record)
    parameters = inspect.signature(record.make).parameters
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for name in (name for name in parameters if name in record.options):
        meaning = meanings.get(name, "").replace("``", "`").replace(" | ", " \\| ")
        lines.append(f"| `{name}` | `{parameters[name].default!r}` | {meaning} |")
    return "\n".join(lines)


def main() -> None:
    """Rewrite the pages that are not current."""
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"docs/networks/{name} written")


if __name__ == "__main__":
    main()
