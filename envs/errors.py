"""The errors of this package, and the did-you-mean used in their sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SuiteError(ValueError):
    """Bad input to a suite: one sentence that repeats the value and says what would be right."""


class EnvironmentFault(RuntimeError):
    """An environment failed while running: it raised, hung, died or returned a value that is not finite.

    The message names the task. The vector environment that raised it is closed: it had no restart left.

    :param rows: the environments concerned, rows of the vector
    """

    def __init__(self, message: str, rows: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class WorkerTraceback(Exception):
    """The traceback of an error that was raised in a worker process, as text: the cause of the error raised here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f"in the worker:\n{self.args[0]}"


class ContractError(EnvironmentFault, SuiteError):
    """An environment returned what its spaces or Gymnasium's interface rule out: a mistake that no restart would mend.

    The message names the task, what was found and what would be right.
    """


_FEW = 12  # names that make a sentence


def did_you_mean(value: object, known: Iterable[str], count: int = 3) -> str:
    """The nearest known names as the end of a sentence; the value itself is never one of them.

    :param value: the name that was not found.
    :param known: the names that would have been right.
    :param count: how many suggestions at most.
    :return: ``"; did you mean 'a' or 'b'?"``, or ``"; known: ..."`` when nothing is near and the names are few.
    """
    names = sorted(name for name in known if name != str(value))
    if not names:
        return ""
    near = difflib.get_close_matches(str(value), names, n=count, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(repr(name) for name in near) + "?"
    if len(names) <= _FEW:
        return "; known: " + ", ".join(names)
    # Without a cutoff there are always as many.
    return "; the nearest are " + ", ".join(difflib.get_close_matches(str(value), names, n=count, cutoff=0.0))
