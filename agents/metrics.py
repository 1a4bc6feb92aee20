"""What an update reports: tensors summed on the device, named and averaged only when they are logged."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Metrics of an update, and the tag each has in a log: SB3's name for the mean over tasks, `<tag>/<task>` for one task.
MEAN_TAGS = {
    "critic_loss": "train/critic_loss",
    "actor_loss": "train/actor_loss",
    "temperature": "train/ent_coef",
    "temperature_loss": "train/ent_coef_loss",
    "q_value": "train/q_value",
    "entropy": "train/entropy",
    "critic_gradient_norm": "train/critic_gradient_norm",
    "actor_gradient_norm": "train/actor_gradient_norm",
}
TASK_TAGS = {
    "critic_loss": "train_critic_loss",
    "actor_loss": "train_actor_loss",
    "temperature": "ent_coef",
    "q_value": "train_q_value",
    "entropy": "train_entropy",
    "critic_balancer.weights": "balancer_weight",
    "actor_balancer.weights": "balancer_weight_actor",
}


class UpdateMetrics:
    """Running means of the metrics of several updates; no synchronisation with the device until `flush`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one update's metrics, each a scalar or ``[K]``."""
        for name, value in metrics.items():
            total = self._sums.get(name)
            self._sums[name] = value.clone() if total is None else total.add_(value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def state(self) -> dict[str, Any]:
        """What was added since the last flush."""
        sums = {name: total.clone() for name, total in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Undo `state`."""
        self._sums = {name: total.to(device, copy=True) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])

    def flush(self, task_names: Sequence[str]) -> dict[str, float]:
        """Means since the last flush by tag; starts anew."""
        means = {name: (total / self._counts[name]).cpu() for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        tags: dict[str, float] = {}
        for name, value in means.items():
            if value.ndim == 0 or name in MEAN_TAGS:
                tags[MEAN_TAGS.get(name, f"train/{name}")] = float(value.mean())
            if value.ndim == 1 and name in TASK_TAGS:
                tags.update({f"{TASK_TAGS[name]}/{task}": float(v) for task, v in zip(task_names, value, strict=True)})
        return tags


def with_prefix(prefix: str, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same metrics under ``prefix.name``, without graph."""
    return {f"{prefix}.{name}": torch.as_tensor(value).detach() for name, value in metrics.items()}
