"""Updates for a part of the tasks: how a method works on the tasks that a scheduler has picked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from agents.balancing.allocation import Allocation
from agents.balancing.balancer import Balanced, Balancer, Direction, Needs
from agents.balancing.gramian import GramianWeighting
from agents.balancing.tasks import AsKnown, Tasks, as_tasks
from agents.errors import ConfigurationError
from agents.selection import Selection

READ_METRICS = ("target_variance", "squared_error")  # of a critic, by methods that look at no gradients


def refuse_allocation(*methods: Balancer) -> None:
    """:raises ConfigurationError: for a method that decides what is sampled, and has to stand alone"""
    for method in methods:
        if isinstance(method, Allocation):
            raise ConfigurationError(
                f"{type(method.shares).__name__} with weights_on='sampling' decides what is sampled and has to stand "
                "alone: choose weights_on='loss' within a composition."
            )


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
    """A method that works on the tasks that a scheduler has picked.

    A gradient method sees the group alone, with the part of its state that belongs to the group: it is then the method
    of these tasks. What it remembers of the others waits for them. A method that looks at losses alone weighs all
    tasks, idle ones with the loss and metrics they had when they were last active, and its weights are brought to mean
    one within the group. While one group holds all tasks, the method works undisturbed.

    :param inner: the method
    :param fills_group: weights on the scale of a mean over the group; False leaves that to the scheduler behind it
    :raises ConfigurationError: for a gradient method that is not made for a part of the tasks
    """

    scratch = frozenset({"_seen"})
    known: Tensor  # losses of all tasks, each as it was last
    known_metrics: Tensor

    def __init__(self, inner: Balancer, fills_group: bool = True) -> None:
        super().__init__(inner.num_tasks, inner.generator)
        refuse_allocation(inner)
        if inner.needs & Needs.TASK_GRADIENTS and not isinstance(inner, (GramianWeighting, Direction)):
            kind = type(inner).__name__
            raise ConfigurationError(
                f"son_goku cannot schedule {kind}, which is not made for a part of the tasks: a method that is extends "
                "GramianWeighting or Direction, and names its state of single tasks in task_buffers."
            )
        self.inner = inner
        self.fills_group = fills_group
        self.register_buffer("known", torch.ones(inner.num_tasks))
        self.register_buffer("known_metrics", torch.ones(len(READ_METRICS), inner.num_tasks))
        self._seen = Selection.whole(inner.num_tasks)  # the tasks of the latest update

    @property
    def title(self) -> str:
        return self.inner.title

    @property
    def needs(self) -> Needs:
        return self.inner.needs

    def needs_now(self, selection: Selection) -> Needs:
        return self.inner.needs_now(selection)

    def check(self, tasks: Tasks) -> None:
        """Nothing here: the method refuses for itself what it cannot take of the tasks that it sees."""

    def balance(self, tasks: Tasks) -> Balanced:
        tasks = as_tasks(tasks)
        return self.balance_group(tasks, tasks.selection)

    def balance_group(self, tasks: Tasks, group: Selection) -> Balanced:
        """Weights ``[K]``, zero outside the group, or a direction on the scale of a mean over the group.

        :param group: the tasks of this update, among those that were sampled
        """
        metrics = self._recall(tasks)
        if group.is_whole:
            balanced = self.inner.balance(tasks)
            weights, direction = balanced.weights, balanced.direction
        else:
            weights, direction = torch.zeros_like(tasks.losses), None
            if self.inner.needs & Needs.TASK_GRADIENTS:
                with narrowed(self.inner, group.active):
                    balanced = self.inner.balance(tasks.only(group))
                within, direction = balanced.weights.to(weights), balanced.direction
            else:
                known = AsKnown(tasks, self.known.to(tasks.losses), metrics)
                within = self.inner.balance(known).weights[group.active]
                # A method may give all tasks of a group no weight: then this update moves nothing.
                within = within / within.mean() if bool(within.any()) else within
            weights[group.active] = within
            if self.fills_group:
                weights = weights * (self.num_tasks / group.size)  # of a mean over all tasks
        self._weights = weights.detach()
        return Balanced(self._weights, group, direction)

    def observe(self, losses: Tensor) -> None:
        self.known = self._latest(losses, self.known)
        self.inner.observe(self.known.to(losses))

    def for_actor(self, own: Balancer) -> Balancer:
        assert isinstance(own, WithinGroup)
        return WithinGroup(self.inner.for_actor(own.inner), self.fills_group)

    def diagnostics(self) -> dict[str, Tensor]:
        return {**self.inner.diagnostics(), **super().diagnostics()}

    def _recall(self, tasks: Tasks) -> dict[str, Tensor]:
        """Take note of what is new; returns the metrics that these tasks have, as they are known of all."""
        self._seen = tasks.selection
        self.known = self._latest(tasks.losses, self.known)
        new = [tasks.metrics.get(name, known) for name, known in zip(READ_METRICS, self.known_metrics, strict=True)]
        self.known_metrics = self._latest(torch.stack([values.to(self.known) for values in new]), self.known_metrics)
        return {name: row for name, row in zip(READ_METRICS, self.known_metrics, strict=True) if name in tasks.metrics}

    def _latest(self, values: Tensor, known: Tensor) -> Tensor:
        """Values of the tasks that were sampled, and what is known of the others."""
        values = values.detach().to(known)
        return values if self._seen.is_whole else torch.where(self._seen.active.to(known.device), values, known)
