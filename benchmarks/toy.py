"""Every balancer on the two-objective toy problem, from five starts: who reaches the Pareto front, when, and where.

``python -m benchmarks.toy`` writes ``toy.png`` (trajectories) and ``toy.md`` (table). The published protocol is 50 000
steps of Adam at 0.001; by default five such steps are made in one, Adam's memory shortened alike. ``--speed 1`` makes
them one by one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.balancers import make_balancer
from benchmarks.toy_problem import FRONT, STARTS, Descent, descend, evaluate
from mtrl.places import require_folder

SCALE = 0.1  # s, of the first objective


@dataclass(frozen=True)
class Entry:
    """A method with the options of the published toy runs.

    :param positive: the method is fed losses counted from their lower bounds
    """

    label: str
    balancer: str
    options: dict[str, Any] = field(default_factory=dict)
    positive: bool = False


ENTRIES = (
    Entry("unitary", "unitary"),
    Entry("static 10:1", "static", {"weights": [10.0, 1.0]}),
    Entry("rlw", "rlw"),
    Entry("mgda none", "mgda", {"norm": "none"}),
    Entry("mgda l2", "mgda", {"norm": "l2"}),
    Entry("pcgrad", "pcgrad"),
    Entry("gradvac", "gradvac", {"beta": 0.5}),
    Entry("graddrop", "graddrop"),
    Entry("cagrad 0.5", "cagrad", {"c": 0.5, "rescale": 2}),
    Entry("cagrad 0.9", "cagrad", {"c": 0.9, "rescale": 2}),
    Entry("imtl_g", "imtl_g"),
    Entry("nash_mtl", "nash_mtl", {"update_every": 1, "max_norm": 1.0}),
    Entry("aligned_mtl", "aligned_mtl", {"scale_mode": "min"}),
    Entry("fairgrad 2", "fairgrad", {"alpha": 2.0}),
    Entry("upgrad", "upgrad"),
    Entry("dualproj", "dualproj"),
    Entry("config", "config"),
    Entry("sdmgrad 0.3", "sdmgrad", {"lamda": 0.3}),
    Entry("gradnorm", "gradnorm", {"alpha": 1.5}, positive=True),
    Entry("moco", "moco", positive=True),
    Entry("db_mtl", "db_mtl", positive=True),
    Entry("famo", "famo", {"gamma": 0.0, "lr": 0.025}, positive=True),
    Entry("scale_invariant", "scale_invariant", positive=True),
    Entry("gls", "gls", positive=True),
    Entry("uncertainty", "uncertainty", {"lr": 0.025}, positive=True),
    Entry("imtl_l", "imtl_l", {"lr": 0.025}, positive=True),
    Entry("imtl", "imtl", {"lr": 0.025}, positive=True),
    Entry("dwa", "dwa", {"iteration_window": 25}, positive=True),
    Entry("stch", "stch", {"mu": 1.0, "warmup": 0, "nadir_window": 1}, positive=True),
    Entry("igb_v1", "igb_v1", {"base_start": 0, "base_window": 1}, positive=True),
    Entry("go4align", "go4align", positive=True),
    Entry("igb_v1+cagrad", "igb_v1+cagrad", {"base_start": 0, "base_window": 1, "c": 0.5}, positive=True),
)


def entry(label: str) -> Entry:
    """The entry of a label."""
    return next(candidate for candidate in ENTRIES if candidate.label == label)


def run_entry(method: Entry, **protocol: Any) -> Descent:
    """Descend by one method.

    :param protocol: arguments of `descend`
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    balancer = make_balancer(method.balancer, num_tasks=2, generator=generator, **method.options)
    return descend(balancer, positive=method.positive, **protocol)


def run_all(processes: int, **protocol: Any) -> dict[str, Descent]:
    """Descend by every method, in parallel processes."""
    descents = {}
    # Unlike a multiprocessing.Pool, an executor tells when one of its processes was killed.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for method, descent in zip(ENTRIES, pool.map(partial(run_entry, **protocol), ENTRIES), strict=True):
            descents[method.label] = descent
            print(f"{method.label}: {descent.reached.sum()} of {len(STARTS)}", file=sys.stderr, flush=True)
    return descents


def table(descents: dict[str, Descent]) -> str:
    """Markdown: for every method and start the end point, and the step of arrival or **stuck**."""
    heads = [f"({x1:g}, {x2:g})" for x1, x2 in STARTS]
    lines = ["| method | reached | " + " | ".join(heads) + " |", "| --- " * (len(STARTS) + 2) + "|"]
    for label, descent in descents.items():
        cells = [
            f"{x1:.2f} at {arrival}" if arrival >= 0 else f"**stuck** ({x1:.2f}, {x2:.2f})"
            for (x1, x2), arrival in zip(descent.points, descent.arrivals, strict=True)
        ]
        lines.append(f"| {label} | {descent.reached.sum()} of {len(STARTS)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(descents: dict[str, Descent], path: Path) -> None:
    """Draw all trajectories over the contours of the sum of the objectives."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 6
    rows = -(-len(descents) // columns)
    canvas = FigureCanvasAgg(Figure(figsize=(2.3 * columns, 2.3 * rows), layout="constrained"))
    axes = canvas.figure.subplots(rows, columns, sharex=True, sharey=True).ravel()
    x1, x2 = np.meshgrid(np.linspace(-10, 10, 120), np.linspace(-10, 10, 120))
    losses, _ = evaluate(np.stack([x1.ravel(), x2.ravel()], 1), s=1.0)
    heights = losses.sum(1).reshape(x1.shape)
    for axis, (label, descent) in zip(axes, descents.items(), strict=False):
        axis.contourf(x1, x2, heights, levels=18, cmap="Greys", alpha=0.5)
        axis.plot(*FRONT, color="black", linewidth=2)
        for start in range(len(STARTS)):
            color = "tab:green" if descent.reached[start] else "tab:red"
            axis.plot(*descent.path[:, start].T, color=color, linewidth=1)
            axis.plot(*STARTS[start], "o", color=color, markersize=3)
            axis.plot(*descent.points[start], "*", color=color, markersize=7)
        axis.set_title(f"{label}: {descent.reached.sum()} of {len(STARTS)}", fontsize=9)
        axis.set(xlim=(-10, 10), ylim=(-10, 10))
    for axis in axes[len(descents) :]:
        axis.set_axis_off()
    canvas.figure.suptitle("Toy problem: trajectories from five starts to the Pareto front (black)", fontsize=11)
    canvas.figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000, help="published steps (default 50000)")
    parser.add_argument("--speed", type=float, default=5.0, help="published steps made in one (default 5)")
    parser.add_argument("--processes", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--output", type=Path, default=Path("runs/toy"), help="folder (default runs/toy)")
    arguments = parser.parse_args()
    require_folder(arguments.output, "--output")
    began = time.perf_counter()
    descents = run_all(arguments.processes, steps=arguments.steps, speed=arguments.speed, s=SCALE)
    text = table(descents)
    print(text)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "toy.md").write_text(text + "\n")
    figure(descents, arguments.output / "toy.png")
    print(f"\n{time.perf_counter() - began:.0f} s; wrote {arguments.output}/toy.png and toy.md")


if __name__ == "__main__":
    main()
