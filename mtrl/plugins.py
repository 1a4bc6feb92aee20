"""Plug-ins: modules of your own that register balancers, networks, suites and algorithms when they are imported.

What is imported is named by the command line, your own config, the variable ``MTRL_PLUGINS`` or an installed
distribution (entry points of the group ``mtrl.plugins``). The files of runs and agents name plug-ins as well: for the
sentence that says which one is missing, never for an import.
"""

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path
from typing import Any

from mtrl.errors import ConfigError

GROUP, VARIABLE = "mtrl.plugins", "MTRL_PLUGINS"
_OURS = ("agents", "benchmarks", "envs", "mtrl")
_FLAG = "--plugins"
_SETTING = re.compile(r"^\+{0,2}plugins=")


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was imported, and what it was then.

    :param name: of its module
    :param version: of the distribution that it came with; None if it is no installed one
    :param sha256: of its source
    """

    name: str
    version: str | None
    sha256: str


_loaded: dict[str, Plugin] = {}


def loaded_plugins() -> list[str]:
    """Names of the plug-ins of this process, in the order of their import."""
    return list(_loaded)


def load_plugins(names: Iterable[str] = ()) -> None:
    """Import the installed plug-ins, those of ``MTRL_PLUGINS``, and these.

    :param names: as the command line or the user's own config gives them
    :raises ConfigError: for a module that cannot be imported, and why
    """
    use_working_directory()
    for point in entry_points(group=GROUP):
        _load(point.module, f"the installed entry point '{point.name}' of {GROUP}")
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            _load(name.strip(), VARIABLE)
    for name in names:
        _load(name, "plugins")


def use_working_directory() -> None:
    """Let modules of the working directory be imported, after everything that is installed.

    ``python -m`` puts it first. Here a folder `envs` or a file `agents.py` there must not hide this toolkit's own.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _load(name: str, source: str) -> None:
    if name in _loaded:
        return
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{source} must name modules, such as myrl or myrl.methods, found {name!r}.")
    if name in sys.modules:  # imported by the script that runs this, or just being imported
        _loaded[name] = _describe(name)
        return
    try:
        importlib.import_module(name)
    except Exception as error:
        _loaded.pop(name, None)  # where the module itself made its loading be asked for
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{source} names '{name}', and there is no module '{error.name}', neither installed nor in "
                f"'{os.getcwd()}'."
            ) from error
        raise ConfigError(f"{source} names '{name}', which cannot be imported ({reason:.300}).") from error
    _loaded[name] = _describe(name)


# ---------------------------------------------------------------------- what was imported


def _describe(name: str) -> Plugin:
    digest = hashlib.sha256()
    for place, file in source_files(name):
        digest.update(f"{place}\0".encode() + file.read_bytes() + b"\0")
    return Plugin(name, _version(name.partition(".")[0]), digest.hexdigest())


def _version(package: str) -> str | None:
    distributions = packages_distributions().get(package)
    return version(distributions[0]) if distributions else None


def source_files(name: str) -> list[tuple[str, Path]]:
    """The Python files of a plug-in, by their place in it: a whole package, or a module with those beside it that it
    imports.
    """
    if name == "__main__":  # a user's own script
        own = getattr(sys.modules[name], "__file__", None)
        return [] if own is None else [(Path(own).name, Path(own))]
    spec = importlib.util.find_spec(name.partition(".")[0])
    if spec is None:
        return []
    if spec.submodule_search_locations:
        roots = [Path(root) for root in spec.submodule_search_locations]
        return sorted((str(file.relative_to(root)), file) for root in roots for file in root.rglob("*.py"))
    if spec.origin is None or not spec.origin.endswith(".py"):
        return []
    return sorted((file.name, file) for file in _with_neighbours(Path(spec.origin)))


def _with_neighbours(file: Path) -> set[Path]:
    """A file, and the files beside it that it imports, and so on."""
    found, waiting = set(), [file]
    while waiting:
        file = waiting.pop()
        found.add(file)
        for name in _imported(file):
            places = (file.with_name(f"{name}.py"), file.with_name(name) / "__init__.py")
            waiting += [place for place in places if name not in _OURS and place.is_file() and place not in found]
    return found


def _imported(file: Path) -> Iterator[str]:
    """Top-level names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def plugin_of(module: str) -> str | None:
    """The plug-in that a module which registered something belongs to; None for the toolkit's own modules.

    :param module: ``myrl.methods`` belongs to the plug-in ``myrl``, and is one itself where that is not loaded
    """
    if module.partition(".")[0] in _OURS:
        return None
    return next((name for name in _loaded if module == name or module.startswith(f"{name}.")), module)


def described(used: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """What a run's record says of plug-ins: version and hash of those that are loaded, and of those that it uses.

    :param used: what the run uses, by the plug-in that registered it: ``{"myrl": ["balancer mine"]}``
    """
    plugins = {**{name: _describe(name) for name in used if name not in _loaded}, **_loaded}
    return {
        name: {"version": one.version, "sha256": one.sha256, "registers": used.get(name, [])}
        for name, one in plugins.items()
    }


def not_loaded(names: Iterable[str]) -> list[str]:
    """Those of the plug-ins that a file names which this process has not imported."""
    return [name for name in names if name not in _loaded and name not in sys.modules]


# ---------------------------------------------------------------------- the command line


def take_plugins(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command without the plug-ins, and these: ``plugins=[a,b]``, ``plugins=a``, ``--plugins a,b``.

    :raises ConfigError: for ``--plugins`` without a name
    """
    rest: list[str] = []
    names: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == _FLAG:
            given = next(words, "")
            if not given or given.startswith("-"):
                raise ConfigError(f"{_FLAG} must be followed by the names of modules, as in {_FLAG} myrl,other.")
        elif word.startswith(f"{_FLAG}=") or _SETTING.match(word):
            given = word.partition("=")[2]
        else:
            rest.append(word)
            continue
        names += [name.strip(" '\"") for name in given.strip("[] ").split(",")]
    return rest, list(dict.fromkeys(filter(None, names)))


def setting_of(names: Iterable[str]) -> str:
    """The override that names plug-ins: ``plugins=[a,b]``."""
    return f"plugins=[{','.join(names)}]"
