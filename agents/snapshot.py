"""Copies of nested state that later training cannot reach."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger


def copied(value: Any) -> Any:
    """The same nesting of plain dictionaries, lists and tuples; tensors copied to the host, numbers as Python's.

    :raises TypeError: for what is no tensor, number, text, boolean or None
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: copied(entry) for key, entry in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return tuple(copied(entry) for entry in value)
    if hasattr(value, "__iter__"):
        return [copied(entry) for entry in value]
    raise TypeError(f"state holds tensors, numbers and text, found {type(value).__name__}")


def log_state(logger: Logger) -> dict[str, Any]:
    """Numbers and texts that were recorded, and wait for the next line of the log."""
    values = {name: value for name, value in logger.name_to_value.items() if np.isscalar(value)}
    return {
        "values": copied(values),
        "counts": {name: logger.name_to_count[name] for name in values},
        "excluded": {name: copied(logger.name_to_excluded[name]) for name in values},
    }


def load_log_state(logger: Logger, state: dict[str, Any]) -> None:
    """Undo `log_state`."""
    logger.name_to_value.update(state["values"])
    logger.name_to_count.update(state["counts"])
    logger.name_to_excluded.update(state["excluded"])
