"""A run's folder: named by the content of its config, never overwritten, readable after a crash."""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl.config import RunConfig
from mtrl.errors import RunFolderError
from mtrl.lock import LOCK_FILE, RunLock
from mtrl.places import require_folder
from mtrl.plugins import described
from mtrl.provenance import command, describe_origin, versions

if TYPE_CHECKING:
    import pandas

CONFIG_FILE, RECORD_FILE, COMMAND_FILE = "config.yaml", "run.json", "command.txt"
RESULTS_CSV, RESULTS_MARKDOWN = "results.csv", "results.md"
AGENT_FILE, CHECKPOINTS = "agent.zip", "checkpoints"

RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place first, so that a crash, or a loss of power, leaves the old or the new one."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class RunFolder:
    """One run on disk.

    :param path: the folder, which need not exist yet
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = self._read_record()

    @classmethod
    def of(cls, config: RunConfig) -> "RunFolder":
        """The folder that belongs to a config: ``run_dir``, or ``runs/<suite>/<agent>-<balancer>-seed<k>-<hash>``."""
        if config.run_dir is not None:
            return cls(Path(config.run_dir))
        name = f"{config.agent.name}-{config.balancer.name}-seed{config.seed}-{config.identity()}"
        return cls(Path(config.runs_dir) / safe_name(config.env.suite) / safe_name(name))

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """A folder that holds a trained agent.

        :raises RunFolderError: if it does not
        """
        if not path.is_dir():
            raise RunFolderError(f"No run at '{path}': there is no such folder.")
        missing = [name for name in (CONFIG_FILE, RECORD_FILE, AGENT_FILE) if not (path / name).is_file()]
        if missing:
            raise RunFolderError(f"No finished run at '{path}': it holds no {' and no '.join(missing)}.")
        return cls(path)

    @property
    def status(self) -> str | None:
        """What became of the run; None for a folder without one."""
        return self.record.get("status")

    @contextmanager
    def owned(self, takeover: bool) -> Iterator[None]:
        """Context in which no other process writes here.

        :param takeover: take the place of an owner on another host that is dead
        :raises RunFolderError: if another process is writing here, or if this is no place for a run
        :raises ConfigError: if nothing can be written here
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"run_dir must be a folder, found the file '{self.path}'.")
        self._refuse_foreign_files()
        require_folder(self.path, "run_dir=...")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.path, takeover)
        try:
            self.record = self._read_record()  # as the last owner left it
            yield
        finally:
            self._lock.release()

    def begin(self, config: RunConfig) -> None:
        """Start a new run here. One that was begun before is kept beside it under another name."""
        if self.status is not None:
            aside = _free_name(self.path, self.status)
            self.path.rename(aside)
            self.path.mkdir()
            before, self._lock = self._lock, RunLock(self.path)
            before.release(aside)
        self.record = {"status": RUNNING, "started": now(), "process": _this_process()}
        self.update(**describe_origin(), plugins=described(config.of_plugins()))
        self._describe(config)

    def resume(self, config: RunConfig, env_steps: int, exact: bool) -> None:
        """Continue the run that is here.

        :param config: with settings that may differ where that is allowed
        :param env_steps: of the checkpoint
        :param exact: whether the numbers will be those of a run that was never stopped
        """
        resumed = {"at": now(), "env_steps": env_steps, "exact": exact, "command": command(), "versions": versions()}
        if plugins := described(config.of_plugins()):
            resumed["plugins"] = plugins
        results = [self.path / name for name in (RESULTS_CSV, RESULTS_MARKDOWN)]
        if self.status == FINISHED:  # of a shorter run: they are measurements all the same
            for path in results:
                if path.exists():
                    shutil.copyfile(path, self.path / f"results-at-{env_steps}{path.suffix}")
        for key in ("ended", "error"):
            self.record.pop(key, None)
        self.update(status=RUNNING, process=_this_process(), resumed=[*self.record.get("resumed", []), resumed])
        for path in results:  # last: a process that dies before has lost nothing, and the next one does all of it again
            path.unlink(missing_ok=True)
        self._describe(config)

    def _describe(self, config: RunConfig) -> None:
        from omegaconf import OmegaConf

        write_whole(self.path / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(config.effective())))
        write_whole(self.path / COMMAND_FILE, command() + "\n")
        given = config.to_dict()
        self.update(given={"balancer": given["balancer"], "network": given["network"]})

    def update(self, **entries: Any) -> None:
        """Add to ``run.json``."""
        self.record |= entries
        write_whole(self.path / RECORD_FILE, json.dumps(self.record, indent=2) + "\n")

    def close(self, status: str, **entries: Any) -> None:
        """Write how the run ended."""
        self.update(status=status, ended=now(), **entries)

    def config(self) -> RunConfig:
        """The config that the run was started with.

        :raises ConfigError: if it is not one of this version
        """
        # The file holds options as they acted; what was given names the folder.
        return RunConfig.from_dict({**self.written_config(), **self.record.get("given", {})})

    def written_config(self) -> dict[str, Any]:
        """``config.yaml`` as it is, defaults of that time included."""
        from omegaconf import OmegaConf

        values: Any = OmegaConf.to_container(OmegaConf.load(self.path / CONFIG_FILE))
        return values

    def results(self) -> "pandas.DataFrame":
        """The final table as it was written."""
        import pandas

        return pandas.read_csv(self.path / RESULTS_CSV, index_col="task")

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads((self.path / RECORD_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _refuse_foreign_files(self) -> None:
        # A process that died at once has left a lock, or the draft of its record, and nothing else.
        ours = {LOCK_FILE, f"{RECORD_FILE}.new"}
        if self.status is None and self.path.is_dir() and any(path.name not in ours for path in self.path.iterdir()):
            raise RunFolderError(f"run_dir must be empty or a run, found '{self.path}' with other files in it.")


def safe_name(text: str) -> str:
    """The text as the name of a file: letters, digits, and ``._+-`` only, never hidden, never a path."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text).lstrip(".")[:120] or "_"


def now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def was_set_aside(path: Path) -> bool:
    """Whether a folder holds an unfinished run whose place a new one has taken."""
    return re.search(rf"\.({RUNNING}|{INTERRUPTED}|{FAILED})-\d+$", path.name) is not None


def _free_name(path: Path, status: str) -> Path:
    number = 1
    while (free := path.with_name(f"{path.name}.{safe_name(status)}-{number}")).exists():
        number += 1
    return free


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}
