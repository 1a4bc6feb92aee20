"""What users choose by name: balancers, networks, critics, algorithms."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from agents.errors import ConfigurationError, unknown_name

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """Entries by the names that users type; iterates in the order of registration.

    :param kind: what an entry is, as the error sentences say it: ``network``
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Make an entry known by a name.

        :raises ConfigurationError: if the name is taken
        """
        if name in self._entries:
            article = "An" if self.kind[0] in "aeiou" else "A"
            raise ConfigurationError(f"{article} {self.kind} named '{name}' is registered already.")
        self._entries[name] = entry

    def find(self, name: str) -> Entry:
        """The entry of a name that a user typed.

        :raises ConfigurationError: for an unknown name, with the nearest known one
        """
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def listed(self) -> list[Entry]:
        """All entries, in alphabetical order of their names."""
        return [self._entries[name] for name in sorted(self._entries)]

    def refuse_options(self, name: str, given: Iterable[str], known: Iterable[str]) -> None:
        """:raises ConfigurationError: for an option of an entry that is not known, with the nearest one that is"""
        for option in given:
            if option not in known:
                raise unknown_name(f"option of {self.kind} '{name}'", option, known)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def option_names(make: Callable[..., Any], settled: Iterable[str]) -> frozenset[str]:
    """What a user can set of an entry.

    :param make: builds it
    :param settled: parameters that the agent decides
    """
    return frozenset(inspect.signature(make).parameters) - set(settled)


def summary_of(entry: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(entry) or "").partition("\n")[0]
