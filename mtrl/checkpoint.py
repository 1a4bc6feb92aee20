"""A paused run on disk, ``checkpoints/step-<n>/``: whole or not there, checksummed, read without running its code.

``agent.pt`` holds networks, optimisers, balancers, generators (read with ``weights_only=True``), ``replay-*.npy`` the
transitions (``allow_pickle=False``), ``state.json`` environments, clocks and the position in ``metrics.jsonl``,
``config.json`` the settings. ``manifest.json``, written last, has the size and SHA-256 of each.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch

from agents.files.untrusted import read_tensors
from mtrl.errors import CheckpointError
from mtrl.provenance import versions
from mtrl.replay_chunks import Chunk, ReplaySnapshot, chunks_from_json, refuse_gaps

FORMAT = 1
MANIFEST, STATE, CONFIG, AGENT = "manifest.json", "state.json", "config.json", "agent.pt"

Contents = dict[str, Any]  # "state", "config" and "agent" of a checkpoint
# From the contents of format n to those of format n + 1.
MIGRATIONS: dict[int, Callable[[Contents], Contents]] = {}

_FOLDER = re.compile(r"step-(\d+)")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment, in memory of its own.

    :param env_steps: transitions made
    :param exact: whether resuming from here gives the numbers of a run that was never stopped
    :param score: mean success of the latest evaluation; None before the first
    :param config: the run's settings
    :param state: what JSON can hold
    :param agent: nested dictionaries of tensors and numbers
    :param replay: the ring
    """

    env_steps: int
    exact: bool
    score: float | None
    config: dict[str, Any]
    state: dict[str, Any]
    agent: dict[str, Any]
    replay: ReplaySnapshot


class Checkpoint:
    """A checkpoint on disk.

    :param path: its folder
    :raises CheckpointError: for a manifest that is missing, broken or of a newer version
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = self._read_manifest()

    @property
    def env_steps(self) -> int:
        """Transitions made."""
        return self.manifest["env_steps"]

    @property
    def exact(self) -> bool:
        """Whether resuming from here gives the numbers of a run that was never stopped."""
        return self.manifest["exact"]

    @property
    def score(self) -> float:
        """Mean success of the evaluation before it; -1 without one."""
        score = self.manifest["score"]
        return -1.0 if score is None else score

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The files of its replay buffer, oldest first."""
        return chunks_from_json(self.manifest["replay"])

    def verify(self) -> None:
        """Compare every file with the manifest.

        :raises CheckpointError: naming the first file that differs, and how
        """
        files = self.manifest["files"]
        for name in (AGENT, STATE, CONFIG, *(chunk.name for chunk in self.chunks)):
            if name not in files:
                raise self._broken(MANIFEST, f"does not list {name}")
        for name, record in files.items():
            path = self.path / name
            if not _FILE.fullmatch(name) or not path.is_file():
                raise self._broken(name, "is missing")
            size = path.stat().st_size
            if size != record["bytes"]:
                raise self._broken(name, f"has {size:,} bytes instead of {record['bytes']:,}")
            if _sha256_of(path) != record["sha256"]:
                raise self._broken(name, "is not what was written (its SHA-256 differs)")

    def read(self) -> Contents:
        """State, config and agent, brought to the format of this version; nothing is unpickled that could run code.

        :raises CheckpointError: for a file that cannot be read
        """
        contents: Contents = {}
        for key, name in (("state", STATE), ("config", CONFIG)):
            contents[key] = self._reading(name, _read_json)
        contents["agent"] = self._reading(AGENT, _read_tensors)
        for version in range(self.manifest["format"], FORMAT):
            if version not in MIGRATIONS:
                raise CheckpointError(f"'{self.path}' has format {version}, older than any that can be read here.")
            contents = MIGRATIONS[version](contents)
        return contents

    def rows(self, name: str) -> np.ndarray:
        """The transitions of one file of the replay buffer."""
        return self._reading(name, _read_rows)

    def _reading(self, name: str, read: Callable[[Path], Any]) -> Any:
        try:
            return read(self.path / name)
        except Exception as error:  # whatever a broken or hostile file provokes in the readers
            raise self._broken(name, f"cannot be read ({type(error).__name__}: {error})") from error

    def _read_manifest(self) -> dict[str, Any]:
        if not (self.path / MANIFEST).is_file():
            raise self._broken(MANIFEST, "is missing")
        manifest = self._reading(MANIFEST, _read_json)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
            raise self._broken(MANIFEST, "cannot be read (it says no format)")
        if manifest.pop("sha256", None) != _seal(manifest):
            raise self._broken(MANIFEST, "is not what was written (its SHA-256 differs)")
        if manifest["format"] > FORMAT:
            raise NewerCheckpoint(
                f"'{self.path}' has format {manifest['format']} and this version reads up to {FORMAT}: "
                f"it was written by mtrl-toolkit {manifest.get('versions', {}).get('mtrl-toolkit')}."
            )
        try:
            _refuse_odd_form(manifest)
        except Exception as error:  # a seal keeps off damage, not malice: whatever a forged one provokes
            raise self._broken(MANIFEST, f"is none ({type(error).__name__}: {error})") from error
        return manifest

    def _broken(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"Checkpoint '{self.path}' cannot be used: {name} {what}.")


class NewerCheckpoint(CheckpointError):
    """A checkpoint of a newer version of the toolkit: not broken, and not to be skipped."""


class CheckpointStore:
    """The checkpoints of one run, and which of them are kept.

    :param path: the folder that holds them
    :param keep: how many of the newest are kept; the best one is kept beside them
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path, self.keep = path, keep
        self.latest: Checkpoint | None = None  # written or chosen last: the next one links its files

    def folders(self) -> list[Path]:
        """All checkpoints, the newest first, whether they are whole or not."""
        if not self.path.is_dir():
            return []
        found = [(int(match[1]), path) for path in self.path.iterdir() if (match := _FOLDER.fullmatch(path.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def newest_env_steps(self) -> int | None:
        """Transitions that the newest checkpoint was made after, by its name; None if there is none."""
        names = [path.name for path in self.folders()]
        return int(names[0].removeprefix("step-")) if names else None

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole, to resume from; broken ones are reported and set aside.

        :param warn: is told one sentence for each broken checkpoint
        :raises CheckpointError: for one of a newer version
        """
        for path in self.folders():
            try:
                checkpoint = Checkpoint(path)
                checkpoint.verify()
            except NewerCheckpoint:
                raise
            except CheckpointError as error:
                warn(str(error))
                path.rename(_unused(path.with_name(f"{path.name}.broken")))
                continue
            self.latest = checkpoint
            return checkpoint
        return None

    def clean(self) -> None:
        """Remove what a process that died left half-written or half-removed."""
        if self.path.is_dir():
            for path in self.path.glob(".*"):
                shutil.rmtree(path, ignore_errors=True)

    def write(self, snapshot: Snapshot) -> Checkpoint:
        """Write a checkpoint; it appears whole or not at all, and those that are not kept go.

        :raises OSError: if it could not be written; those before are as they were
        """
        self.path.mkdir(parents=True, exist_ok=True)
        name = f"step-{snapshot.env_steps:012d}"
        draft, final = self.path / f".{name}.partial", self.path / name
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            _fill(draft, snapshot, self.latest)
            _remove(final)
            draft.rename(final)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, FileNotFoundError):
                self.latest = None  # somebody removed what was to be linked: the next one links nothing
            raise
        _sync_folder(self.path)
        self.latest = Checkpoint(final)
        self.prune()
        return self.latest

    def remove(self, path: Path) -> None:
        """Remove one of the checkpoints so that none of it is ever seen half."""
        _remove(path)

    def prune(self) -> None:
        """Remove all but the newest and the best."""
        whole = list(self._readable())
        best = max(whole, key=_by_score, default=None)
        for checkpoint in whole[self.keep :]:
            if checkpoint is not best:
                _remove(checkpoint.path)

    def _readable(self) -> Iterator[Checkpoint]:
        for path in self.folders():
            try:
                yield Checkpoint(path)
            except CheckpointError:
                continue  # reported when a run resumes from here


def _by_score(checkpoint: Checkpoint) -> tuple[float, int]:
    return checkpoint.score, checkpoint.env_steps


def _fill(folder: Path, snapshot: Snapshot, parent: Checkpoint | None) -> None:
    """Write the files of a checkpoint, the manifest last."""
    files: dict[str, dict[str, Any]] = {}
    replay = snapshot.replay
    for chunk in replay.kept:
        assert parent is not None
        files[chunk.name] = parent.manifest["files"][chunk.name]
        _link(parent.path / chunk.name, folder / chunk.name, files[chunk.name]["bytes"])
    if replay.new is not None:
        assert replay.rows is not None
        with NewFile(folder / replay.new.name) as file:
            np.save(file, replay.rows, allow_pickle=False)
        files[replay.new.name] = file.record
    tensors = io.BytesIO()  # torch's own writer does not survive a full disk
    torch.save(snapshot.agent, tensors)
    contents = {
        AGENT: tensors.getbuffer(),
        STATE: json.dumps(snapshot.state).encode(),
        CONFIG: json.dumps(snapshot.config, indent=1).encode(),
    }
    for name, data in contents.items():
        with NewFile(folder / name) as file:
            file.write(data)
        files[name] = file.record
    manifest = {
        "format": FORMAT,
        "env_steps": snapshot.env_steps,
        "exact": snapshot.exact,
        "score": snapshot.score,
        "versions": versions(),
        "replay": replay.to_json(),
        "files": files,
    }
    with NewFile(folder / MANIFEST) as file:
        file.write(json.dumps({**manifest, "sha256": _seal(manifest)}, indent=1).encode())
    _sync_folder(folder)


class NewFile:
    """A file that is on the disk when it is closed, and knows its size and SHA-256 then."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: Any) -> int:
        """Append bytes, or anything that has a buffer of them."""
        self._file.write(data)
        self._digest.update(data)
        size = memoryview(data).nbytes
        self._bytes += size
        return size

    @property
    def record(self) -> dict[str, Any]:
        """What a manifest holds of it."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _link(source: Path, target: Path, size: int) -> None:
    """The same file under another name; a copy where the file system has no hard links.

    :raises FileNotFoundError: for a file that is not there any more, or no longer of its size
    """
    if source.stat().st_size != size:
        raise FileNotFoundError(f"'{source}' is not what was written")
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        with source.open("rb") as original, NewFile(target) as copy:
            shutil.copyfileobj(original, copy, 1 << 20)


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that none of it is ever seen half."""
    if folder.exists():
        hidden = _unused(folder.with_name(f".{folder.name}.removed"))
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _unused(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a loss of power, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse
    finally:
        os.close(descriptor)


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256_of(path: Path) -> str:
    digest, block = hashlib.sha256(), bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(memoryview(block)[:size])
    return digest.hexdigest()


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_tensors(path: Path) -> Any:
    return read_tensors(path.read_bytes(), "it", finite=False)


def _read_rows(path: Path) -> np.ndarray:
    with path.open("rb") as file:  # not numpy.load, which would take an archive too
        return np.lib.format.read_array(file, allow_pickle=False)


def _refuse_odd_form(manifest: dict[str, Any]) -> None:
    """:raises Exception: of some kind, for entries that `_fill` would not have written"""
    score = manifest["score"]
    if not (isinstance(manifest["env_steps"], int) and isinstance(manifest["exact"], bool)):
        raise ValueError("it says neither when it was made nor how well")
    if not (score is None or isinstance(score, (int, float))):
        raise ValueError(f"its score is {score!r:.40}")
    for name, record in manifest["files"].items():
        if not (isinstance(record["bytes"], int) and isinstance(record["sha256"], str)):
            raise ValueError(f"it does not know {name!r:.40}")
    refuse_gaps(manifest["replay"])
