"""A run does not grow: neither its memory, nor its open files, nor its event files beyond what is said."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mtrl.callbacks import Every
from mtrl.config import RunConfig
from mtrl.experiment import run
from mtrl.tracking import Isolated, TensorBoardWriter, read_metrics
from tests.mtrl.growth import growth

MakeConfig = Callable[..., RunConfig]
LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to count pages and open files")


@LINUX
@pytest.mark.faults
@pytest.mark.parametrize("balancer", ["unitary", "famo", "moco", "pcgrad"])
def test_memory_and_open_files_stay_as_they_are_while_training(balancer: str) -> None:
    memory, files = growth(5000, balancer)
    assert memory < 0.02
    assert files == 0


@LINUX
def test_a_run_closes_what_it_opens(tiny_config: MakeConfig) -> None:
    run(tiny_config(seed=1, threads=1))
    before = len(os.listdir("/proc/self/fd"))
    run(tiny_config(seed=2, threads=1))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_event_files_of_mt50_stay_below_200_mb_for_ten_million_steps(tiny_config: MakeConfig, tmp_path: Path) -> None:
    from metaworld.env_dict import MT50_V3

    # All tags that a run of fifty tasks writes, under the names of Meta-World.
    suite = {"env": {"options": {"num_tasks": 50}}, "balancer": {"name": "rlw"}, "threads": 1}
    result = run(tiny_config(**suite, agent={"warmup_steps_per_task": 2}, total_env_steps=50 * 12))
    training, evaluation = ({}, {})
    for line in read_metrics(result.folder):
        kind = evaluation if "eval/final" in line else training
        kind |= {key: value for key, value in line.items() if value is not None}
    names = dict(zip((f"point-{k}" for k in range(50)), MT50_V3, strict=True))
    renamed = [
        {"/".join([*key.split("/")[:-1], names.get(key.split("/")[-1], key.split("/")[-1])]): 1.0 for key in line}
        for line in (training, evaluation)
    ]
    assert all(sum(key.endswith("/push-v3") for key in line) >= 3 for line in renamed)

    # What one line costs, and how many lines there are: by default 200 and 20 in a run of any length.
    writer = Isolated("TensorBoard", TensorBoardWriter, tmp_path / "events")
    sizes = [folder_size(tmp_path / "events")]
    for line in renamed:
        for step in range(10):
            writer.write(line, dict.fromkeys(line, ()), step)
        assert writer.writer is not None
        writer.writer.writer.flush()  # type: ignore[attr-defined]
        sizes.append(folder_size(tmp_path / "events"))
    writer.close()
    per_line = [(after - before) / 10 for before, after in itertools.pairwise(sizes)]
    total = 10_000_000
    lines = [sum(map(Every(total // times), range(0, total + 1, 5000))) for times in (200, 20)]
    assert lines == [200, 20]
    assert per_line[0] * lines[0] + per_line[1] * lines[1] < 20_000_000  # a tenth of what is promised
    # The promise holds for ten times as many lines, a line for every 5,000 steps.
    assert per_line[0] * 2000 + per_line[1] * 200 < 200_000_000


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
