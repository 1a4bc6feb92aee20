"""Task weights over the budget as a file: what `mtrl tune` writes and ``balancer=schedule schedule=FILE`` reads.

``{"tasks": ["reach-v3", ...], "steps": [{"budget_used": 0.0, "weights": [1.0, ...]}, ...]}``
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl.errors import ConfigError


@dataclass(frozen=True)
class WeightSchedule:
    """Weights that begin at shares of the budget.

    :param tasks: names of the K tasks
    :param times: shares of the budget, rising from 0, ``[n]``
    :param weights: ``[n, K]``
    """

    tasks: tuple[str, ...]
    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]


def read_schedule(path: str | Path) -> WeightSchedule:
    """The schedule of a file; its numbers are checked by the balancer, which knows K.

    :raises ConfigError: if there is none
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        tasks, steps = tuple(map(str, found["tasks"])), found["steps"]
        times = tuple(float(step["budget_used"]) for step in steps)
        weights = tuple(tuple(float(weight) for weight in step["weights"]) for step in steps)
    except OSError as error:
        raise ConfigError(f"schedule must be a file that mtrl tune wrote, '{path}': {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"schedule must be a file that mtrl tune wrote, '{path}' is none ({reason}).") from error
    return WeightSchedule(tasks, times, weights)


def write_schedule(schedule: WeightSchedule, path: Path) -> None:
    """Write what `read_schedule` reads."""
    rows = zip(schedule.times, schedule.weights, strict=True)
    steps: list[dict[str, Any]] = [{"budget_used": time, "weights": list(row)} for time, row in rows]
    path.write_text(json.dumps({"tasks": list(schedule.tasks), "steps": steps}, indent=1) + "\n", encoding="utf-8")
