"""Which operations an MTSAC update spends its time on: ``python -m benchmarks.operations``.

Processor time of every operation on one thread, the median over updates: nothing of it is waiting. Gradients are
included, for on a processor autograd works in the calling thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agents.precision import PRECISIONS
from benchmarks.balancers import Contest
from benchmarks.timing import machine, markdown

# Groups of operations, each with the beginnings of their names in ATen.
GROUPS = {
    "matrix products": ("baddbmm", "bmm", "addmm", "mm"),
    "casts between precisions": ("_to_copy",),
    "ReLU and its gradient": ("relu", "threshold_backward"),
    "LayerNorm, its gains, and the gradients": ("native_layer_norm", "addcmul"),
    "sums, such as gradients of biases": ("sum", "mean"),
    "Adam": ("_fused_adam",),
    "norms and clipping": ("_foreach_norm", "linalg_vector_norm", "_foreach_mul", "stack"),
    "Polyak": ("_foreach_lerp", "lerp"),
}
OTHER = "some hundreds of small ones"


class Clock(TorchDispatchMode):
    """Notes the processor time of every operation, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[tuple[str, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        began = time.thread_time()
        result = func(*args, **(kwargs or {}))
        self.seconds.append((func.overloadpacket.__name__, time.thread_time() - began))
        return result


def measure(update: Callable[[], object], rounds: int = 15) -> dict[str, tuple[float, int]]:
    """Seconds and number of the operations of each group in an update, largest first.

    :param update: one update, which makes the same operations each time
    :param rounds: updates to take the median of
    """
    update()
    clocks = []
    for _ in range(rounds):
        with Clock() as clock:
            update()
        clocks.append(clock.seconds)
    totals: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for same in zip(*clocks, strict=True):  # one operation in all rounds
        group = group_of(same[0][0])
        totals[group] += statistics.median(seconds for _, seconds in same)
        counts[group] += 1
    return {group: (totals[group], counts[group]) for group in sorted(totals, key=totals.__getitem__, reverse=True)}


def group_of(operation: str) -> str:
    """The group of an operation of ATen."""
    return next((group for group, names in GROUPS.items() if operation.startswith(names)), OTHER)


def report(num_tasks: int, samples: int, layer_norm: bool, precision: str, rounds: int = 15) -> str:
    """The measured table in Markdown."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    contest = Contest(num_tasks, samples, critic_layer_norm=layer_norm, precision=precision)
    groups = measure(contest.call("unitary"), rounds)
    contest.close()
    torch.set_num_threads(threads)
    whole = sum(seconds for seconds, _ in groups.values())
    rows = [[name, f"{s * 1e3:.2f}", f"{s / whole:.0%}", str(count)] for name, (s, count) in groups.items()]
    title = f"K = {num_tasks}, B = {samples}, {precision}{', LayerNorm critics' if layer_norm else ''}"
    return markdown([title, "ms of one thread", "share", "operations"], rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10, help="K (default 10)")
    parser.add_argument("--samples", type=int, default=32, help="transitions per task (default 32)")
    parser.add_argument("--layer-norm", action="store_true", help="critics with LayerNorm")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="as agent.precision (default auto)")
    arguments = parser.parse_args()
    table = report(arguments.tasks, arguments.samples, arguments.layer_norm, arguments.precision)
    print(machine(), table, sep="\n\n")


if __name__ == "__main__":
    main()
