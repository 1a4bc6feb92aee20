"""What a balancer sees of an update: the losses, and on touch the gradients, of all tasks or of some."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from agents.errors import ConfigurationError
from agents.selection import Selection

Block = tuple[slice, Tensor]  # columns of the Jacobian, and the K task gradients in them [K, M]


class Progress(Protocol):
    """How far the tasks have come, by training episodes; `TaskProgress` is one. All but `budget_used` are ``[K]``."""

    budget_used: float

    @property
    def episodes(self) -> Tensor: ...
    @property
    def totals(self) -> Tensor: ...  # [4, K], see `agents.progress.TOTALS`
    @property
    def target_returns(self) -> Tensor: ...
    @property
    def random_returns(self) -> Tensor: ...
    @property
    def best_returns(self) -> Tensor: ...


@dataclass(frozen=True)
class UpdateContext:
    """What is known of an update beside its losses.

    :param selection: the tasks that it is for
    :param task_names: for errors
    :param step: updates made before
    :param progress: returns and success of training episodes; None where the agent does not say
    :param temperatures: entropy temperatures of the tasks ``[K]``; None for an agent without
    :param learning_rate: of the step to come; None where the agent does not say
    """

    selection: Selection
    task_names: tuple[str, ...] = ()
    step: int = 0
    progress: Progress | None = None
    temperatures: Tensor | None = None
    learning_rate: float | None = None

    def narrowed(self, selection: Selection) -> "UpdateContext":
        """The same for fewer tasks."""
        return self if selection is self.selection else replace(self, selection=selection)

    def task_name(self, task: int) -> str:
        """The name of a task, or its number where tasks have no names."""
        return self.task_names[task] if self.task_names else f"task {task}"

    @property
    def budget_used(self) -> float:
        """Share of the training budget that is used; 0 where the agent does not say."""
        return 0.0 if self.progress is None else float(self.progress.budget_used)


class Tasks:
    """K tasks of one update. An idle task has NaN for a loss and zero for a gradient.

    :param context: what is known beside the losses
    """

    def __init__(self, context: UpdateContext) -> None:
        self.context = context

    @property
    def losses(self) -> Tensor:
        """``[K]``, detached."""
        raise NotImplementedError

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """What the loss function reports beside the losses, each ``[K, ...]``."""
        return {}

    @property
    def gramian(self) -> Tensor:
        """Inner products of the task gradients ``[K, K]``."""
        raise NotImplementedError

    @property
    def jacobian(self) -> Tensor:
        """Task gradients as rows ``[K, P]``; an agent that keeps them layer by layer has none."""
        raise NotImplementedError

    def blocks(self) -> Iterator[Block]:
        """The Jacobian column block by column block, read-only; a block does not outlive the next."""
        yield slice(None), self.jacobian.detach()

    @cached_property
    def gradient_norms(self) -> Tensor:
        """``[K]``."""
        norms = torch.zeros_like(self.losses)
        for _, rows in self.blocks():
            norms = norms.hypot(torch.linalg.vector_norm(rows, dim=-1))
        return norms

    @property
    def selection(self) -> Selection:
        """The active tasks."""
        return self.context.selection

    def task_name(self, task: int) -> str:
        """Name of the task in row `task`."""
        return self.context.task_name(task)

    def weighted(self, weights: Tensor) -> "Tasks":
        """The same tasks with losses and gradients multiplied by ``weights [K]``."""
        return _Weighted(self, weights)

    def only(self, selection: Selection) -> "Tasks":
        """Some of the tasks, as if there were no others: ``losses [n]``, ``gramian [n, n]``, ``jacobian [n, P]``."""
        return _Only(self, selection)


class GivenTasks(Tasks):
    """Tasks whose numbers are all there: what a test or a program without an agent hands to a balancer.

    :param losses: ``[K]``
    :param jacobian: ``[K, P]``, for methods that look at gradients
    :param gramian: ``[K, K]``; None takes the Jacobian's
    :param metrics: what a critic reports beside its losses
    :param context: what is known beside; None is an update of all tasks of which nothing else is known
    """

    def __init__(
        self,
        losses: Tensor,
        jacobian: Tensor | None = None,
        gramian: Tensor | None = None,
        metrics: Mapping[str, Tensor] | None = None,
        context: UpdateContext | None = None,
    ) -> None:
        super().__init__(context or UpdateContext(Selection.whole(losses.shape[-1])))
        self._losses, self._jacobian, self._gramian, self._metrics = losses, jacobian, gramian, metrics or {}

    @property
    def losses(self) -> Tensor:
        return self._losses

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        return self._metrics

    @property
    def jacobian(self) -> Tensor:
        if self._jacobian is None:
            raise ConfigurationError("These tasks were given without gradients, and the method looks at them.")
        return self._jacobian

    @property
    def gramian(self) -> Tensor:
        return self.jacobian @ self.jacobian.mT if self._gramian is None else self._gramian


_OF_CONTEXT = frozenset(field.name for field in fields(UpdateContext))
_OF_TASKS = frozenset({"losses", "jacobian", "gramian", "metrics"})


def as_tasks(tasks: Any) -> Tasks:
    """Tasks from any object with such attributes, a ``SimpleNamespace`` for one; `Tasks` are returned as they are.

    :param tasks: with `losses`, and what else the method needs; `present`, boolean ``[K]``, marks the active tasks
    """
    if isinstance(tasks, Tasks):
        return tasks
    given = vars(tasks)
    active = given.get("present")
    whole = Selection.whole(given["losses"].shape[-1])
    known: dict[str, Any] = {"selection": whole if active is None else Selection.of(active)}
    known |= {name: value for name, value in given.items() if name in _OF_CONTEXT}
    numbers = {name: value for name, value in given.items() if name in _OF_TASKS}
    return GivenTasks(**numbers, context=UpdateContext(**known))


class _Seen(Tasks):
    """Tasks as a method sees them through another one."""

    def __init__(self, tasks: Tasks, context: UpdateContext | None = None) -> None:
        super().__init__(context or tasks.context)
        self.tasks = tasks

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        return self.tasks.metrics

    def task_name(self, task: int) -> str:
        return self.tasks.task_name(task)


class _Weighted(_Seen):
    def __init__(self, tasks: Tasks, weights: Tensor) -> None:
        super().__init__(tasks)
        self.weights = weights

    @property
    def losses(self) -> Tensor:
        return self.tasks.losses * self.weights

    @property
    def gramian(self) -> Tensor:
        return self.tasks.gramian * self.weights.unsqueeze(-1) * self.weights.unsqueeze(-2)

    @property
    def jacobian(self) -> Tensor:
        return self.tasks.jacobian * self.weights.unsqueeze(-1)

    def blocks(self) -> Iterator[Block]:
        for columns, rows in self.tasks.blocks():
            yield columns, rows * self.weights.unsqueeze(-1)


class _Only(_Seen):
    def __init__(self, tasks: Tasks, selection: Selection) -> None:
        super().__init__(tasks, tasks.context.narrowed(selection))
        self.index = selection.on(tasks.losses.device)

    @property
    def losses(self) -> Tensor:
        return self.tasks.losses[self.index]

    @property
    def gramian(self) -> Tensor:
        return self.tasks.gramian[self.index][:, self.index]

    @property
    def jacobian(self) -> Tensor:
        return self.tasks.jacobian[self.index]

    def blocks(self) -> Iterator[Block]:
        for columns, rows in self.tasks.blocks():
            yield columns, rows[self.index]

    def task_name(self, task: int) -> str:
        return self.tasks.task_name(int(self.selection.task[task]))


class AsKnown(_Seen):
    """Tasks with losses and metrics that are known of all K, where those of this update are of some.

    :param losses: ``[K]``
    :param metrics: each ``[K]``
    """

    def __init__(self, tasks: Tasks, losses: Tensor, metrics: Mapping[str, Tensor]) -> None:
        super().__init__(tasks)
        self._losses, self._metrics = losses, metrics

    @property
    def losses(self) -> Tensor:
        return self._losses

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        return self._metrics

    @property
    def gramian(self) -> Tensor:
        return self.tasks.gramian

    @property
    def jacobian(self) -> Tensor:
        return self.tasks.jacobian

    def blocks(self) -> Iterator[Block]:
        return self.tasks.blocks()
