"""How far every task has come, from training episodes only."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_HIGH = 95  # percentile of the recent returns that counts as what a task can reach
TOTALS = ("returned", "return_sum", "judged", "successes")  # episodes with a return, and judged by a rule of success


class TaskProgress:
    """Return and success of the training episodes of every task; returns are raw, whatever scales the rewards.

    Only `observe` adds to it, and only the training loop calls that: evaluation never enters.

    :param task_of_env: task of each of the N environments ``[N]``
    :param num_tasks: K
    :param window: episodes per task that count in the windowed means
    :param target_returns: return that counts as solved ``[K]``, NaN where none is known; None if none is
    :ivar budget_used: share of the training budget that is used, 0 to 1
    """

    def __init__(
        self,
        task_of_env: np.ndarray,
        num_tasks: int,
        window: int = 20,
        target_returns: np.ndarray | None = None,
    ) -> None:
        self.task_of_env = task_of_env
        self.budget_used = 0.0
        self._returns: list[deque[float]] = [deque(maxlen=window) for _ in range(num_tasks)]
        self._successes: list[deque[float]] = [deque(maxlen=window) for _ in range(num_tasks)]
        unknown = np.full(num_tasks, np.nan)
        self._targets = unknown if target_returns is None else np.asarray(target_returns, dtype=float)
        self._by_task: dict[str, np.ndarray] = {  # each [K]
            "episodes": np.zeros(num_tasks),
            "random_episodes": np.zeros(num_tasks),
            "random_return": unknown.copy(),
            "best_return": unknown.copy(),
            **{name: np.zeros(num_tasks) for name in TOTALS},
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
                if infos[env].get("success_is_judged", True):
                    self._by_task["judged"][task] += 1
                    self._by_task["successes"][task] += success
            if "episode" in infos[env]:
                self._note_return(task, float(infos[env]["episode"]["r"]), random_actions)

    def _note_return(self, task: int, value: float, random_actions: bool) -> None:
        self._returns[task].append(value)
        self._by_task["returned"][task] += 1
        self._by_task["return_sum"][task] += value
        count, baseline, best = (self._by_task[name] for name in ("random_episodes", "random_return", "best_return"))
        if random_actions or count[task] == 0:
            # Without random episodes, a task's first episode stands for them.
            count[task] += 1
            baseline[task] = np.nan_to_num(baseline[task])
            baseline[task] += (value - baseline[task]) / count[task]
        best[task] = np.fmax(best[task], np.percentile(self._returns[task], _HIGH))

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
    def random_returns(self) -> Tensor:
        """Mean return of random actions ``[K]``, or that of a task's first episode; NaN before it has ended."""
        return self._tensor("random_return")

    @property
    def best_returns(self) -> Tensor:
        """Highest 95th percentile that the window's returns have had so far ``[K]``; NaN without an episode."""
        return self._tensor("best_return")

    @property
    def target_returns(self) -> Tensor:
        """Return that counts as solved ``[K]``, as the suite knows it; NaN where it does not."""
        return torch.from_numpy(self._targets.astype(np.float32))

    @property
    def totals(self) -> Tensor:
        """Sums over all episodes so far ``[4, K]``, in double precision and in the order of `TOTALS`."""
        return torch.from_numpy(np.stack([self._by_task[name] for name in TOTALS]))

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
            # Files of earlier versions hold no totals.
            numbers[:] = state["by_task"][name].numpy() if name in state["by_task"] else 0.0


def _means(windows: Sequence[deque[float]]) -> Tensor:
    return torch.tensor([np.mean(window) if window else np.nan for window in windows], dtype=torch.float32)
