"""Copies of nested state that later training cannot reach."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


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
