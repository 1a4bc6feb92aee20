"""Updates for a part of the tasks: how a method works on the tasks that a scheduler has picked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from agents.balancing.balancer import Balancer, Tasks, gradient_blocks
from agents.errors import ConfigurationError

READ_METRICS = ("target_variance", "squared_error")  # of a critic, by methods that look at no gradients


class ActiveTasks:
    """The tasks of one group, as a gradient method sees them.

    :param active: which tasks, boolean ``[K]`` on the host
    """

    def __init__(self, tasks: Tasks, active: Tensor) -> None:
        self.tasks = tasks
        self.active = active
        self.index = active.nonzero().squeeze(-1).to(tasks.losses.device)
        names = getattr(tasks, "task_names", ()) or [f"task {task}" for task in range(len(active))]
        self.task_names = tuple(name for name, is_active in zip(names, active.tolist(), strict=True) if is_active)
        self.num_tasks = len(self.index)

    @property
    def losses(self) -> Tensor:
        return self.tasks.losses[self.index]

    @property
    def gramian(self) -> Tensor:
        return self.tasks.gramian[self.index][:, self.index]

    @property
    def jacobian(self) -> Tensor:
        return self.tasks.jacobian[self.index]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for columns, rows in gradient_blocks(self.tasks):
            yield columns, rows[self.index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tasks, name)


def refuse_repeated_tasks(*methods: Balancer) -> None:
    """:raises ConfigurationError: for a method that gives tasks several groups of the batch, and has to stand alone"""
    for method in methods:
        if method.repeats_tasks:
            raise ConfigurationError(
                f"{type(method).__name__} with weights_on='sampling' decides what is sampled and has to stand alone: "
                "choose weights_on='loss' within a composition."
            )


class _AsKnown:
    """Tasks with losses and metrics that are known of all, where their own are of some.

    :param losses: ``[K]``
    :param metrics: the metrics that methods read, each ``[K]``
    """

    def __init__(self, tasks: Tasks, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        self.tasks = tasks
        self.losses = losses
        self.metrics = metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tasks, name)


@contextmanager
def narrowed(method: nn.Module, active: Tensor) -> Iterator[None]:
    """Context in which a method has the state of some of its tasks alone, as if there were no others.

    What it learns there goes back to its place; the state of all other tasks stays as it is, and so does all state if
    the method raises. State per task is what a module names in ``task_buffers``.

    :param active: which tasks, boolean ``[K]`` on the host
    """
    index = active.nonzero().squeeze(-1)
    places = [
        (module, name, axes)
        for module in method.modules()
        for name, axes in getattr(module, "task_buffers", {}).items()
    ]
    after = [module.get_buffer(name) for module, name, _ in places]
    for (module, name, axes), whole in zip(places, after, strict=True):
        module._buffers[name] = whole[_places_of(index, axes)]
    try:
        yield
        after = [
            _put_back(whole, index, module.get_buffer(name), axes)
            for (module, name, axes), whole in zip(places, after, strict=True)
        ]
    finally:
        for (module, name, _), whole in zip(places, after, strict=True):
            module._buffers[name] = whole


def _places_of(index: Tensor, axes: int) -> tuple[Tensor, ...]:
    """Where the state of some tasks lies in a buffer whose first dimensions, one or two, count tasks."""
    return (index,) if axes == 1 else (index.unsqueeze(-1), index)


def _put_back(whole: Tensor, index: Tensor, part: Tensor, axes: int) -> Tensor:
    if part.shape[axes:] != whole.shape[axes:]:  # it has only now learnt how large its state is
        whole = whole.new_zeros(*whole.shape[:axes], *part.shape[axes:])
    whole[_places_of(index, axes)] = part.to(whole)
    return whole


class WithinGroup(Balancer):
    """A method at work on the tasks that a scheduler has picked.

    A gradient method sees the group alone, with the part of its state that belongs to the group: it is then the method
    of these tasks. What it remembers of the others waits for them. A method that looks at losses alone weighs all
    tasks, those that rest with the loss and metrics they had when they were last at work, and its weights are brought
    to mean one within the group. While all tasks stand in one group, the method works undisturbed.

    :param inner: the method
    :param fills_group: weights on the scale of a mean over the group; False leaves that to the scheduler behind it
    :raises ConfigurationError: for a gradient method that is not made for a part of the tasks
    """

    known: Tensor  # losses of all tasks, each as it was last
    known_metrics: Tensor

    def __init__(self, inner: Balancer, fills_group: bool = True) -> None:
        super().__init__(inner.num_tasks, inner.generator)
        refuse_repeated_tasks(inner)
        if inner.uses_gradients and not inner.any_tasks:
            kind = type(inner).__name__
            raise ConfigurationError(
                f"son_goku cannot schedule {kind}, which is not made for a part of the tasks: a method that is says "
                "any_tasks = True, and names its state of single tasks in task_buffers."
            )
        self.inner = inner
        self.fills_group = fills_group
        self.uses_gradients = inner.uses_gradients  # type: ignore[misc]
        self.composes_direction = inner.composes_direction  # type: ignore[misc]
        self.needs_positive_losses = inner.needs_positive_losses  # type: ignore[misc]
        self.needs_jacobian = inner.needs_jacobian  # type: ignore[misc]
        self.wants_after = inner.wants_after  # type: ignore[misc]
        self.acts_on_host = inner.acts_on_host  # type: ignore[misc]
        self.register_buffer("known", torch.ones(inner.num_tasks))
        self.register_buffer("known_metrics", torch.ones(len(READ_METRICS), inner.num_tasks))
        self._present: Tensor | None = None

    def within_group(self) -> Balancer:
        return self

    def wants_gradients(self, present: Tensor | None = None) -> bool:
        return self.inner.wants_gradients(present)

    def check(self, tasks: Tasks) -> None:
        """Nothing here: the method refuses for itself what it cannot take of the tasks that it sees."""

    def forward(self, tasks: Tasks) -> Tensor:
        return self.weigh(tasks, getattr(tasks, "present", None))

    def weigh(self, tasks: Tasks, group: Tensor | None) -> Tensor:
        """Weights ``[K]``, zero outside the group.

        :param group: the tasks of this update, boolean ``[K]`` on the host; None for all
        """
        metrics = self._recall(tasks)
        if group is None or bool(group.all()):
            return self.inner(tasks)
        weights = torch.zeros_like(tasks.losses)
        if self.inner.uses_gradients:
            with narrowed(self.inner, group):
                weights[group] = self.inner(ActiveTasks(tasks, group))
        else:
            within = self.inner(_AsKnown(tasks, self.known.to(tasks.losses), metrics))[group]
            # A method may give all tasks of a group no weight: then this update moves nothing.
            weights[group] = within / within.mean() if bool(within.any()) else within
        return self._filled(weights, group) if self.fills_group else weights

    def direction(self, tasks: Tasks) -> Tensor:
        return self.compose(tasks, getattr(tasks, "present", None))

    def compose(self, tasks: Tasks, group: Tensor | None) -> Tensor:
        """Direction ``[P]`` from the tasks of a group, on the scale of a mean over them."""
        if group is None or bool(group.all()):
            self.inner.check(tasks)
            direction = self.inner.direction(tasks)
            self._weights = self.inner._weights
            return direction
        seen = ActiveTasks(tasks, group)
        with narrowed(self.inner, group):
            self.inner.check(seen)
            direction = self.inner.direction(seen)
        weights = torch.zeros_like(tasks.losses)
        weights[group] = self.inner._weights.to(weights)
        self._weights = self._filled(weights, group)
        return direction

    def observe(self, losses: Tensor) -> None:
        self.known = self._latest(losses, self.known)
        self.inner.observe(self.known.to(losses))

    def diagnostics(self) -> dict[str, Tensor]:
        return {**self.inner.diagnostics(), **super().diagnostics()}

    def _filled(self, weights: Tensor, group: Tensor) -> Tensor:
        """Weights ``[K]`` of a mean over the group as weights of a mean over all tasks."""
        return weights * (self.num_tasks / int(group.sum()))

    def _recall(self, tasks: Tasks) -> dict[str, Tensor]:
        """Take note of what is new; returns the metrics that these tasks have, as they are known of all."""
        self._present = getattr(tasks, "present", None)
        self.known = self._latest(tasks.losses, self.known)
        metrics = getattr(tasks, "metrics", {})
        new = [metrics.get(name, known) for name, known in zip(READ_METRICS, self.known_metrics, strict=True)]
        self.known_metrics = self._latest(torch.stack([values.to(self.known) for values in new]), self.known_metrics)
        return {name: row for name, row in zip(READ_METRICS, self.known_metrics, strict=True) if name in metrics}

    def _latest(self, values: Tensor, known: Tensor) -> Tensor:
        """Values of the tasks that are present, and what is known of the others."""
        values = values.detach().to(known)
        return values if self._present is None else torch.where(self._present.to(known.device), values, known)
