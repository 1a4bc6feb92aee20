"""Folders of made-up runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.mtrl.compare.made_up import write_run

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes ``runs/<balancer>-<seed>`` in this test's own folder."""

    def make(balancer: str = "unitary", seed: int = 1, level: float | Sequence[float] = 0.5, **changes: Any) -> Path:
        name = changes.pop("name", f"{balancer}-{changes.get('agent', 'mtsac')}-{seed}")
        return write_run(tmp_path / "runs" / name, balancer, seed, level, **changes)

    return make


@pytest.fixture
def two_methods(make_run: MakeRun, tmp_path: Path) -> Path:
    """Six seeds of plain averaging at 0.4, and of a gradient method at 0.7."""
    for seed in range(1, 7):
        make_run("unitary", seed, 0.4)
        make_run("pcgrad", seed, 0.7)
    return tmp_path / "runs"
