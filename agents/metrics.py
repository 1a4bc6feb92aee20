"""What an update reports: tensors summed on the device, named and averaged only when they are logged."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.tags import MEAN_TAGS, RANGE_TAGS, TASK_TAGS, of_task


class UpdateMetrics:
    """Running means of the metrics of several updates; no synchronisation with the device until `flush`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor], group: Tensor | None = None) -> None:
        """Add one update's metrics, each a scalar or ``[K]``.

        :param group: tasks that were at work, boolean ``[K]``; None for all. A task at rest has NaN for what was not
            computed, and that does not count; a task at work that has NaN shows it
        """
        for name, value in metrics.items():
            counted = torch.ones_like(value)
            if group is not None and value.ndim == 1:
                counted = (group.to(value.device, non_blocking=True) | ~value.isnan()).to(value)
                value = torch.where(counted > 0, value, torch.zeros_like(value))
            total = self._sums.get(name)
            self._sums[name] = value.clone() if total is None else total.add_(value)
            self._counts[name] = counted + self._counts[name] if total is not None else counted

    def state(self) -> dict[str, Any]:
        """What was added since the last flush."""
        parts = {"sums": self._sums, "counts": self._counts}
        return {part: {name: total.clone() for name, total in totals.items()} for part, totals in parts.items()}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Undo `state`."""
        self._sums, self._counts = (
            {name: total.to(device, copy=True) for name, total in state[part].items()} for part in ("sums", "counts")
        )

    def flush(self, task_names: Sequence[str]) -> dict[str, float]:
        """Means since the last flush by tag; starts anew."""
        counts = {name: count.cpu() for name, count in self._counts.items()}
        means = {name: (total / self._counts[name]).cpu() for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        tags: dict[str, float] = {}
        for name, value in means.items():
            seen = counts[name] > 0
            if value.ndim == 0 or name in MEAN_TAGS:
                tags[MEAN_TAGS.get(name, f"train/{name}")] = float(value[seen].mean())
            if value.ndim == 1 and name in TASK_TAGS:
                rows = zip(task_names, value, seen, strict=True)
                tags.update({of_task(TASK_TAGS[name], task): float(v) for task, v, known in rows if known})
            for tag, extreme in RANGE_TAGS.get(name, ()):
                tags[tag] = float(extreme(value[seen]))
        return tags


def with_prefix(prefix: str, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same metrics under ``prefix.name``, without graph."""
    return {f"{prefix}.{name}": torch.as_tensor(value).detach() for name, value in metrics.items()}
