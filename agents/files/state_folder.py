"""A folder that holds an agent, its replay buffer and its environments at one moment, to resume `learn` from.

JSON, plain arrays and tensors; nothing is unpickled. A run of the command line has checkpoints instead
(`mtrl.checkpoint`), which share unchanged files and are checked against digests.
"""

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.files.agent_file import AgentFileError
from agents.files.untrusted import UntrustedError, read_json, read_tensors
from agents.replay import TaskReplayBuffer

FORMAT = 1
_AGENT, _REPLAY, _STATE = "agent.pt", "replay.npy", "state.json"


def write_state(folder: Path, agent: dict[str, Any], buffer: TaskReplayBuffer | None, environments: Any) -> None:
    """Write the folder; it appears whole or not at all, and takes the place of an older one.

    :param agent: what `MultiTaskAlgorithm.state` gave
    :param buffer: of an algorithm that learns from old transitions
    :param environments: JSON-able state of the environments
    :raises AgentFileError: where something else has this name
    """
    if folder.exists() and not (folder / _STATE).is_file():
        raise AgentFileError(f"{folder} exists and is no saved state: choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tensors = io.BytesIO()
        torch.save(agent, tensors)
        (draft / _AGENT).write_bytes(tensors.getbuffer())
        state: dict[str, Any] = {"format": FORMAT, "environments": environments, "replay": None}
        if buffer is not None:
            first = buffer.stored - buffer.filled
            np.save(draft / _REPLAY, buffer.rows_between(first, buffer.stored), allow_pickle=False)
            state["replay"] = {
                "first": first.tolist(),
                "stored": buffer.stored.tolist(),
                "capacity": buffer.capacity,
            }
        (draft / _STATE).write_text(json.dumps(state), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The agent's state, and the rest: the environments and which transitions the replay buffer holds.

    :raises AgentFileError: for a folder that holds no state, or not one that can be read safely
    """
    if not (folder / _STATE).is_file():
        raise AgentFileError(f"{folder} is no folder that save_state wrote.")
    try:
        rest = read_json((folder / _STATE).read_bytes())
        if not isinstance(rest, dict) or rest.get("format") != FORMAT:
            raise UntrustedError(f"it is not of format {FORMAT}")
        return read_tensors((folder / _AGENT).read_bytes(), f"'{_AGENT}'", finite=False), rest
    except (UntrustedError, OSError) as error:
        raise AgentFileError(f"{folder} cannot be read as a saved state: {error}.") from error


def fill(buffer: TaskReplayBuffer, folder: Path, replay: dict[str, Any]) -> None:
    """Put the transitions of a folder back.

    :param replay: which ones they are, from `read_state`
    :raises ConfigurationError: for transitions that do not fit the ring
    """
    first, stored = (np.array(replay[name], dtype=np.int64) for name in ("first", "stored"))
    with (folder / _REPLAY).open("rb") as file:  # not numpy.load, which would take an archive too
        rows = np.lib.format.read_array(file, allow_pickle=False)
    buffer.put_back(first, stored, rows)
    buffer.resume(stored, int(replay["capacity"]))
