"""One finished run of seconds, shared by the tests that read it, and a config to make more of them."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from mtrl.config import RunConfig
from mtrl.experiment import Result, run


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(runs_dir: Path, **changes: Any) -> dict[str, Any]:
    """A point-mass run of a second, as a plain dict; changes are given as ``{"agent": {"tau": 0.1}}``."""
    values: dict[str, Any] = {
        "env": {"suite": "pointmass", "horizon": 10},
        "agent": {"warmup_steps_per_task": 10, "samples_per_task": 4, "precision": "float32"},
        "network": {"hidden_sizes": [8]},
        "evaluation": {"episodes": 2, "final_episodes": 4, "horizon": 10, "workers": 0},
        "tracking": {"progress": False},
        "total_env_steps": 160,
        "runs_dir": str(runs_dir),
    }
    for key, change in changes.items():
        values[key] = {**values[key], **change} if isinstance(values.get(key), dict) else change
    return values


@pytest.fixture
def hangup_is_heard() -> Iterator[None]:
    """SIGHUP does what it does by default, here and in children, even if the tests were started by ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def ray_alone() -> Iterator[None]:
    """Of the tests that start Ray, one at a time, whichever process runs them."""
    with FileLock(Path(tempfile.gettempdir()) / "mtrl-tests-with-ray.lock"):
        yield


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes configs of tiny runs inside this test's own folder."""

    def make(**changes: Any) -> RunConfig:
        return RunConfig.from_dict(tiny(tmp_path / "runs", **changes))

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished run with moving weights. Read it, do not change it."""
    values = tiny(tmp_path_factory.mktemp("session") / "runs", balancer={"name": "rlw"})
    return run(RunConfig.from_dict(values))
