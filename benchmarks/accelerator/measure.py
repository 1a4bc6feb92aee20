"""One part, in a process of its own: every row is written as soon as it is known.

``python -m benchmarks.accelerator.measure PART OUT``, started by ``python -m benchmarks.accelerator``.
"""

import argparse
import importlib.util
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.accelerator.plan import PARTS

NEEDED = ("torch", "numpy", "gymnasium", "mujoco", "metaworld", "stable_baselines3", "hydra", "scipy", "rich", "psutil")


def describe_machine() -> dict[str, Any]:
    """What is here, and what is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    found: dict[str, Any] = {
        "missing": missing,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }
    if "torch" in missing:
        return {**found, "torch": None, "device": None}
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {**found, "torch": torch.__version__, "device": device}


def bind(cores: int) -> None:
    """Leave this process, and those that it starts, some of the cores; all where there are fewer."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def measurements(name: str, rehearse: bool, out: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The measurements of a part: what each is of, and a call that makes it."""
    from benchmarks.accelerator import checks, environments, updates
    from benchmarks.accelerator.setup import REHEARSAL, Setup

    setup = REHEARSAL if rehearse else Setup()
    if name == "training":
        return environments.training(setup, out)
    parts = {
        "checks": checks.checks,
        "updates": updates.updates,
        "mtppo": updates.ppo,
        "balancers": updates.balancers,
        "env_steps": environments.env_steps,
        "end_to_end": environments.end_to_end,
        "compiled": updates.compiled,
    }
    return parts.get(name, environments.choices)(setup)


def attempt(what: str, measurement: Callable[[], Any]) -> list[dict[str, Any]]:
    """The rows of a measurement, or one that says in a sentence why there is none."""
    import torch

    from mtrl.errors import sentence

    try:
        rows = measurement()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        rows = {"note": "CUDA out of memory: not measured."}
    except Exception as error:
        rows = {"note": f"Failed: {sentence(error)}"}
    return [{"of": what, "what": what, **row} for row in (rows if isinstance(rows, list) else [rows])]


def measure(name: str, out: Path, rehearse: bool) -> None:
    """Add the rows of a part that are missing to its file."""
    path = out / f"{name}.jsonl"
    done = {row["of"] for row in read_rows(path)}
    with path.open("a", encoding="utf-8") as file:
        for what, measurement in measurements(name, rehearse, out):
            if what not in done:
                file.writelines(json.dumps(row) + "\n" for row in attempt(what, measurement))
                file.flush()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; without one that a process died in."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["machine", *(part.name for part in PARTS)])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    if arguments.part == "machine":
        print(json.dumps(describe_machine()))
        return
    cores = next(part.cores for part in PARTS if part.name == arguments.part)
    if cores is not None:
        bind(cores)  # before torch starts its threads
    measure(arguments.part, arguments.out.resolve(), arguments.rehearse)


if __name__ == "__main__":
    main()
