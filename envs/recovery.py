"""What a vector does after a fault: rebuild the environments, or end and leave a state to resume from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import Backend
from .episodes import GoalSchedule
from .errors import EnvironmentFault
from .faults import Fault, RestartBudget, rows_of

_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_NO_ACCIDENT = ", and again after it was rebuilt: no accident, for it has never begun an episode"


def _alike(sentence: str, before: str) -> bool:
    """Whether two faults say the same, whatever numbers and addresses they name."""
    return _NUMBER.sub("", sentence) == _NUMBER.sub("", before)


class Recovery:
    """Rebuilds the environments of one vector that failed, as often as its budget allows.

    :param task_names: the K task names; row i of the vector is of task ``i % K``.
    :param backend: what moves the environments.
    :param seed: from which the fresh streams of goals come; to be set again when the vector is reseeded.
    :param max_restarts: faults to get over before one ends the vector.
    :ivar restarts: the faults so far.
    :ivar left: the state to resume from, of a vector that a fault has ended.
    """

    def __init__(self, task_names: Sequence[str], backend: Backend, seed: int, max_restarts: int) -> None:
        self.task_names, self.backend, self.arrays, self.seed = tuple(task_names), backend, backend.arrays, seed
        self.restarts = RestartBudget(self.task_names, max_restarts)
        self.left: dict[str, Any] | None = None
        self._begun = False  # whether all environments have begun an episode
        self._observations, self._rewards = self.arrays.observations.copy(), self.arrays.rewards.copy()

    def remember(self) -> None:
        """Keep the numbers before a step: if it is lost, it is reported as one that changed nothing."""
        self._observations[:], self._rewards[:] = self.arrays.observations, self.arrays.rewards

    def after_step(self, faults: list[Fault]) -> dict[int, str]:
        """Rebuild what failed in a step, and report the step as one that changed nothing and was cut off.

        :param faults: those that the backend noticed.
        :return: what happened, by row of every environment that was rebuilt.
        :raises EnvironmentFault: when no restart is left.
        """
        lost = self._rebuild(faults + self._not_finite("step", rows_of(faults)))
        arrays = self.arrays
        for i in lost:
            arrays.terminal[i], arrays.rewards[i] = self._observations[i], self._rewards[i]
            arrays.terminated[i], arrays.truncated[i] = False, True
            arrays.success[i] = arrays.solved[i] = False
        return lost

    def after_reset(self, faults: list[Fault]) -> None:
        """Rebuild what failed at the beginning of an episode.

        :param faults: those that the backend noticed.
        :raises EnvironmentFault: when no restart is left, or the same fault comes back before a first episode.
        """
        self._rebuild(faults + self._not_finite("reset", rows_of(faults)))
        self._begun = True

    def _rebuild(self, faults: list[Fault]) -> dict[int, str]:
        lost: dict[int, str] = {}
        while faults:
            for fault in faults:
                if not self._begun and any(_alike(fault.sentence, lost.get(row, "")) for row in fault.rows):
                    raise fault.error(_NO_ACCIDENT)
                self._spend(fault, rows_of(faults))
                lost |= dict.fromkeys(fault.rows, fault.sentence)
            rows = rows_of(faults)
            faults = self.backend.restart(rows, [self.restarts.fresh_seed(self.seed)] * len(rows))
            faults += self._not_finite("reset", rows_of(faults))
        return lost

    def _spend(self, fault: Fault, failed: Sequence[int]) -> None:
        """Count a fault. If it is one too many, leave what another vector can resume from.

        :param failed: the environments that nothing can be asked of now.
        """
        try:
            self.restarts.spend(fault)
        except EnvironmentFault:
            if not self.backend.saved_whole:
                self.left = self._without(failed, self.restarts.after(fault))
            raise

    def state(self) -> dict[str, Any]:
        """JSON-able state of the vector's environments.

        :raises EnvironmentFault: when a worker has died since the last step; the next step gets over it.
        """
        return self._state(self.backend.call("state", range(self._num_envs)), self.restarts)

    def state_without(self, failed: Sequence[int]) -> dict[str, Any]:
        """The same when some environments cannot answer: the state that rebuilding them would produce."""
        return self._without(failed, self.restarts)

    def _without(self, failed: Sequence[int], restarts: RestartBudget) -> dict[str, Any]:
        seed, num_tasks = restarts.fresh_seed(self.seed), len(self.task_names)
        states = [
            GoalSchedule(self._task(i), i // num_tasks, self._num_envs // num_tasks, 0, "random", seed).state()
            for i in range(self._num_envs)
        ]
        healthy = [i for i in range(self._num_envs) if i not in failed]
        # If one more of them fails now, all begin with new goals.
        with contextlib.suppress(EnvironmentFault):
            for i, known in zip(healthy, self.backend.call("state", healthy), strict=True):
                states[i] = known
        return self._state([{"length": 0, **state} for state in states], restarts)

    def _state(self, envs: list[dict[str, Any]], restarts: RestartBudget) -> dict[str, Any]:
        return {"task_names": list(self.task_names), "envs": envs, "restarts": restarts.state_dict()}

    def _not_finite(self, when: str, except_rows: Sequence[int]) -> list[Fault]:
        """One fault for every environment with a number that is not finite."""
        arrays, everywhere = self.arrays, np.arange(self._num_envs)
        parts = [("an observation", arrays.observations, everywhere)]
        if when == "step":
            ended = np.flatnonzero(arrays.terminated | arrays.truncated)
            parts += [("a reward", arrays.rewards, everywhere), ("an observation", arrays.terminal[ended], ended)]
        faults: dict[int, Fault] = {}
        for what, values, rows in parts:
            if np.isfinite(values).all():
                continue
            for place in np.argwhere(~np.isfinite(values)).tolist():
                i, value = int(rows[place[0]]), values[tuple(place)]
                if i in except_rows or i in faults:
                    continue
                entry = f" at entry {place[1]}" if values.ndim > 1 else ""
                who = f"task {self._task(i)!r} (environment {i})"
                sentence = f"{who} returned {what} that is not finite in {when}: {value}{entry}"
                faults[i] = Fault((i,), (self._task(i),), sentence)
        return list(faults.values())

    @property
    def _num_envs(self) -> int:
        return len(self.arrays.rewards)

    def _task(self, row: int) -> str:
        return self.task_names[row % len(self.task_names)]
