"""A run does not grow: neither its memory, nor its open files, nor its event files beyond what is said."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtrl.callbacks import Every
from mtrl.config import RunConfig
from mtrl.experiment import run
from mtrl.tracking import Isolated, TensorBoardWriter, read_metrics

MakeConfig = Callable[..., RunConfig]
LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to count pages and open files")

# Trains with every writer, a line of metrics for every 50 updates, and prints how resident memory and open files grow.
TRAIN = """
import os, pathlib, sys, tempfile
import torch
torch.set_num_threads(1)
from agents import MTSAC
from mtrl.callbacks import Every, MetricsCallback, in_order
from mtrl.config import RunConfig
from mtrl.console import Quiet
from mtrl.tracking import make_logger
from envs import make_suite

updates, balancer = int(sys.argv[1]), sys.argv[2]
folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[3]))
env = make_suite("pointmass").make_vec_env(seed=0)
agent = MTSAC("MultiTaskPolicy", env, balancer=balancer, actor_balancer="unitary", learning_starts=100, batch_size=128,
              buffer_size=2000, seed=0, device="cpu", policy_kwargs={"hidden_sizes": [32, 32]})
agent.set_logger(make_logger(folder, RunConfig().tracking, "run", {}))

def pages():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1])

def more(updates, first=False):
    callback = in_order(MetricsCallback(Every(200), Quiet()))
    agent.learn(4 * updates, callback=callback, log_interval=None, reset_num_timesteps=first)
    return pages(), len(os.listdir("/proc/self/fd"))

before = more(1500, first=True)  # the replay buffer is full, and everything that is made once is made
after = more(updates)
print(after[0] / before[0] - 1, after[1] - before[1])
"""


def growth(updates: int, balancer: str, folder: Path) -> tuple[float, int]:
    """Relative growth of resident memory, and files opened and not closed, over so many updates."""
    command = [sys.executable, "-c", TRAIN, str(updates), balancer, str(folder)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    memory, files = child.stdout.split()
    return float(memory), int(files)


@LINUX
@pytest.mark.faults
@pytest.mark.parametrize("balancer", ["unitary", "famo", "moco", "pcgrad"])
def test_memory_and_open_files_stay_as_they_are_while_training(tmp_path: Path, balancer: str) -> None:
    memory, files = growth(5000, balancer, tmp_path)
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
