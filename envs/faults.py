"""What goes wrong in an environment while it runs, and how often a vector of environments gets over it."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ContractError, EnvironmentFault, WorkerTraceback

_LOG = logging.getLogger("envs")


@dataclass(frozen=True)
class Fault:
    """One failure: which environments it cost, and what is to be said about it.

    :param rows: the environments that must be rebuilt, rows of the vector
    :param tasks: the tasks to be named: the one at fault, or all of a worker's where nobody can tell
    :param sentence: what happened, without a full stop
    :param cause: the exception, where it was raised in this process
    :param trace: the traceback as text, where it was raised in a worker
    :param mistake: whether the environment broke its contract, which a restart would not change
    """

    rows: tuple[int, ...]
    tasks: tuple[str, ...]
    sentence: str
    cause: Exception | None = None
    trace: str = ""
    mistake: bool = False

    @classmethod
    def of(cls, row: int, task: str, what: str, error: Exception) -> Fault:
        """The fault of one environment that raised."""
        if isinstance(error, ContractError):
            return cls((row,), (task,), f"task {task!r} {error}", mistake=True)
        return cls((row,), (task,), f"task {task!r} {what}: {type(error).__name__}: {error}", error)

    def to_travel(self) -> Fault:
        """The same without the exception, which may not be picklable; its words can be sent to another process."""
        if self.mistake:
            return self
        text = "".join(traceback.format_exception(self.cause)) if self.cause is not None else self.trace
        return dataclasses.replace(self, cause=None, trace=text)

    def error(self, more: str = "") -> EnvironmentFault:
        """The exception that ends the run: one sentence; where it was raised is shown as its cause."""
        if self.mistake:
            return ContractError(self.sentence, self.rows)
        error = EnvironmentFault(f"{self.sentence}{more}", self.rows)
        error.__cause__ = self.cause or (WorkerTraceback(self.trace) if self.trace else None)
        return error


class RestartBudget:
    """Counts the faults that a vector gets over, by task, and ends it when there are too many.

    :param task_names: the K task names
    :param most: faults to get over; 0 gets over none
    """

    def __init__(self, task_names: Sequence[str], most: int) -> None:
        self.most = most
        self.total = 0  # faults in the whole life of the vector, across its pauses
        self.by_task = dict.fromkeys(task_names, 0)
        self._here = 0  # faults since this object was made: a run that is resumed has its whole budget again

    def spend(self, fault: Fault) -> None:
        """Count a fault and name it in the log.

        :raises EnvironmentFault: if the budget does not allow it
        """
        if fault.mistake:
            raise fault.error()
        if self._here >= self.most:
            spent = f" (after {self._here} restarts, all that were allowed)" if self.most else ""
            raise fault.error(spent)
        self._here += 1
        self._count(fault)
        _LOG.warning("%s; rebuilt, restart %d of at most %d", fault.sentence, self._here, self.most)

    def after(self, fault: Fault) -> RestartBudget:
        """The counts with one fault more, that another process may get over."""
        counts = RestartBudget(tuple(self.by_task), self.most)
        counts.load_state_dict(self.state_dict())
        counts._count(fault)
        return counts

    def _count(self, fault: Fault) -> None:
        self.total += 1
        for task in fault.tasks:
            self.by_task[task] += 1

    def fresh_seed(self, seed: int) -> int:
        """A seed that no restart before this one had."""
        return int(np.random.SeedSequence([seed, self.total]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able counts."""
        return {"total": self.total, "by_task": dict(self.by_task)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        self.total = int(state["total"])
        self.by_task = {task: int(state["by_task"].get(task, 0)) for task in self.by_task}


def rows_of(faults: Iterable[Fault]) -> list[int]:
    """The environments that faults have cost, in order."""
    return sorted({row for fault in faults for row in fault.rows})
