"""``a + b``: b sees the losses and gradients already weighted by a; weights multiply."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from agents.balancing.balancer import Balanced, Balancer, Direction, Needs, Scheduler
from agents.balancing.tasks import Progress, Tasks, as_tasks
from agents.balancing.within_group import WithinGroup, refuse_allocation
from agents.errors import ConfigurationError
from agents.selection import Selection


class Composition(Balancer):
    """Balancers applied one after the other (IGB with gradient balancing is the pattern: arXiv 2307.15429, Alg. 3).

    :param parts: at least two balancers; only the last may be a `Direction` or a `Scheduler`
    :param names: of the parts, for the log
    """

    scratch = frozenset({"_seen"})

    def __init__(self, num_tasks: int, parts: Sequence[Balancer], names: Sequence[str]) -> None:
        super().__init__(num_tasks)
        refuse_allocation(*parts)
        for part in parts[:-1]:
            if isinstance(part, Direction):
                raise ConfigurationError(f"{type(part).__name__} composes its own direction and can only stand last.")
            if isinstance(part, Scheduler):
                raise ConfigurationError(f"{type(part).__name__} leaves tasks out of updates and can only stand last.")
        self.parts = torch.nn.ModuleList(parts)
        self._balancers = tuple(parts)  # the same, as what they are
        self.names = tuple(names)
        self._seen: list[Tensor] = []  # the weights under which each part saw the tasks, at the last update

    @property
    def title(self) -> str:
        return "+".join(self.names)

    @property
    def first(self) -> tuple[Balancer, ...]:
        """All parts but the last."""
        return self._balancers[:-1]

    @property
    def last(self) -> Balancer:
        """The last part."""
        return self._balancers[-1]

    @property
    def needs(self) -> Needs:
        return reduce(or_, (part.needs for part in self._balancers))

    def needs_now(self, selection: Selection) -> Needs:
        return reduce(or_, (part.needs_now(selection) for part in self._balancers))

    def check(self, tasks: Tasks) -> None:
        """Nothing here: every part refuses for itself what it cannot take."""

    def balance(self, tasks: Tasks) -> Balanced:
        tasks = as_tasks(tasks)
        weights = torch.ones_like(tasks.losses)
        self._seen = [weights]
        for part in self.first:
            weights = weights * part.balance(tasks.weighted(weights)).weights
            self._seen.append(weights)
        last = self.last.balance(tasks.weighted(weights))
        self._weights = (weights if last.direction is not None else weights * last.weights).detach()
        return Balanced(self._weights, last.selection, last.direction)

    def observe(self, losses: Tensor) -> None:
        for part, weights in zip(self._balancers, self._seen, strict=True):
            if Needs.SECOND_LOOK in part.needs:
                part.observe(losses * weights)

    def for_actor(self, own: Balancer) -> Balancer:
        assert isinstance(own, Composition)
        pairs = zip(self._balancers, own._balancers, strict=True)
        return Composition(self.num_tasks, [part.for_actor(other) for part, other in pairs], self.names)

    def diagnostics(self) -> dict[str, Tensor]:
        """What every part reports, the weights of each part under its name, and the weights of the whole."""
        reports: dict[str, Tensor] = {}
        for name, part in zip(self.names, self._balancers, strict=True):
            found = part.diagnostics()
            reports |= {**found, f"{name}.weights": found["weights"]}
        return {**reports, **super().diagnostics()}


class ScheduledComposition(Composition, Scheduler):
    """A composition whose last part is a scheduler: the parts before it weigh the tasks that it picks."""

    def next_selection(self, progress: Progress | None = None) -> Selection:
        return self.last.next_selection(progress)


def compose(num_tasks: int, parts: Sequence[Balancer], names: Sequence[str]) -> Composition:
    """The composition of at least two balancers.

    :param names: of the parts, for the log
    """
    if not isinstance(parts[-1], Scheduler):
        return Composition(num_tasks, parts, names)
    refuse_allocation(*parts)
    first = [part if isinstance(part, (Direction, Scheduler)) else WithinGroup(part, False) for part in parts[:-1]]
    return ScheduledComposition(num_tasks, [*first, parts[-1]], names)


def for_a_group(method: Balancer) -> Balancer:
    """A method as it works on the tasks that another balancer picks."""
    if isinstance(method, Composition):
        first = [part if isinstance(part, WithinGroup) else WithinGroup(part, False) for part in method.first]
        return Composition(method.num_tasks, [*first, for_a_group(method.last)], method.names)
    return method.within_group if isinstance(method, Scheduler) else WithinGroup(method)
