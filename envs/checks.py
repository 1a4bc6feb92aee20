"""Checks of arguments: each refuses a bad value in one sentence that repeats it and says what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from .errors import ContractError, SuiteError, did_you_mean


def check_seed(seed: Any) -> int:
    """The seed as an int.

    :raises SuiteError: when it is not an integer of at least 0.
    """
    check_integer("seed", seed, least=0)
    return int(seed)


def check_integer(name: str, value: Any, least: int) -> None:
    """:raises SuiteError: when ``value`` is not an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise SuiteError(f"{name} must be an integer of at least {least}, found {value!r}")


def check_number(name: str, value: Any, least: float, most: float = np.inf) -> None:
    """:raises SuiteError: when ``value`` is not a finite number from ``least`` to ``most``."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and np.isfinite(value)
    if not number or not least <= value <= most:
        span = f"of at least {least:g}" if most == np.inf else f"from {least:g} to {most:g}"
        raise SuiteError(f"{name} must be a finite number {span}, found {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """:raises SuiteError: when ``value`` is none of ``choices``."""
    if value not in choices:
        known = " or ".join(repr(choice) for choice in choices)
        raise SuiteError(f"{name} must be {known}, found {value!r}")


def check_horizon(horizon: Any, most: int | None, suite: str) -> None:
    """:raises SuiteError: when ``horizon`` is not a number of steps from 1 to ``most``."""
    check_integer("horizon", horizon, least=1)
    if most is not None and horizon > most:
        raise SuiteError(
            f"horizon must be at most {most} in suite {suite!r} (its simulator stops there), found {horizon}"
        )


def check_task_names(names: Any, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """A list of task names as a tuple.

    :raises SuiteError: when it is empty, holds a duplicate, or a name that is not in ``known``.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or len(names) == 0:
        raise SuiteError(f"tasks must be a list of at least one task, found {names!r}")
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise SuiteError(f"a task's name must be text, found {name!r}")
        if known is not None and name not in known:
            raise SuiteError(f"unknown task {name!r}{did_you_mean(name, known)}")
        if name in names[:position]:
            raise SuiteError(f"task {name!r} is listed twice; each task may appear once (use copies for more of it)")
    return tuple(names)


def read_flag(what: str, value: Any) -> bool:
    """What an environment says by true or false, 1 or 0.

    :raises ContractError: for anything else: the truth of NaN, of text and of a part of a success is a guess.
    """
    if value is True or value is False:
        return bool(value)
    number = as_numbers(value)
    if number is not None and number.size == 1 and number.item() in (0, 1):
        return bool(number.item())
    raise ContractError(f"returned {what} = {value!r:.80}, which must be true or false")


def as_numbers(found: Any) -> np.ndarray | None:
    """As an array; None for what is none, or one of anything but real numbers."""
    try:
        numbers = np.asarray(found)
    except ValueError:  # rows of unequal length
        return None
    return numbers if numbers.dtype.kind in "fiub" else None


def check_actions(who: str, action: Any) -> spaces.Box:
    """A space of actions that a policy can be scaled to.

    :raises SuiteError: for one that is discrete, of integers or without bounds
    """
    if not isinstance(action, spaces.Box):
        raise SuiteError(f"{who} has actions {action}; only continuous (Box) actions are supported")
    if action.dtype.kind != "f":
        raise SuiteError(f"{who} has integer actions {action}; only continuous actions are supported")
    if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
        raise SuiteError(
            f"{who} has unbounded actions {action}; give them finite bounds, for example with "
            "gymnasium.wrappers.TransformAction"
        )
    return action
