"""``python -m tests.mtrl.growth UPDATES [BALANCER ...]``: how far memory and open files grow while a run trains.

Every method trains in a process of its own, on the toy with small networks, with every writer and a line of metrics for
every 50 updates. What is made once has been made, and the replay buffer is full, before anything is compared.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

METHODS = ("unitary", "famo", "pcgrad", "moco", "graddrop", "nash_mtl", "igb_rl", "son_goku:pcgrad")
# From the first update on in groups, whose members change.
OPTIONS = {"son_goku:pcgrad": {"warmup": 0.0, "anneal": 0.0, "tau": 0.05}}
FIRST = 1500  # updates before
_ROOT = Path(__file__).resolve().parents[2]


def growth(updates: int, balancer: str) -> tuple[float, int]:
    """Relative growth of resident memory, and files opened and not closed, over so many updates."""
    command = [sys.executable, "-m", "tests.mtrl.growth", "--one", str(updates), balancer]
    child = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=3600)
    memory, files = child.stdout.split()
    return float(memory), int(files)


def _train(updates: int, balancer: str, folder: Path) -> None:
    import torch

    from agents import MTSAC
    from envs import make_suite
    from mtrl.callbacks import Every, MetricsCallback, in_order
    from mtrl.config import RunConfig
    from mtrl.console import Quiet
    from mtrl.tracking import METRICS_FILE, JsonlWriter, make_logger

    torch.set_num_threads(1)
    agent = MTSAC(
        "MultiTaskPolicy", make_suite("pointmass").make_vec_env(seed=0), balancer=balancer, actor_balancer="unitary",
        balancer_kwargs=OPTIONS.get(balancer), learning_starts=100, batch_size=128, buffer_size=2000, seed=0,
        device="cpu", policy_kwargs={"hidden_sizes": [32, 32]},
    )  # fmt: skip
    writer = JsonlWriter(folder / METRICS_FILE)
    agent.set_logger(make_logger(folder, RunConfig().tracking, "run", {}, writer))

    def learn(more: int, first: bool) -> tuple[int, int]:
        callback = in_order(MetricsCallback(Every(200), Quiet()))
        agent.learn(4 * more, callback=callback, log_interval=None, reset_num_timesteps=first)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages, len(os.listdir("/proc/self/fd"))

    before, after = learn(FIRST, first=True), learn(updates, first=False)
    print(after[0] / before[0] - 1, after[1] - before[1])


def main(arguments: list[str]) -> None:
    """Command line."""
    if arguments[0] == "--one":
        with tempfile.TemporaryDirectory() as folder:
            _train(int(arguments[1]), arguments[2], Path(folder))
        return
    print("| method | growth of memory | open files |\n| --- | ---: | ---: |")
    for balancer in arguments[1:] or METHODS:
        memory, files = growth(int(arguments[0]), balancer)
        print(f"| `{balancer}` | {memory:+.2%} | {files:+d} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
