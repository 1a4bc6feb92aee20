"""SON-GOKU: groups of tasks that do not interfere take turns; any balancer works within the group."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from agents.balancers.base import Balancer, Tasks, gradient_blocks, register_balancer
from agents.balancers.coloring import ThresholdSchedule, schedule_groups
from agents.balancers.gradient_memory import GradientMemory
from agents.balancers.losses import Unitary
from agents.balancers.options import require_whole
from agents.errors import ConfigurationError


class ActiveTasks:
    """The tasks of one group, as a gradient method sees them.

    :param active: which tasks, boolean ``[K]``
    """

    def __init__(self, tasks: Tasks, active: Tensor) -> None:
        self.tasks = tasks
        self.index = active.nonzero().squeeze(-1)
        names = getattr(tasks, "task_names", ()) or [f"task {task}" for task in range(len(active))]
        self.task_names = tuple(names[task] for task in self.index.tolist())
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


@register_balancer(
    "son_goku",
    family="scheduler",
    cost="O(K) at a refresh, memory of K gradients",
    paper="arXiv 2509.16959",
    summary="groups of tasks that do not interfere take turns, with any balancer inside",
)
class SonGoku(Balancer):
    """Tasks whose smoothed gradients conflict are never updated together (algorithm 1; an edge where ``-cos > tau``).

    At a refresh the gradient averages follow the current gradients, the interference graph is coloured, and its colour
    classes become the groups that take turns. Tasks outside the group have weight 0, and ``d`` is the inner balancer's
    direction over the group, on the scale of a mean over the group; the paper sums over it. A method that looks at
    losses alone weighs all tasks, and its weights are brought to mean one within the group; a gradient method sees the
    group only. While all tasks stand in one group, the inner balancer works undisturbed.
    Differs from the authors' code: as in their paper the edge is ``cos < -tau``, where the released class has
    ``cos < tau``; the averages are updated at refreshes only, for all tasks alike; a refresh waits for the end of the
    running cycle, so that every task is reached once per cycle. The thresholds are those of the paper; warm-up and
    annealing are not published for reinforcement learning.

    :param inner: balancer within the group
    :param refresh_every: least number of updates from one graph to the next
    :param beta: memory of the gradient averages; 0 draws the graph from one batch, which the paper warns of
    :param tau: threshold in the end; low separates more tasks
    :param tau_initial: threshold of the warm-up; 1 trains all tasks jointly
    :param warmup: updates of the warm-up
    :param anneal: updates from ``tau_initial`` to ``tau`` after it
    :param schedule: ``log``, ``linear``, ``cosine`` or ``constant``
    :param f_min: turns of every task per cycle, where groups without conflict allow
    """

    stands_last = True

    def __init__(
        self,
        num_tasks: int,
        inner: Balancer | None = None,
        refresh_every: int = 32,
        beta: float = 0.9,
        tau: float = 0.25,
        tau_initial: float = 1.0,
        warmup: int = 1000,
        anneal: int = 10_000,
        schedule: str = "log",
        f_min: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole("son_goku", 1, refresh_every=refresh_every, f_min=f_min)
        if not 0 <= beta < 1:
            raise ConfigurationError(f"son_goku: beta must be at least 0 and below 1, found {beta!r}.")
        self.inner = Unitary(num_tasks) if inner is None else inner
        if self.inner.uses_gradients and not self.inner.any_tasks:
            kind = type(self.inner).__name__
            raise ConfigurationError(f"son_goku cannot schedule {kind}: it keeps state of all tasks' gradients.")
        self.refresh_every, self.beta, self.f_min = refresh_every, beta, f_min
        self.threshold = ThresholdSchedule(tau_initial, tau, warmup, anneal, schedule)
        self.composes_direction = self.inner.composes_direction  # type: ignore[misc]
        self.needs_positive_losses = self.inner.needs_positive_losses  # type: ignore[misc]
        self.needs_jacobian = self.inner.needs_jacobian  # type: ignore[misc]
        self.wants_after = self.inner.wants_after  # type: ignore[misc]
        self.uses_gradients = True  # type: ignore[misc]
        self.memory = GradientMemory(num_tasks)
        self.groups = torch.ones(1, num_tasks, dtype=torch.bool)  # [M, K], on the host
        self._slot, self._since = 0, 0

    def wants_gradients(self) -> bool:
        return self._refresh_due() or self.inner.wants_gradients()

    def forward(self, tasks: Tasks) -> Tensor:
        active = self._next_group(tasks)
        if bool(active.all()):
            return self.inner(tasks)
        weights = torch.zeros_like(tasks.losses)
        if self.inner.uses_gradients:
            weights[active] = self.inner(ActiveTasks(tasks, active))
        else:
            within = self.inner(tasks)[active]
            weights[active] = within / within.mean()
        return weights * (self.num_tasks / active.sum())

    def direction(self, tasks: Tasks) -> Tensor:
        active = self._next_group(tasks)
        group = ActiveTasks(tasks, active)
        self.inner.check(group)
        self._weights = active.to(tasks.losses) * (self.num_tasks / active.sum())
        return self.inner.direction(group)

    def observe(self, losses: Tensor) -> None:
        if self.inner.wants_after:
            self.inner.observe(losses)

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights: number of groups, the threshold, and what the inner balancer reports."""
        own = {"groups": torch.tensor(len(self.groups)), "threshold": torch.tensor(self.threshold(self._updates))}
        return {**self.inner.diagnostics(), **super().diagnostics(), **own}

    @property
    def _updates(self) -> int:
        return self.memory.updates

    def _refresh_due(self) -> bool:
        return self._slot == 0 and self._since >= self.refresh_every

    def _next_group(self, tasks: Tasks) -> Tensor:
        """The tasks of this update, boolean ``[K]``; refreshes the groups where that is due."""
        if self._refresh_due():
            self._refresh(tasks)
        active = self.groups[self._slot]
        self._slot = (self._slot + 1) % len(self.groups)
        self._since += 1
        self.memory.updates += 1
        return active

    def _refresh(self, tasks: Tasks) -> None:
        smooth = self.memory.blend(self, tasks, 1 - self.beta)
        gramian = (smooth @ smooth.mT).to("cpu").to(torch.float64)
        self.groups = schedule_groups(gramian, self.threshold(self._updates), self.f_min)
        self._since = 0

    def get_extra_state(self) -> Tensor:
        return torch.cat([torch.tensor([self._slot, self._since]), self.groups.flatten().long()])

    def set_extra_state(self, state: Tensor) -> None:
        self._slot, self._since = (int(number) for number in state[:2])
        self.groups = state[2:].bool().cpu().reshape(-1, self.num_tasks)
