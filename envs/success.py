"""Which entries of an info say whether an environment succeeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checks import read_flag

SUCCESS_KEYS = ("is_success", "success", "solved")


def success_of(info: Mapping[str, Any]) -> bool | None:
    """What an info says of success; None where it says nothing.

    :raises ContractError: for what is neither true nor false
    """
    said = [read_flag(f"info[{key!r}]", info[key]) for key in SUCCESS_KEYS if info.get(key) is not None]
    return any(said) if said else None
