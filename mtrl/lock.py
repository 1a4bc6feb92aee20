"""One writer for each run's folder: a lock with host and process, released by the system when its owner dies."""

import contextlib
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any, TextIO

import psutil

from mtrl.errors import RunFolderError

LOCK_FILE = "lock"


class RunLock:
    """Exclusive right to write to a folder, which must exist.

    :param folder: the run's folder
    :param takeover: take the place of an owner on another host, whose death cannot be seen from here
    :raises RunFolderError: if somebody else is writing there, or may be
    """

    def __init__(self, folder: Path, takeover: bool = False) -> None:
        self.path = folder / LOCK_FILE
        self._file = self._open(folder)
        try:
            self._refuse_if_owned(folder, takeover)
        except RunFolderError:
            self._file.close()
            raise
        self._file.truncate(0)
        self._file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        self._file.flush()

    def release(self, folder: Path | None = None) -> None:
        """Let others write.

        :param folder: where the folder is now, if it was renamed
        """
        if not self._file.closed:
            with contextlib.suppress(OSError):
                (self.path if folder is None else folder / LOCK_FILE).unlink(missing_ok=True)
            self._file.close()

    def _open(self, folder: Path) -> TextIO:
        while True:
            file = self.path.open("a+", encoding="utf-8")
            if not _lock(file):
                owner = _owner(file)
                file.close()
                raise RunFolderError(
                    f"'{folder}' is being written by process {owner.get('pid')} on {owner.get('host')}: "
                    "wait for it, or choose another run_dir."
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file
            file.close()  # its owner removed it while we waited: what we hold is no longer the lock

    def _refuse_if_owned(self, folder: Path, takeover: bool) -> None:
        owner = _owner(self._file)
        if not owner:
            return
        host, pid = owner.get("host"), owner["pid"]
        if host == socket.gethostname():
            # Only where the file system has no locks can an owner of this host still live.
            if not _has_locks(self._file) and pid != os.getpid() and psutil.pid_exists(pid):
                raise RunFolderError(
                    f"'{folder}' is being written by process {pid}: wait for it, or choose another run_dir."
                )
        elif not takeover:
            raise RunFolderError(
                f"'{folder}' was left by process {pid} on {host}, which may still be writing: "
                "if it is dead, resume with --takeover."
            )


def _owner(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        owner = json.load(file)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and isinstance(owner.get("pid"), int) else {}


def _lock(file: TextIO) -> bool:
    """Lock a file; True also where the file system cannot."""
    try:
        _flock(file)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _has_locks(file: TextIO) -> bool:
    try:
        _flock(file)
    except OSError:
        return False
    return True


def _flock(file: TextIO) -> None:
    import fcntl  # Unix only, as worker processes are

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
