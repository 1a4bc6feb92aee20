"""A run's folder: named by the content of its config, never overwritten, readable after a crash."""

import json
import os
import re
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl.config import RunConfig
from mtrl.errors import RunFolderError
from mtrl.record import command, describe_origin

if TYPE_CHECKING:
    import pandas

CONFIG_FILE, RECORD_FILE, COMMAND_FILE = "config.yaml", "run.json", "command.txt"
RESULTS_CSV, RESULTS_MARKDOWN = "results.csv", "results.md"
AGENT_FILE = "agent.zip"

RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"


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

    def claim(self, config: RunConfig) -> "RunFolder":
        """Make the folder for a new run. One that was not finished is kept beside it under another name.

        :return: this folder, or the one whose place it takes
        :raises RunFolderError: if another process is writing to it, or if it holds something else
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"run_dir must be a folder, found the file '{self.path}'.")
        if self.path.is_dir() and any(self.path.iterdir()):
            if self.status is None:
                raise RunFolderError(f"run_dir must be empty or a run, found '{self.path}' with other files in it.")
            self._refuse_if_alive()
            self.path.rename(_free_name(self.path, self.status))
        self.path.mkdir(parents=True, exist_ok=True)
        self._begin(config)
        return self

    def _begin(self, config: RunConfig) -> None:
        from omegaconf import OmegaConf

        (self.path / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(config.to_dict())), encoding="utf-8")
        (self.path / COMMAND_FILE).write_text(command() + "\n", encoding="utf-8")
        self.record = {
            "status": RUNNING,
            "started": now(),
            "process": {"host": socket.gethostname(), "pid": os.getpid()},
        }
        self.update(**describe_origin())

    def update(self, **entries: Any) -> None:
        """Add to ``run.json``; written beside it first, so that a crash leaves the old or the new one."""
        self.record |= entries
        draft = self.path / f"{RECORD_FILE}.new"
        draft.write_text(json.dumps(self.record, indent=2) + "\n", encoding="utf-8")
        draft.replace(self.path / RECORD_FILE)

    def close(self, status: str, **entries: Any) -> None:
        """Write how the run ended."""
        self.update(status=status, ended=now(), **entries)

    def config(self) -> RunConfig:
        """The config that the run was started with.

        :raises ConfigError: if it is not one of this version
        """
        from omegaconf import OmegaConf

        return RunConfig.from_dict(OmegaConf.to_container(OmegaConf.load(self.path / CONFIG_FILE)))  # type: ignore[arg-type]

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

    def _refuse_if_alive(self) -> None:
        process = self.record.get("process", {})
        pid, here = process.get("pid"), process.get("host") == socket.gethostname()
        if self.status == RUNNING and here and pid != os.getpid() and _is_alive(pid):
            raise RunFolderError(
                f"'{self.path}' is being written by process {pid}: wait for it, or choose another run_dir."
            )


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


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    return True
