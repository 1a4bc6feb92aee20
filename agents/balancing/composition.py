"""``a + b``: b sees the losses and gradients already weighted by a; weights multiply."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.balancing.balancer import _REGISTRY, Balancer, Tasks, gradient_blocks
from agents.balancing.within_group import WithinGroup, refuse_repeated_tasks
from agents.errors import ConfigurationError


class WeightedTasks:
    """Tasks as a balancer has weighted them: ``losses * w``, ``gramian * w w^T``, ``jacobian * w``, also in blocks."""

    def __init__(self, tasks: Tasks, weights: Tensor) -> None:
        self.tasks = tasks
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

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for columns, rows in gradient_blocks(self.tasks):
            yield columns, rows * self.weights.unsqueeze(-1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tasks, name)


class Composition(Balancer):
    """Balancers applied one after the other (IGB with gradient balancing is the pattern: arXiv 2307.15429, Alg. 3).

    :param parts: at least two balancers; only the last may compose a direction of its own
    """

    def __init__(self, num_tasks: int, parts: Sequence[Balancer]) -> None:
        super().__init__(num_tasks)
        refuse_repeated_tasks(*parts)
        for part in parts[:-1]:
            if part.composes_direction:
                raise ConfigurationError(f"{type(part).__name__} composes its own direction and can only stand last.")
            if part.stands_last:
                raise ConfigurationError(f"{type(part).__name__} leaves tasks out of updates and can only stand last.")
        if parts[-1].schedules:
            parts = [*(WithinGroup(part, fills_group=False) for part in parts[:-1]), parts[-1]]
        self.parts = torch.nn.ModuleList(parts)
        self._seen: list[Tensor] = []  # the weights under which each part saw the tasks, at the last update
        self.uses_gradients = any(part.uses_gradients for part in parts)  # type: ignore[misc]
        self.acts_on_host = any(part.acts_on_host for part in parts)  # type: ignore[misc]
        self.needs_jacobian = any(part.needs_jacobian for part in parts)  # type: ignore[misc]
        self.wants_after = any(part.wants_after for part in parts)  # type: ignore[misc]
        self.schedules = parts[-1].schedules  # type: ignore[misc]
        self.composes_direction = parts[-1].composes_direction  # type: ignore[misc]
        self.needs_positive_losses = any(part.needs_positive_losses for part in parts)  # type: ignore[misc]

    def forward(self, tasks: Tasks) -> Tensor:
        return self._weigh(tasks, list(self.parts))

    def wants_gradients(self, present: Tensor | None = None) -> bool:
        return any(part.wants_gradients(present) for part in self.parts if isinstance(part, Balancer))

    def next_tasks(self, progress: Any = None) -> Tensor | None:
        return self._last.next_tasks(progress)

    @property
    def group(self) -> Tensor | None:
        return self._last.group

    def within_group(self) -> Balancer:
        *first, last = (part for part in self.parts if isinstance(part, Balancer))
        if not self.schedules:
            first = [WithinGroup(part, fills_group=False) for part in first]
        return Composition(self.num_tasks, [*first, last.within_group()])

    @property
    def _last(self) -> Balancer:
        last = self.parts[-1]
        assert isinstance(last, Balancer)
        return last

    def check(self, tasks: Tasks) -> None:
        """Nothing here: every part refuses for itself what it cannot take."""

    def direction(self, tasks: Tasks) -> Tensor:
        weights = self._weigh(tasks, list(self.parts)[:-1])
        self._seen.append(weights)
        self._weights = weights
        weighted = WeightedTasks(tasks, weights)
        self._last.check(weighted)
        return self._last.direction(weighted)

    def follow(self, leader: Balancer) -> None:
        assert isinstance(leader, Composition)
        for part, led in zip(self.parts, leader.parts, strict=True):
            assert isinstance(part, Balancer) and isinstance(led, Balancer)
            part.follow(led)

    def diagnostics(self) -> dict[str, Tensor]:
        """What every part reports, beside the weights of the whole."""
        reports: dict[str, Tensor] = {}
        for part in self.parts:
            assert isinstance(part, Balancer)
            reports |= part.diagnostics()
        return {**reports, **super().diagnostics()}

    def observe(self, losses: Tensor) -> None:
        for part, weights in zip(self.parts, self._seen, strict=True):
            assert isinstance(part, Balancer)
            if part.wants_after:
                part.observe(losses * weights)

    def _weigh(self, tasks: Tasks, parts: Sequence[torch.nn.Module]) -> Tensor:
        weights = torch.ones_like(tasks.losses)
        self._seen = []
        for part in parts:
            self._seen.append(weights)
            weights = weights * part(WeightedTasks(tasks, weights))
        return weights


def share_options(names: Sequence[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give every option of a composition to the method it belongs to.

    :param options: ``{"cagrad.c": 0.4}``, or ``{"c": 0.4}`` where one method alone has the option
    :raises ConfigurationError: for an option that no method, or more than one, can take
    """
    shares: dict[str, dict[str, Any]] = {name: {} for name in names}
    for option, value in options.items():
        owner, _, plain = option.rpartition(".")
        owners = [owner] if owner else [name for name in dict.fromkeys(names) if plain in _REGISTRY[name].options]
        whole = "+".join(names)
        if not owners or owners[0] not in shares:
            raise ConfigurationError(f"Option '{option}' belongs to no method of '{whole}'.")
        if len(owners) > 1:
            choices = " or ".join(f"'{name}.{plain}'" for name in owners)
            raise ConfigurationError(f"Option '{option}' of '{whole}' belongs to several methods: write {choices}.")
        shares[owners[0]][plain] = value
    return shares
