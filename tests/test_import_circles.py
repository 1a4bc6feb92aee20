"""No module imports itself by way of others, packages included: each can be read, and imported, before what uses it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules(root: Path, package: str) -> dict[str, Path]:
    """Every module of a package by name; a package is its ``__init__``."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a file imports when it runs; imports for type checkers alone are not among them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in checked:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                name if name in known else node.module for name in names if name in known or node.module in known
            )


def graph(root: Path, package: str) -> dict[str, set[str]]:
    """Who imports whom. Importing a module first runs every package that it is in, which is an import too.

    The packages that the importing module is in itself are left out: they have begun to run before it does.
    """
    known = modules(root, package)
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        own = {name, *_parents(name)}
        edges[name] = {found for target in imported(path, known) for found in (target, *_parents(target))} - own
    return edges


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, in order; none if there is none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges[name]):
            if found := search(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (search(name, []) for name in sorted(edges))), [])


@pytest.mark.parametrize("package", ["agents", "envs", "mtrl"])
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    assert circle(graph(ROOT, package)) == []


INSIDE_A_FUNCTION = {"p/a.py": "from p import b", "p/b.py": "def f():\n    import p.a"}
BY_WAY_OF_A_PACKAGE = {"p/q/__init__.py": "from p.q import x", "p/q/x.py": "import p.a", "p/a.py": "import p.q.y"}


@pytest.mark.parametrize(
    "files", [INSIDE_A_FUNCTION, BY_WAY_OF_A_PACKAGE | {"p/q/y.py": ""}], ids=["function", "package"]
)
def test_hidden_circles_are_found(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in {"p/__init__.py": "", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert circle(graph(tmp_path, "p"))


def test_a_type_checkers_import_is_no_import(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/__init__.py").write_text("")
    (tmp_path / "p/a.py").write_text("import p.b")
    (tmp_path / "p/b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.a")
    assert not circle(graph(tmp_path, "p"))
