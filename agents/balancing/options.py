"""Checks of balancer options; every error names the method, the option and the value."""

import math
from numbers import Real

from agents.errors import ConfigurationError


def require_positive(method: str, **options: float) -> None:
    """:raises ConfigurationError: for an option that is not a finite number above zero"""
    for name, value in options.items():
        if not (_is_finite(value) and value > 0):
            raise ConfigurationError(f"{method}: {name} must be a positive number, found {value!r}.")


def require_not_negative(method: str, **options: float) -> None:
    """:raises ConfigurationError: for an option that is not a finite number of at least zero"""
    for name, value in options.items():
        if not (_is_finite(value) and value >= 0):
            raise ConfigurationError(f"{method}: {name} must be a number of at least 0, found {value!r}.")


def _is_finite(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def require_whole(method: str, at_least: int, **options: int) -> None:
    """:raises ConfigurationError: for an option that is no whole number of at least `at_least`"""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise ConfigurationError(
                f"{method}: {name} must be a whole number of at least {at_least}, found {value!r}."
            )


def require_share(method: str, **options: float) -> None:
    """:raises ConfigurationError: for an option that is not a number between zero and one"""
    for name, value in options.items():
        if not (_is_finite(value) and 0 <= value <= 1):
            raise ConfigurationError(f"{method}: {name} must lie between 0 and 1, found {value!r}.")
