"""What searches of task weights came to, and what they cost: ``python -m benchmarks.population FOLDER...``.

From the folders that `mtrl tune` left, repetitions of one search: final success beside that of the baselines, and the
time that a generation takes beyond its training, extrapolated to more members and workers.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

PLAN = ((8, 1), (8, 2), (8, 8), (64, 8), (64, 64))  # members, workers
INTERVALS = (2.0, 60.0, 600.0)  # seconds that a member trains between two copies


def comparison(folders: Iterable[Path]) -> str:
    """Mean over repetitions of what each repetition's own comparison says, and every repetition's best."""
    found = [json.loads((folder / "comparison.json").read_text(encoding="utf-8")) for folder in folders]
    rows = []
    for name in [key for key in found[0] if key != "env_steps_each"]:
        parts = [entry[name] for entry in found]
        means = [
            _mean(part[key] for part in parts)
            for key in ("mean", "mean_worst_task", "best_of_n", "best_of_n_worst_task")
        ]
        rows.append([name, parts[0]["runs"], *means, ", ".join(f"{part['best_of_n']:.2f}" for part in parts)])
    header = ["", "runs each", "mean", "its worst task", "best of N", "its worst task", "best of N, each repetition"]
    return tabulate(rows, headers=header, tablefmt="github", floatfmt=".2f")


def overhead(folder: Path, workers: int) -> dict[str, float]:
    """Seconds that a search takes beyond its training; the first generation, which starts Ray, is apart.

    :param workers: that the search ran with
    :return: ``first``: of the first generation; ``copies``: in the driver, while nobody trains, for each member of a
        generation; ``job``: of a worker, for each interval of a member; ``training``: of such an interval
    """
    lines = [json.loads(line) for line in (folder / "times.jsonl").read_text(encoding="utf-8").splitlines()]
    members = len(json.loads((folder / "search.json").read_text(encoding="utf-8"))["generations"][0]["members"])
    wall, jobs, copies = (
        np.array([line[key] for line in lines]) for key in ("wall_seconds", "job_seconds", "copy_seconds")
    )
    beyond = wall - copies - jobs / workers
    return {
        "first": float(beyond[0]),
        "copies": float(copies[1:].mean()) / members,
        "job": float(beyond[1:].mean()) * workers / members,
        "training": float(jobs[1:].mean()) / members,
        "wall": float(wall.sum()),
    }


def plan(per_job: float, per_copy: float) -> str:
    """Share of the workers' time that is training, extrapolated from what one machine has shown.

    :param per_job: seconds of a worker beyond the training of an interval
    :param per_copy: seconds of the driver for each member of a generation, one after the other
    """
    rows = []
    for members, workers in PLAN:
        rounds = -(-members // workers)
        shares = [rounds * seconds / (rounds * (seconds + per_job) + members * per_copy) for seconds in INTERVALS]
        rows.append([members, workers, *(f"{share:.0%}" for share in shares)])
    return tabulate(rows, headers=["members", "workers", *(f"{s:g} s" for s in INTERVALS)], tablefmt="github")


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def main(arguments: list[str]) -> None:
    """Print the tables; ``FOLDER:2`` says that a search had two workers."""
    searches = [argument.rpartition(":") if ":" in argument else (argument, "", "1") for argument in arguments]
    folders = [Path(folder) for folder, _, _ in searches]
    print(comparison(folders), end="\n\n")
    costs = [overhead(folder, int(workers)) for folder, (_, _, workers) in zip(folders, searches, strict=True)]
    names = ("first", "copies", "job", "training", "wall")
    rows = [
        [folder.name, workers, *(cost[name] for name in names)]
        for folder, (_, _, workers), cost in zip(folders, searches, costs, strict=True)
    ]
    print(tabulate(rows, headers=["search", "workers", *names], tablefmt="github", floatfmt=".2f"), end="\n\n")
    print(plan(*(float(np.mean([cost[name] for cost in costs])) for name in ("job", "copies"))))


if __name__ == "__main__":
    main(sys.argv[1:])
