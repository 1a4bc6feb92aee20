"""Writes the tables of README.md and the guides from the registries: ``python -m docs.tables``.

A table stands between ``<!-- table: name -->`` and ``<!-- end of table -->``; a test fails when one is not current.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from agents.algorithms import AlgorithmRecord, list_algorithms
from agents.balancers import list_balancers
from agents.networks import NETWORKS
from agents.settings import (
    IN_POLICY,
    Auto,
    Changes,
    Gives,
    alternatives,
    default_of,
    described,
    explanations,
    hints,
    kind_of,
)
from agents.tags import MEANINGS
from envs import list_suites
from mtrl.network_options import known_options
from mtrl.pretrained import list_pretrained, pretrained_policy

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_TABLE = re.compile(r"(<!-- table: (?P<name>[a-z ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def suites() -> str:
    """Every suite with one line about it."""
    return _markdown(["`env=`", "suite"], [[f"`{name}`", line] for name, line in list_suites().items()])


def networks() -> str:
    """Every network with the first line of its docstring, and its options."""
    rows = [[f"`{one.name}`", one.summary, _names(known_options(one.name))] for one in NETWORKS.listed()]
    return _markdown(["`network=`", "architecture", "`network.options.`"], rows)


def balancers() -> str:
    """Every balancer: family, cost, options, summary, paper."""
    rows = [
        [
            f"`{record.name}`",
            record.family,
            record.cost,
            record.summary,
            _names(sorted(record.options)),
            record.paper,
        ]
        for record in list_balancers()
    ]
    return _markdown(["`balancer=`", "family", "cost", "what it does", "options", "paper"], rows)


def balancers_by_family() -> str:
    """The names of the balancers, family by family."""
    records = sorted(list_balancers(), key=lambda record: (record.family, record.name))
    rows = [
        [family, ", ".join(f"`{record.name}`" for record in members)]
        for family, members in groupby(records, key=lambda record: record.family)
    ]
    return _markdown(["family", "`balancer=`"], rows)


def metrics() -> str:
    """Every metric that is logged, with what it means."""
    rows = [[_names(tags), meaning] for tags, meaning in MEANINGS.items()]
    return _markdown(["tag", "meaning"], rows)


def settings(algorithm: AlgorithmRecord) -> str:
    """Every setting of an algorithm: on the command line, in Python, or both."""
    preset, arguments = algorithm.preset, algorithm.agent.arguments
    known, in_python = hints(preset), hints(arguments)
    said = explanations(arguments) | explanations(preset)
    rows = []
    for name, hint in (known | {name: hint for name, hint in in_python.items() if name not in known}).items():
        gives = described(hint, Gives)
        argument = f"policy_kwargs['{name}']" if gives == IN_POLICY else name if gives is None else gives.argument
        rows.append(
            [
                f"`{name}`" if name in known else "-",
                f"`{argument}`" if gives or name in in_python else "-",
                _default(default_of(preset, name)) if name in known else "-",
                _default(default_of(arguments, name)) if name in in_python else "-",
                _may_be(hint),
                (described(hint, Changes) or Changes.RESULT).value,
                said.get(name, "-").replace("``", "`"),
            ]
        )
    header = ["`agent.`", "in Python", "default", "in Python", "may be", "changes", "what it does"]
    return _markdown(header, rows)


def _default(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return "a group"
    return f"`{str(value).lower() if isinstance(value, bool) else 'null' if value is None else value}`"


def _may_be(hint: Any) -> str:
    whole = [str(auto) for option in alternatives(hint) if (auto := described(option, Auto))]
    return whole[0] if whole else " or ".join(map(kind_of, alternatives(hint)))


def pretrained() -> str:
    """The card of every policy that ships with the package."""
    cards = [pretrained_policy(name).describe() for name in list_pretrained()]
    return "\n".join(cards) or "This version ships none.\n"


TABLES: dict[str, Callable[[], str]] = {
    "suites": suites,
    "networks": networks,
    "balancers": balancers,
    "balancers by family": balancers_by_family,
    "metrics": metrics,
    "pretrained": pretrained,
    **{f"settings of {record.name}": partial(settings, record) for record in list_algorithms()},
}


def with_tables(text: str) -> str:
    """A page with its tables as they should be.

    :raises KeyError: for a table that nothing here makes
    """
    return _TABLE.sub(lambda match: match[1] + TABLES[match["name"]]() + match[3], text)


def main() -> None:
    """Rewrite the pages whose tables are not current."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (current := with_tables(text)) != text:
            page.write_text(current, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: tables written")


if __name__ == "__main__":
    main()
