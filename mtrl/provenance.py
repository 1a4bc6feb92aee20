"""What must be known to repeat a number: command, commit, versions, machine."""

import functools
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mtrl.machine import available_cores

_PACKAGES = ("mtrl-toolkit", "torch", "stable_baselines3", "gymnasium", "metaworld", "mujoco", "numpy")
_GIT_SECONDS = 10


def command() -> str:
    """The command of this process, ready to be pasted into a shell."""
    return shlex.join(sys.orig_argv)


def describe_origin() -> dict[str, Any]:
    """Commit, versions and machine; JSON-able."""
    return {
        "command": command(),
        "git": git_state(Path(__file__).resolve().parent.parent),
        "versions": versions(),
        "machine": {
            "cpu": cpu_model(),
            "cores": available_cores(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(),
        },
    }


def versions() -> dict[str, str | None]:
    """Python and the packages that decide a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout at `root` and whether tracked files differ from it; None if it is no git checkout."""
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


@functools.cache
def cpu_model() -> str:
    """The processor's name as its maker writes it, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
