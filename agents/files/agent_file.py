"""``agent.zip``: an agent to share and evaluate, in SB3's container, of JSON and tensors alone.

SB3 pickles whatever JSON cannot hold. Here nothing needs it, and a file that asks for unpickling is refused.
"""

import json
import os
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.save_util import save_to_zip_file

from agents.files.untrusted import UntrustedError, read_archive, read_json, read_tensors

FORMAT = 1
_FIELDS = {
    "settings": dict,
    "task_names": list,
    "observation_space": dict,
    "action_space": dict,
    "num_timesteps": int,
    "n_updates": int,
    "parts": list,
}


class AgentFileError(ValueError):
    """A file that is no agent of this toolkit, or not one that can be read safely."""


def write_agent(
    path: str | Path | BufferedIOBase, data: dict[str, Any], tensors: dict[str, Any]
) -> Path | BufferedIOBase:
    """Write an agent; a file of a name appears whole or not at all.

    :param path: ``.zip`` is appended if it is missing; or an open file that takes bytes
    :param data: what JSON can hold
    :param tensors: state dictionaries by name
    :return: the path written, or the open file
    :raises AgentFileError: for data that JSON cannot hold; SB3 would pickle it
    """
    try:
        data = json.loads(json.dumps(data, default=_plain))
    except (TypeError, ValueError) as error:
        raise AgentFileError(f"An agent file holds JSON and tensors alone: {error}.") from error
    data = {"format": FORMAT, **data, "parts": sorted(tensors)}
    if not isinstance(path, (str, os.PathLike)):
        save_to_zip_file(path, data=data, params=tensors)
        return path
    path = Path(path)
    path = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            save_to_zip_file(file, data=data, params=tensors)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # of a disk without room
    return path


def read_agent(path: str | Path | BufferedIOBase) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data and tensors of an agent, on the host; unpickles nothing and writes nothing, whatever the file holds.

    :raises AgentFileError: if the file is missing, broken, newer than this version, or holds anything else
    """
    if isinstance(path, (str, os.PathLike)):
        path = Path(path)
        if not path.exists() and path.suffix != ".zip":
            path = path.with_name(path.name + ".zip")
        if not path.exists():
            raise AgentFileError(f"There is no agent at {path}.")
    try:
        members = read_archive(path)
        if "data" not in members:
            raise UntrustedError("it holds no 'data'")
        data = read_json(members["data"])
        names = [name for name in members if name.endswith(".pth")]
        tensors = {name.removesuffix(".pth"): read_tensors(members[name], f"'{name}'") for name in names}
    except UntrustedError as error:
        raise AgentFileError(f"{path} cannot be read as an agent: {error}.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise AgentFileError(f"{path} is no agent file of format {FORMAT}, its format is {found!r:.40}.")
    for name, kind in _FIELDS.items():
        if not isinstance(data.get(name), kind) or isinstance(data[name], bool):
            raise AgentFileError(f"{path} is no whole agent file: '{name}' is missing or of the wrong kind.")
    # A directory that lost an entry is a valid one: only the agent knows what belongs to it.
    if sorted(tensors) != data["parts"]:
        odd = sorted(map(str, set(tensors).symmetric_difference(map(str, data["parts"]))))
        raise AgentFileError(f"{path} does not fit the agent it describes: one of the two lacks {odd!r:.200}.")
    return data, tensors


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy and torch as JSON holds them."""
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    raise TypeError(f"{value!r} is neither")


def sizes_from_file(data: Mapping[str, Any]) -> tuple[int, ...]:
    """Numbers of an action of each task; older files, whose tasks all have A, do not say.

    :raises ValueError: for another number of tasks
    """
    tasks, largest = len(data["task_names"]), len(data["action_space"]["low"])
    sizes = data.get("action_sizes", [largest] * tasks)
    if not isinstance(sizes, list) or len(sizes) != tasks:
        raise ValueError(f"'action_sizes' must be a list of {tasks} numbers, found {sizes!r:.80}")
    return tuple(sizes)


def space_to_json(space: spaces.Box) -> dict[str, Any]:
    """A bounded or unbounded Box as JSON."""
    return {"low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}


def space_from_json(data: dict[str, Any]) -> spaces.Box:
    """The Box that `space_to_json` wrote.

    :raises ValueError: for bounds that are no bounds
    """
    dtype = np.dtype({"float32": np.float32, "float64": np.float64}[data["dtype"]])
    low, high = (np.array(data[name], dtype) for name in ("low", "high"))
    if low.ndim != 1 or low.shape != high.shape or not (low <= high).all():
        raise ValueError(f"bounds must be two lists of numbers, the lower first, found {low.shape} and {high.shape}")
    return spaces.Box(low, high, dtype=dtype.type)
