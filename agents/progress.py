"""How far every task has come, from training episodes only."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_HIGH = 95  # percentile of the recent returns that counts as what a task can reach


class TaskProgress:
    """Return and success of the training episodes of every task; returns are raw, whatever scales the rewards.

    Only `observe` adds to it, and only the training loop calls that: evaluation never enters.

    :param task_of_env: task of each of the N environments ``[N]``
    :param num_tasks: K
    :param window: episodes per task that count in the windowed means
    :param half_life: episodes after which an episode counts half in the smooth means
    :ivar budget_used: share of the training budget that is used, 0 to 1
    """

    def __init__(self, task_of_env: np.ndarray, num_tasks: int, window: int = 20, half_life: float = 10.0) -> None:
        self.task_of_env = task_of_env
        self.budget_used = 0.0
        self._returns: list[deque[float]] = [deque(maxlen=window) for _ in range(num_tasks)]
        self._successes: list[deque[float]] = [deque(maxlen=window) for _ in range(num_tasks)]
        self._share_of_new = 1.0 - 0.5 ** (1.0 / half_life)
        unknown = np.full(num_tasks, np.nan)
        self._by_task: dict[str, np.ndarray] = {  # each [K]
            "episodes": np.zeros(num_tasks),
            "random_episodes": np.zeros(num_tasks),
            "smooth_return": unknown.copy(),
            "smooth_success": unknown.copy(),
            "random_return": unknown.copy(),
            "best_return": unknown.copy(),
        }

    def observe(self, dones: np.ndarray, infos: Sequence[dict[str, Any]], random_actions: bool = False) -> None:
        """Take note of the episodes that ended at this vector step.

        :param random_actions: whether these episodes were made before learning started
        """
        for env in np.flatnonzero(dones).tolist():
            if "fault" in infos[env]:  # the environment was rebuilt: this was no episode
                continue
            task = self.task_of_env[env]
            self._by_task["episodes"][task] += 1
            if "is_success" in infos[env]:
                success = float(infos[env]["is_success"])
                self._successes[task].append(success)
                self._blend("smooth_success", task, success)
            if "episode" in infos[env]:
                self._note_return(task, float(infos[env]["episode"]["r"]), random_actions)

    def _note_return(self, task: int, value: float, random_actions: bool) -> None:
        self._returns[task].append(value)
        self._blend("smooth_return", task, value)
        count, baseline, best = (self._by_task[name] for name in ("random_episodes", "random_return", "best_return"))
        if random_actions or count[task] == 0:
            # Without random episodes, a task's first episode stands for them.
            count[task] += 1
            baseline[task] = np.nan_to_num(baseline[task])
            baseline[task] += (value - baseline[task]) / count[task]
        best[task] = np.fmax(best[task], np.percentile(self._returns[task], _HIGH))

    def _blend(self, name: str, task: int, value: float) -> None:
        mean = self._by_task[name]
        # The plain mean while it is young, so that the first episode does not outweigh the rest.
        share = max(self._share_of_new, 1.0 / self._by_task["episodes"][task])
        mean[task] = value if np.isnan(mean[task]) else mean[task] + share * (value - mean[task])

    @property
    def returns(self) -> Tensor:
        """Mean episode return ``[K]`` of the window; NaN before a task's first episode has ended."""
        return _means(self._returns)

    @property
    def successes(self) -> Tensor:
        """Share of successful episodes ``[K]`` in the window; NaN before a task's first episode has ended."""
        return _means(self._successes)

    @property
    def episodes(self) -> Tensor:
        """Episodes that have ended ``[K]``."""
        return self._tensor("episodes")

    @property
    def smooth_returns(self) -> Tensor:
        """Exponential mean of the returns ``[K]``; NaN before a task's first episode has ended."""
        return self._tensor("smooth_return")

    @property
    def smooth_successes(self) -> Tensor:
        """Exponential mean of the successes ``[K]``; NaN before a task's first episode has ended."""
        return self._tensor("smooth_success")

    @property
    def random_returns(self) -> Tensor:
        """Mean return of random actions ``[K]``, or that of a task's first episode; NaN before it has ended."""
        return self._tensor("random_return")

    @property
    def best_returns(self) -> Tensor:
        """Highest 95th percentile that the window's returns have had so far ``[K]``; NaN without an episode."""
        return self._tensor("best_return")

    def _tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self._by_task[name].astype(np.float32))

    def state_dict(self) -> dict[str, Any]:
        """All there is, as numbers, lists and tensors."""
        return {
            "budget_used": self.budget_used,
            "returns": [list(window) for window in self._returns],
            "successes": [list(window) for window in self._successes],
            "by_task": {name: torch.from_numpy(values.copy()) for name, values in self._by_task.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.budget_used = float(state["budget_used"])
        for windows, values in ((self._returns, state["returns"]), (self._successes, state["successes"])):
            for window, kept in zip(windows, values, strict=True):
                window.clear()
                window.extend(kept)
        for name, numbers in self._by_task.items():
            numbers[:] = state["by_task"][name].numpy()


def _means(windows: Sequence[deque[float]]) -> Tensor:
    return torch.tensor([np.mean(window) if window else np.nan for window in windows], dtype=torch.float32)
