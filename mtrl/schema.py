"""Plain dict -> frozen dataclass, field by field; an unknown key, wrong type or bad value is one sentence."""

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

from agents.errors import called_here
from agents.settings import KINDS, Choice, Limit, bare, described, hints, kind_of
from mtrl.errors import ConfigError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def parse(cls: type[T], values: Any, path: str = "") -> T:
    """Build a dataclass from a plain dict.

    :param cls: a dataclass whose annotations say what each field takes
    :param values: the dict; missing keys take the dataclass's defaults
    :param path: where the dict sits in the whole config, for the sentences
    :raises ConfigError: naming the key, the bad value and what would be right
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'The config'} must be a group of settings, found {values!r}.")
    known = hints(cls)
    for key in values:
        if key not in known:
            raise _unknown_key(_join(path, str(key)), [_join(path, name) for name in known])
    return cls(**{key: _convert(known[key], value, _join(path, key)) for key, value in values.items()})


def _unknown_key(key: str, known: list[str]) -> ConfigError:
    return ConfigError(f"Unknown setting '{key}'{nearest_setting(key, known)}")


def nearest_setting(key: str, known: list[str]) -> str:
    """``; did you mean 'agent.tau'?`` for the setting that comes nearest to ``agent.taw`` or to a bare ``tau``."""
    # The last part decides: a long common path would make every sibling look near.
    known = [name for name in known if name != key]
    last = called_here(key.rpartition(".")[2])
    close = difflib.get_close_matches(last, [name.rpartition(".")[2] for name in known], n=1, cutoff=0.5)
    if not close:
        return nearest(key, known)
    same_end = [name for name in known if name.rpartition(".")[2] == close[0]]
    best = difflib.get_close_matches(key, same_end, n=1, cutoff=0.0)[0]
    return f"; did you mean '{best}'?"


def setting_names(cls: Any, path: str = "") -> list[str]:
    """Every setting of a dataclass and the dataclasses inside it, as ``group.name``."""
    names: list[str] = []
    for name, hint in hints(cls).items():
        names.append(_join(path, name))
        if is_dataclass(bare(hint)):
            names += setting_names(bare(hint), _join(path, name))
    return names


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _convert(hint: Any, value: Any, path: str) -> Any:
    """The value as the annotation wants it."""
    if get_origin(hint) is Annotated:
        limit = described(hint, Limit)
        converted = _convert(bare(hint), value, path)
        if limit is not None and converted not in limit:
            hint_text = nearest(value, limit.words) if isinstance(limit, Choice) else "."
            raise ConfigError(f"{path} must be {limit}, found {value!r}{hint_text}".replace("..", "."))
        return converted
    if get_origin(hint) in (types.UnionType, Union):
        return _convert_union(get_args(hint), value, path)
    if isinstance(hint, type) and is_dataclass(hint):
        return value if isinstance(value, hint) else parse(hint, value, path)
    if get_origin(hint) is tuple:
        if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{path} must be a list, found {value!r}.")
        return tuple(_convert(get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a group of settings, found {value!r}.")
        return dict(value)
    return _convert_scalar(hint, value, path)


def convert_scalar(hint: Any, value: Any, path: str) -> Any:
    """The value as an annotation outside a config wants it; unchanged where that is no number, text or boolean.

    :param path: where the value stands in the config, for the sentence
    :raises ConfigError: naming the setting, the bad value and what would be right
    """
    return _convert_scalar(hint, value, path) if hint in (int, float, str, bool) else value


def _convert_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first alternative that takes the value; a value of the right type but out of range is reported as such."""
    if value is None and types.NoneType in options:
        return None
    options = tuple(option for option in options if option is not types.NoneType)
    if len(options) == 1:
        return _convert(options[0], value, path)
    for option in options:
        if _fits(bare(option), value):
            return _convert(option, value, path)
    raise ConfigError(f"{path} must be {' or '.join(map(kind_of, options))}, found {value!r}.")


def _convert_scalar(kind: type, value: Any, path: str) -> Any:
    if not _fits(kind, value):
        raise ConfigError(f"{path} must be {KINDS[kind]}, found {value!r}.")
    return kind(value)


def _fits(kind: type, value: Any) -> bool:
    """Whether a scalar is of a kind; 2e6 is an integer, true is not."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    if get_origin(kind) is tuple:
        return isinstance(value, (list, tuple))
    return isinstance(value, kind)
