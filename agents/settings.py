"""Settings that say of themselves what they may be and what changing them may change.

A setting is a field of a frozen dataclass. Its annotation holds its type, its limits (`Range`, `Choice`, ...), and what
changing it may change (`Changes`); ``:param`` in the docstring of its class says what it does. From that follow an
agent's arguments with their checks and documentation, the settings of the command line, the tables of the docs, the
names of run folders, and what may change when a run is resumed.
"""

import dataclasses
import enum
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

# ---------------------------------------------------------------------- what a setting may be


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; without `low` itself if it is `exclusive`."""

    low: float
    high: float = float("inf")
    exclusive: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.exclusive else value >= self.low
        return bool(above and value <= self.high)

    def __str__(self) -> str:
        low = f"greater than {self.low:g}" if self.exclusive else f"at least {self.low:g}"
        return low if self.high == float("inf") else f"{low} and at most {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return "one of " + ", ".join(self.words)


@dataclass(frozen=True)
class Auto:
    """The word ``auto``, or ``auto_<number>`` with a number above 0.

    :param says: what the whole setting may be, for the sentences
    """

    says: str

    def __contains__(self, text: str) -> bool:
        start, _, number = text.partition("_")
        try:
            return start == "auto" and (text == "auto" or 0 < float(number) < float("inf"))
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.says


Limit = Range | Choice | Auto


@dataclass(frozen=True)
class Says:
    """What an argument may be, in words of its own, where the type cannot say it."""

    text: str


Count = Annotated[int, Range(1)]  # 1, 2, 3, ...
Amount = Annotated[int, Range(0)]  # 0, 1, 2, ...
Positive = Annotated[float, Range(0, exclusive=True)]
NotNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]

# ---------------------------------------------------------------------- what it changes, and where it goes


class Changes(enum.Enum):
    """What changing a setting may change; a setting that does not say so may change a result."""

    RESULT = "result"  # the trained agent: another folder, and no run is resumed with another value
    MEASUREMENT = "measurement"  # how long it learns and how it is measured: another folder, free to change on resuming
    NOTHING = "nothing"  # neither: the same folder, free to change on resuming


@dataclass(frozen=True)
class Later:
    """A setting that came after runs had been named: at its default it is left out of the name of a run's folder."""


@dataclass(frozen=True)
class Gives:
    """The constructor's argument that a setting of the command line becomes part of."""

    argument: str


IN_POLICY = Gives("policy_kwargs")


@dataclass(frozen=True)
class AgentPreset:
    """An algorithm's settings as the command line has them: what ``agent=`` chooses and ``agent.<name>=`` changes.

    :param algorithm: registered name; ``mtrl list algorithms`` shows them
    :param name: what the settings are called, for the run's folder and tables
    """

    NETWORK: ClassVar[str | None] = None  # the choice of `network` where none is named; None leaves that to the config

    algorithm: str = ""
    name: str = ""

    def arguments(self, num_tasks: int, env_steps: int, copies: int) -> dict[str, Any]:
        """Arguments of the algorithm's constructor.

        :param num_tasks: K
        :param env_steps: of the whole run, over all tasks
        :param copies: environments of each task
        """
        raise NotImplementedError

    def problems(self, num_tasks: int | None = None) -> Iterator[str]:
        """What cannot work, as ends of the sentence that begins with ``agent.``.

        :param num_tasks: K, where it is known
        """
        return iter(())

    def doubts(self, num_tasks: int, env_steps: int) -> Iterator[str]:
        """What works and can hardly be meant, likewise.

        :param num_tasks: K
        :param env_steps: of the whole run, over all tasks
        """
        return iter(())


# ---------------------------------------------------------------------- reading the annotations


def hints(settings: type) -> dict[str, Any]:
    """The annotations of a class of settings by name, with all that they say."""
    found = get_type_hints(settings, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(settings)}


def described(hint: Any, kind: Any) -> Any:
    """What an annotation says of a kind, such as `Range` or `Gives`; None if it says nothing."""
    said = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((entry for entry in said if isinstance(entry, kind)), None)


def bare(hint: Any) -> Any:
    """The type alone."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the one type."""
    hint = bare(hint) if get_origin(bare(hint)) in (types.UnionType, Union) else hint
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


def default_of(settings: type, name: str) -> Any:
    """The default of a setting."""
    field = next(field for field in dataclasses.fields(settings) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def explanations(settings: type) -> dict[str, str]:
    """What every setting does, from the ``:param`` lines of a class and those it is derived from."""
    found: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        for name, said in re.findall(r"^:param (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE):
            found[name] = " ".join(said.split())
    return found


KINDS = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a group of settings",
    tuple: "a list",
    types.NoneType: "null",
}


def kind_of(hint: Any) -> str:
    """What a setting may be, in words: ``a number greater than 0``."""
    base, limit = bare(hint), described(hint, Limit)
    words = KINDS.get(get_origin(base) or base, "a group of settings")
    if isinstance(limit, Choice):
        return str(limit)
    return f"{words} {limit}" if isinstance(limit, Range) else words


@dataclass(frozen=True)
class Setting:
    """One setting, or one group of them.

    :param name: ``seed``; ``group.name`` for what is in a group
    :param hint: its annotation
    :param value: its value, or the group
    :param changes: what changing it may change: what it says itself, or what its group says
    :param unnamed: whether it came later and has its default: the name of a run does not depend on it
    """

    name: str
    hint: Any
    value: Any
    changes: Changes
    unnamed: bool


def walk(settings: Any, prefix: str = "", changes: Changes = Changes.RESULT) -> Iterator[Setting]:
    """Every setting of a dataclass, the groups in it and the settings in these.

    :param settings: an instance
    :param changes: of what says nothing itself
    """
    for name, hint in hints(type(settings)).items():
        value, word = getattr(settings, name), described(hint, Changes) or changes
        unnamed = described(hint, Later) is not None and value == default_of(type(settings), name)
        yield Setting(f"{prefix}{name}", hint, value, word, unnamed)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{name}.", word)
