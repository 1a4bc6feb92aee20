"""The replay buffer as immutable files: a checkpoint writes what is new, and links the files of the one before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.errors import ConfigurationError
from agents.replay import TaskReplayBuffer

# The newest file is rewritten while it holds less than this part of the ring, so that files stay few.
_SMALL = 1 / 32


@dataclass(frozen=True)
class Chunk:
    """Transitions number ``first[k]`` to ``last[k] - 1`` of every task k, counted from the first that was ever stored.

    :param first: ``[K]``
    :param last: ``[K]``
    """

    first: tuple[int, ...]
    last: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"replay-{sum(self.first):012d}-{sum(self.last):012d}.npy"


@dataclass(frozen=True)
class ReplaySnapshot:
    """A ring at one moment.

    :param stored: transitions ever stored of each task ``[K]``
    :param capacity: transitions per task
    :param kept: chunks of the checkpoint before that still hold transitions of the ring
    :param new: the chunk to be written; None if nothing was stored since
    :param rows: its transitions, a copy
    """

    stored: tuple[int, ...]
    capacity: int
    kept: tuple[Chunk, ...]
    new: Chunk | None
    rows: np.ndarray | None

    def to_json(self) -> dict[str, Any]:
        """What a manifest holds of it."""
        chunks = [*self.kept, *([] if self.new is None else [self.new])]
        return {
            "stored": list(self.stored),
            "capacity": self.capacity,
            "chunks": [{"first": list(chunk.first), "last": list(chunk.last)} for chunk in chunks],
        }


# Of an agent that keeps no transitions: a ring of no task.
NO_REPLAY = ReplaySnapshot((), 0, (), None, None)


def chunks_from_json(replay: dict[str, Any]) -> tuple[Chunk, ...]:
    """The chunks of a manifest, oldest first."""
    return tuple(Chunk(tuple(chunk["first"]), tuple(chunk["last"])) for chunk in replay["chunks"])


def refuse_gaps(replay: dict[str, Any]) -> None:
    """Refuse chunks that do not hold every transition of the ring, one after the other.

    :param replay: what `ReplaySnapshot.to_json` gave, or somebody else
    :raises ValueError: saying which is the first
    """
    stored = np.array(replay["stored"], dtype=np.int64)
    oldest = np.maximum(stored - int(replay["capacity"]), 0)
    reached = np.zeros_like(stored)
    for number, chunk in enumerate(chunks_from_json(replay)):
        first, last = np.array(chunk.first, dtype=np.int64), np.array(chunk.last, dtype=np.int64)
        whole = first.shape == last.shape == stored.shape and bool(((first >= 0) & (first <= last)).all())
        if not whole or bool((first > np.maximum(reached, oldest)).any()):
            raise ValueError(f"chunk {number} of the replay buffer does not follow what comes before it")
        reached = last
    if (reached != stored).any():
        raise ValueError(f"the chunks of the replay buffer end at {reached.tolist()} instead of {stored.tolist()}")


def snapshot(buffer: TaskReplayBuffer, before: Sequence[Chunk]) -> ReplaySnapshot:
    """Copy what is new in a ring; nothing that training does afterwards changes the copy.

    :param before: chunks of the checkpoint before, oldest first
    """
    stored = buffer.stored
    oldest = np.maximum(stored - buffer.capacity, 0)  # what comes before it is overwritten
    kept = [chunk for chunk in before if (np.array(chunk.last) > oldest).any()]
    first = np.maximum(kept[-1].last, oldest) if kept else oldest
    new, rows = None, None
    if (stored > first).any():
        if kept and max(np.subtract(kept[-1].last, kept[-1].first)) < _SMALL * buffer.capacity:
            first = np.maximum(kept.pop().first, oldest)
        new, rows = Chunk(tuple(first.tolist()), tuple(stored.tolist())), buffer.rows_between(first, stored)
    return ReplaySnapshot(tuple(stored.tolist()), buffer.capacity, tuple(kept), new, rows)


def restore(buffer: TaskReplayBuffer, replay: dict[str, Any], read: Callable[[str], np.ndarray]) -> None:
    """Fill a ring from the chunks of a manifest.

    :param replay: what `ReplaySnapshot.to_json` gave
    :param read: gives the rows of a file by its name
    :raises ConfigurationError: for transitions that do not fit the ring
    """
    if len(replay["stored"]) != buffer.num_tasks:
        raise ConfigurationError(
            f"A replay buffer of {buffer.num_tasks} tasks was expected, found one of {len(replay['stored'])}."
        )
    for chunk in chunks_from_json(replay):
        buffer.put_back(np.array(chunk.first), np.array(chunk.last), read(chunk.name))
    buffer.resume(np.array(replay["stored"]), replay["capacity"])
