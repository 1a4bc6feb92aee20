"""Run folders at a place that machines without a common disk share: a folder, or a bucket by its URI.

The storage is the truth, and what a machine has on its own disk is a copy. ``objects/<SHA-256>`` holds the contents of
files, ``runs/<name>.json`` which of them make up a run's folder, written last. So what several checkpoints or runs have
in common, above all the transitions of a replay buffer, is stored once and travels once to each machine.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from mtrl.checkpoint import MANIFEST, Checkpoint, CheckpointStore
from mtrl.errors import CheckpointError, ConfigError, MissingExtra
from mtrl.lock import LOCK_FILE
from mtrl.run_folder import CHECKPOINTS

PATIENCE = 180.0  # seconds for a storage that does not answer: longer than most cuts of a network
PAUSE = 5.0  # seconds between two looks at whether there is a new checkpoint to bring there
ABANDONED = 600.0  # seconds after which contents that no run names are removed
_BLOCK = 1 << 20

T = TypeVar("T")
Tree = dict[str, dict[str, Any]]  # of each file of a run's folder: size and SHA-256


class StorageError(ConfigError):
    """A storage that cannot be used, and why."""


class Storage:
    """A place for run folders.

    :param uri: a folder, or what `pyarrow.fs` opens: ``s3://bucket/path``, ``gs://``, ``hdfs://``, ``fsspec+...://``
    :raises StorageError: for a URI that it cannot open
    :raises MissingExtra: without pyarrow
    """

    def __init__(self, uri: str) -> None:
        try:
            from pyarrow.fs import FileSystem
        except ImportError as error:
            raise MissingExtra(
                "--storage needs pyarrow, which is not installed: pip install 'mtrl-toolkit[tune]'."
            ) from error
        self.uri = uri if "://" in uri else str(Path(uri).resolve())
        try:
            self._files, self._root = FileSystem.from_uri(self.uri)
        except Exception as error:  # of the library of that kind of storage
            raise StorageError(
                f"--storage must be a folder or a URI such as s3://bucket/path, found {uri!r} ({_brief(error)})."
            ) from error
        self._is_local = self._files.type_name == "local"

    @property
    def cache(self) -> Path:
        """Where this machine keeps its copies."""
        name = f"mtrl-storage-{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"
        return Path(tempfile.gettempdir()) / name

    def check(self) -> None:
        """Write and remove a file.

        :raises StorageError: if that cannot be done
        """
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self._write(probe, b"")
            self._files.delete_file(self._path(probe))
        except OSError as error:
            raise StorageError(
                f"--storage must be a place that can be written, found {self.uri!r} ({_brief(error)})."
            ) from error

    # ------------------------------------------------------------------ whole runs

    @contextlib.contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """Context in which a run's folder is on this machine's disk; new checkpoints are stored as they are written.

        :param name: of the run within the storage
        :raises StorageError: if the storage does not answer
        """
        folder = self.cache / name
        self.fetch(name, folder)
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(name, folder, ended), name="storage", daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            ended.set()
            thread.join()
            self.push(name, folder)

    def _follow(self, name: str, folder: Path, ended: threading.Event) -> None:
        store, stored = CheckpointStore(folder / CHECKPOINTS), None
        while not ended.wait(PAUSE):
            newest = next(iter(store.folders()), None)
            if newest != stored:
                with contextlib.suppress(OSError, CheckpointError):  # the next look tries again
                    self._push(name, folder)
                    stored = newest

    def push(self, name: str, folder: Path) -> None:
        """Store a run's folder as it is now.

        :raises StorageError: if the storage does not answer
        """
        self._patiently(lambda: self._push(name, folder))

    def fetch(self, name: str, folder: Path, checkpoints: bool = True) -> None:
        """Make a folder what is stored of a run; without such a run it stays as it is.

        :param checkpoints: whether they are wanted too
        :raises StorageError: if the storage does not answer, or does not hold what was stored
        """
        self._patiently(lambda: self._fetch(name, folder, checkpoints))

    def keep_log(self, name: str, path: Path) -> None:
        """Store what a run printed."""
        with contextlib.suppress(OSError):
            self._write(f"logs/{name}.txt", path.read_bytes())

    def collect(self, older_than: float = ABANDONED) -> int:
        """Remove contents that no run names.

        :param older_than: seconds; newer ones may be of a run that is being stored
        :return: how many were removed
        """
        used = {record["sha256"] for tree in self._trees() for record in tree.values()}
        before = datetime.now(timezone.utc) - timedelta(seconds=older_than)
        unused = [
            info.path
            for info in self._list("objects")
            if info.base_name not in used and (info.mtime or before) <= before
        ]
        for path in unused:
            self._files.delete_file(path)
        return len(unused)

    # ------------------------------------------------------------------ files

    def _push(self, name: str, folder: Path) -> None:
        known, tree = _known(folder), {}
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).as_posix()
            if not path.is_file() or _is_passing(inside):
                continue
            if inside in known:  # never changes again, and may be large
                tree[inside] = known[inside]
                self._put(path, known[inside])
            else:
                data = path.read_bytes()
                tree[inside] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                if self._size(f"objects/{tree[inside]['sha256']}") != len(data):
                    self._write(f"objects/{tree[inside]['sha256']}", data)
        draft = f"runs/{name}.json.{uuid.uuid4().hex}"
        self._write(draft, json.dumps(tree).encode())
        self._files.move(self._path(draft), self._path(f"runs/{name}.json"))

    def _fetch(self, name: str, folder: Path, checkpoints: bool) -> None:
        tree = self._tree(name)
        if tree is None:
            return
        wanted = {inside: record for inside, record in tree.items() if checkpoints or not _in_checkpoint(inside)}
        folder.mkdir(parents=True, exist_ok=True)
        here = _known(folder)
        for path in sorted(folder.rglob("*"), reverse=True):
            inside = path.relative_to(folder).as_posix()
            if path.is_dir():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif inside not in wanted or (_in_checkpoint(inside) and here.get(inside) != wanted[inside]):
                path.unlink()
        # Manifests last: a checkpoint without one is none.
        for inside, record in sorted(wanted.items(), key=lambda item: item[0].endswith(MANIFEST)):
            if here.get(inside) != record or not (folder / inside).exists():
                self._get(record, folder / inside, immutable=_in_checkpoint(inside))

    def _put(self, path: Path, record: dict[str, Any]) -> None:
        """Store a file that never changes: by a link where the storage is on the same disk."""
        target = f"objects/{record['sha256']}"
        if self._size(target) == record["bytes"]:
            return
        if self._is_local:
            self._make_folder(target)
            if _linked(path, Path(self._path(target))):
                return
        with path.open("rb") as source, self._open(target) as sink:
            shutil.copyfileobj(source, sink, _BLOCK)

    def _get(self, record: dict[str, Any], target: Path, immutable: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        stored, kept = self._path(f"objects/{record['sha256']}"), self.cache / "objects" / record["sha256"]
        if immutable and ((self._is_local and _linked(Path(stored), target)) or _linked(kept, target)):
            return
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        digest = hashlib.sha256()
        with self._files.open_input_stream(stored) as source, draft.open("wb") as sink:
            while block := source.read(_BLOCK):
                digest.update(block)
                sink.write(block)
        if digest.hexdigest() != record["sha256"]:
            draft.unlink()
            raise OSError(f"'{stored}' is not what was stored")
        draft.replace(target)
        if immutable:
            kept.parent.mkdir(parents=True, exist_ok=True)
            _linked(target, kept)

    def _tree(self, name: str) -> Tree | None:
        try:
            with self._files.open_input_stream(self._path(f"runs/{name}.json")) as file:
                tree: Tree = json.loads(file.read())
        except FileNotFoundError:
            return None
        if any(inside.startswith("/") or ".." in Path(inside).parts for inside in tree):
            raise StorageError(f"'{self.uri}' names a file outside of the folder of run '{name}'.")
        return tree

    def _trees(self) -> Iterator[Tree]:
        for info in self._list("runs"):
            if info.path.endswith(".json"):
                with self._files.open_input_stream(info.path) as file:
                    yield json.loads(file.read())

    def _list(self, folder: str) -> list[Any]:
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        return [info for info in self._files.get_file_info(selector) if info.type == FileType.File]

    def _size(self, inside: str) -> int | None:
        size: int | None = self._files.get_file_info(self._path(inside)).size
        return size

    def _write(self, inside: str, data: bytes) -> None:
        with self._open(inside) as sink:
            sink.write(data)

    def _open(self, inside: str) -> Any:
        self._make_folder(inside)
        return self._files.open_output_stream(self._path(inside))

    def _make_folder(self, inside: str) -> None:
        if self._is_local:  # buckets have none
            self._files.create_dir(self._path(inside).rpartition("/")[0], recursive=True)

    def _path(self, inside: str) -> str:
        return f"{self._root}/{inside}".rstrip("/")

    def _patiently(self, call: Callable[[], T]) -> T:
        """Try again while the storage does not answer, up to `PATIENCE`."""
        deadline, pause = time.monotonic() + PATIENCE, 0.5
        while True:
            try:
                return call()
            except (OSError, CheckpointError) as error:  # the second: a checkpoint that was removed meanwhile
                if isinstance(error, PermissionError) or time.monotonic() + pause > deadline:
                    raise StorageError(f"The storage '{self.uri}' cannot be used ({_brief(error)}).") from error
            time.sleep(pause)
            pause = min(2 * pause, 15.0)


def _known(folder: Path) -> Tree:
    """Sizes and SHA-256 of the files of checkpoints, as their manifests have them."""
    known: Tree = {}
    for path in CheckpointStore(folder / CHECKPOINTS).folders():
        with contextlib.suppress(CheckpointError):
            for name, record in Checkpoint(path).manifest["files"].items():
                known[f"{CHECKPOINTS}/{path.name}/{name}"] = {key: record[key] for key in ("bytes", "sha256")}
    return known


def _in_checkpoint(inside: str) -> bool:
    return inside.startswith(f"{CHECKPOINTS}/")


def _is_passing(inside: str) -> bool:
    """Whether a file is of a process, and not of the run."""
    parts = Path(inside).parts
    return parts[-1] == LOCK_FILE or parts[-1].endswith(".new") or any(part.startswith(".") for part in parts)


def _linked(source: Path, target: Path) -> bool:
    """Whether the same file has a second name now; False across disks."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        os.link(source, draft)
        draft.replace(target)
    except OSError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
