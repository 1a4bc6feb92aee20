"""A command line as Hydra can read it: the settings in one piece, and text with any characters in quotation marks."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mtrl.errors import ConfigError

PLACES = ("run_dir", "runs_dir", "schedule", "network.task_embeddings")  # settings whose text names a file or folder

_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
}
_INFORMATION = ("--info", "-i")  # take a word that is no setting, or nothing


def readable(arguments: Sequence[str]) -> list[str]:
    """The arguments in the order and the spelling that Hydra takes; what it takes already stays as it is.

    Settings may stand before, between and after options. The name of a file or folder may hold any characters, and
    ``~`` in front of it is the home folder.

    :raises ConfigError: for an argument that is no setting, or for text that needs quotation marks, with the cure
    """
    settings, options = _parted(arguments)
    return [*map(_readable, settings), *options]


def _parted(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Settings, and options with their values."""
    settings: list[str] = []
    options: list[str] = []
    before = ""
    for word in arguments:
        is_value = before in _WITH_VALUE or (before in _INFORMATION and "=" not in word)
        (options if word.startswith("-") or is_value else settings).append(word)
        before = "" if is_value else word
    return settings, options


def _readable(argument: str) -> str:
    key, equals, value = argument.partition("=")
    parsed = _parse(argument)
    if equals and key.lstrip("+") in PLACES:
        return _place(key, value, parsed)
    if parsed is not None:
        return argument
    cure = _quoted_items(key, value) if re.fullmatch(r"\[.*\]", value) else _quoted(key, value)
    if not equals or _parse(cure) is None:
        raise ConfigError(f"'{argument}' cannot be read: settings are given as name=value, such as seed=3.")
    raise ConfigError(
        f"'{argument}' cannot be read: text with such characters needs quotation marks inside those of the shell, "
        f"{shlex.quote(cure)}."
    )


def _place(key: str, value: str, parsed: Override | None) -> str:
    """A setting that names a file or folder; a list of them is left to a sweep."""
    if not value:
        raise ConfigError(f"{key} is empty: leave it out, or look whether a variable of the shell is set.")
    if parsed is not None and (parsed.is_sweep_override() or parsed.value() is None):
        return f"{key}={value}"
    if parsed is not None and not isinstance(parsed.value(), (bool, int, float, list, dict)):
        return f"{key}={value}"
    return _quoted(key, os.path.expanduser(value))


def _quoted(key: str, value: str) -> str:
    # Backslashes mean themselves, but in front of a quotation mark.
    escaped = re.sub(r'(\\*)("|$)', r"\1\1\2", value).replace('"', '\\"')
    return f'{key}="{escaped}"'


def _quoted_items(key: str, value: str) -> str:
    """A list with those of its items in quotation marks that need them."""
    items = [item.strip() for item in value[1:-1].split(",")]
    texts = [item if _parse(f"x={item}") else _quoted("x", item).partition("=")[2] for item in items]
    return f"{key}=[{','.join(texts)}]"


def _parse(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
