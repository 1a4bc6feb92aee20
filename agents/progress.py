"""How far every task has come, from training episodes only."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class TaskProgress:
    """Return and success of the last `window` training episodes of every task.

    :param task_of_env: task of each of the N environments ``[N]``
    :param num_tasks: K
    :param window: episodes per task that count
    """

    def __init__(self, task_of_env: np.ndarray, num_tasks: int, window: int = 20) -> None:
        self.task_of_env = task_of_env
        self._returns: list[deque[float]] = [deque(maxlen=window) for _ in range(num_tasks)]
        self._successes: list[deque[float]] = [deque(maxlen=window) for _ in range(num_tasks)]

    def observe(self, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> None:
        """Take note of the episodes that ended at this vector step."""
        for env in np.flatnonzero(dones).tolist():
            task = self.task_of_env[env]
            if "episode" in infos[env]:
                self._returns[task].append(float(infos[env]["episode"]["r"]))
            if "is_success" in infos[env]:
                self._successes[task].append(float(infos[env]["is_success"]))

    def state(self) -> dict[str, Any]:
        """The windows of every task, as lists of numbers."""
        return {
            "returns": [list(window) for window in self._returns],
            "successes": [list(window) for window in self._successes],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        for name, windows in (("returns", self._returns), ("successes", self._successes)):
            for window, values in zip(windows, state[name], strict=True):
                window.clear()
                window.extend(values)

    @property
    def returns(self) -> Tensor:
        """Mean episode return ``[K]``; NaN before a task's first episode has ended."""
        return _means(self._returns)

    @property
    def successes(self) -> Tensor:
        """Share of successful episodes ``[K]``; NaN before a task's first episode has ended."""
        return _means(self._successes)


def _means(windows: Sequence[deque[float]]) -> Tensor:
    return torch.tensor([np.mean(window) if window else np.nan for window in windows], dtype=torch.float32)
