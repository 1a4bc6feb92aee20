"""Published results to set beside one's own: other people's numbers, each with its source, protocol and seeds.

They are drawn and listed, and enter no statistic: nothing here was measured as the runs of a comparison were.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl.errors import ConfigError, nearest

_SHELF = Path(__file__).parent


@dataclass(frozen=True)
class Reference:
    """A published result.

    :param name: the method
    :param suite: the suite it is of, as it is called here
    :param success: pairs of env steps per task and mean success, 0 to 1
    :param seeds: how many; None if that is not known
    :param protocol: how it was measured
    :param source: where it was published, and how it got here
    """

    name: str
    suite: str
    success: tuple[tuple[int, float], ...]
    seeds: int | None
    protocol: str
    source: str


def list_references() -> list[str]:
    """The names of the collections."""
    return sorted(path.stem for path in _SHELF.glob("*.json"))


def read_references(name: str) -> tuple[Reference, ...]:
    """A collection of published results.

    :raises ConfigError: for a name that none has
    """
    if name not in (known := list_references()):
        raise ConfigError(f"reference must be a collection of published results, found {name!r}{nearest(name, known)}")
    entries = json.loads((_SHELF / f"{name}.json").read_text(encoding="utf-8"))
    return tuple(Reference(**{**entry, "success": _pairs(entry["success"])}) for entry in entries)


def _pairs(points: Sequence[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(steps), float(success)) for steps, success in points)
