"""``agent.zip``: an agent to share and evaluate, in SB3's container, of JSON and tensors alone.

SB3 pickles whatever JSON cannot hold. Here nothing needs it, and a file that asks for unpickling is refused.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file

FORMAT = 1
_FIELDS = {
    "settings": dict,
    "task_names": list,
    "observation_space": dict,
    "action_space": dict,
    "num_timesteps": int,
    "n_updates": int,
}


class AgentFileError(ValueError):
    """A file that is no agent of this toolkit, or not one that can be read safely."""


def write_agent(path: str | Path, data: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """Write an agent; the file appears whole or not at all.

    :param path: ``.zip`` is appended if it is missing
    :param data: what JSON can hold
    :param tensors: state dictionaries by name
    :return: the path written
    :raises AgentFileError: for data that JSON cannot hold; SB3 would pickle it
    """
    try:
        data = json.loads(json.dumps(data, default=_plain))
    except (TypeError, ValueError) as error:
        raise AgentFileError(f"An agent file holds JSON and tensors alone: {error}.") from error
    path = Path(path)
    path = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        save_to_zip_file(file, data={"format": FORMAT, **data}, params=tensors)
    os.replace(partial, path)
    return path


def read_agent(path: str | Path, device: torch.device | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data and tensors of an agent; unpickles nothing.

    :raises AgentFileError: if the file is missing, broken, newer than this version, or holds a pickle
    """
    path = Path(path)
    if not path.exists() and path.suffix != ".zip":
        path = path.with_name(path.name + ".zip")
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
        # `load_data=False`: SB3 would unpickle parts of `data`; tensors it reads with `weights_only=True`.
        _, tensors, _ = load_from_zip_file(path, load_data=False, device=device)
    except FileNotFoundError as error:
        raise AgentFileError(f"There is no agent at {path}.") from error
    except Exception as error:  # whatever a broken or hostile file provokes in zip, JSON or tensor readers
        raise AgentFileError(f"{path} cannot be read as an agent ({type(error).__name__}: {error}).") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise AgentFileError(f"{path} is no agent file of format {FORMAT}, its format is {found!r}.")
    for name, kind in _FIELDS.items():
        if not isinstance(data.get(name), kind):
            raise AgentFileError(f"{path} is no whole agent file: '{name}' is missing or of the wrong kind.")
    return data, tensors


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy and torch as JSON holds them."""
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    raise TypeError(f"{value!r} is neither")


def space_to_json(space: spaces.Box) -> dict[str, Any]:
    """A bounded or unbounded Box as JSON."""
    return {"low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}


def space_from_json(data: dict[str, Any]) -> spaces.Box:
    """The Box that `space_to_json` wrote."""
    dtype = np.dtype(data["dtype"])
    return spaces.Box(np.array(data["low"], dtype), np.array(data["high"], dtype), dtype=dtype.type)
