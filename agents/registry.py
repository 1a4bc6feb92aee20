"""What users choose by name: balancers, networks, critics, algorithms."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agents.errors import ConfigurationError, unknown_name

Made = TypeVar("Made", covariant=True)


@dataclass(frozen=True)
class Record(Generic[Made]):
    """One entry of a registry, as ``mtrl list`` prints it.

    :param name: what users type
    :param summary: one sentence about it
    :param options: what a user can set of it
    :param make: builds one from what the agent gives it and these options
    """

    name: str
    summary: str
    options: frozenset[str]
    make: Callable[..., Made]

    @property
    def module(self) -> str:
        """The module that registered it."""
        return self.make.__module__

    @property
    def defaults(self) -> dict[str, Any]:
        """What its options are where nobody sets them; without those that must be set."""
        parameters = inspect.signature(self.declaration).parameters
        found = {name: parameters[name].default for name in sorted(self.options & parameters.keys())}
        return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}

    @property
    def declaration(self) -> Callable[..., Any]:
        """What has the options as its parameters."""
        return self.make


Entry = TypeVar("Entry", bound=Record[Any])


class Registry(Mapping[str, Entry]):
    """Records by the names that users type; iterates in the order of registration.

    :param kind: what an entry is, as the error sentences say it: ``network``
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._records: dict[str, Entry] = {}

    def add(self, record: Entry) -> None:
        """Make an entry known.

        :raises ConfigurationError: if its name is taken
        """
        self.refuse_taken(record.name)
        self._records[record.name] = record

    def refuse_taken(self, name: str) -> None:
        """:raises ConfigurationError: for a name that is registered"""
        if name in self._records:
            article = "An" if self.kind[0] in "aeiou" else "A"
            raise ConfigurationError(f"{article} {self.kind} named '{name}' is registered already.")

    def find(self, name: str) -> Entry:
        """The record of a name that a user typed.

        :raises ConfigurationError: for an unknown name, with the nearest known one
        """
        if name not in self._records:
            raise unknown_name(self.kind, name, self._records)
        return self._records[name]

    def listed(self) -> list[Entry]:
        """All records, in alphabetical order of their names."""
        return [self._records[name] for name in sorted(self._records)]

    def refuse_options(self, name: str, given: Iterable[str]) -> None:
        """:raises ConfigurationError: for an option that an entry does not have, with the nearest one that it has"""
        known = self.find(name).options
        for option in given:
            if option not in known:
                raise unknown_name(f"option of {self.kind} '{name}'", option, known)

    def __getitem__(self, name: str) -> Entry:
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def describe(name: str, make: Callable[..., Made], settled: Iterable[str]) -> Record[Made]:
    """The record of a class: its docstring's first line, and the parameters that are left to users.

    :param settled: parameters that the agent gives
    """
    summary = (inspect.getdoc(make) or "").partition("\n")[0]
    return Record(name, summary, frozenset(inspect.signature(make).parameters) - set(settled), make)
