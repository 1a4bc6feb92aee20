"""SON-GOKU: groups of tasks that do not interfere take turns; any balancer works within the group."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.balancers.losses import Unitary
from agents.balancing.balancer import Balanced, Balancer, Needs, Scheduler
from agents.balancing.coloring import ThresholdSchedule, interference, over_pairs, schedule_groups
from agents.balancing.gradient_memory import GradientMemory, gradient_norms
from agents.balancing.options import require_whole
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Progress, Tasks, as_tasks
from agents.balancing.within_group import WithinGroup
from agents.errors import ConfigurationError
from agents.selection import Selection

# What a refresh found, over the pairs of tasks: the threshold has edges below `interference_max` only.
FOUND = ("interference_median", "interference_90", "interference_max", "edge_share")


@dataclass(frozen=True)
class SonGokuOptions:
    """What a user can set of `SonGoku`.

    :param refresh_every: least number of updates from one graph to the next
    :param beta: memory of the gradient averages; 0 draws the graph from one batch, which the paper warns of
    :param tau: threshold in the end; low separates more tasks
    :param tau_initial: threshold of the warm-up; 1 trains all tasks jointly
    :param warmup: share of the budget that is the warm-up
    :param anneal: share of the budget in which the threshold goes from ``tau_initial`` to ``tau`` after it
    :param schedule: ``log``, ``linear``, ``cosine`` or ``constant``
    :param f_min: turns of every task per cycle, where groups without conflict allow
    """

    refresh_every: int = 32
    beta: float = 0.9
    tau: float = 0.25
    tau_initial: float = 1.0
    warmup: float = 0.05
    anneal: float = 0.25
    schedule: str = "log"
    f_min: int = 1

    def __post_init__(self) -> None:
        require_whole("son_goku", 1, refresh_every=self.refresh_every, f_min=self.f_min)
        if not 0 <= self.beta < 1:
            raise ConfigurationError(f"son_goku: beta must be at least 0 and below 1, found {self.beta!r}.")


@register_balancer(
    "son_goku",
    family="scheduler",
    cost="O(K) at a refresh, memory of K gradients",
    paper="arXiv 2509.16959",
    summary="groups of tasks that do not interfere take turns, with any balancer inside",
)
class SonGoku(Scheduler):
    """Tasks whose smoothed gradients conflict are never updated together (algorithm 1; an edge where ``-cos > tau``).

    At a refresh the gradient averages follow the current gradients, the interference graph is coloured, and its colour
    classes become the groups that take turns. Tasks outside the group rest: they are not sampled, nothing is computed
    for them, and their temperatures stay as they are; an update costs what its group costs, a refresh what all tasks
    cost with their gradients. The critic's graph rules: the actor's update is for the same group.
    ``d`` is the inner balancer's direction over the group, on the scale of a mean over the group; the paper sums over
    it. A gradient method sees the group only, with the part of its state that belongs to the group: it is then the
    method of these tasks, and what it remembers of the others waits for them. A method that looks at losses alone
    weighs all tasks, resting ones with their last known loss, and its weights are brought to mean one within the group.
    While the threshold is 1 there is nothing to refresh, and the inner balancer trains all tasks undisturbed.
    Differs from the authors' code: as in their paper the edge is ``cos < -tau``, where the released class has
    ``cos < tau``; the averages are updated at refreshes only, for all tasks alike; a refresh waits for the end of the
    running cycle, so that every task is reached once per cycle; heads of resting tasks coast on Adam's moments. The
    thresholds are those of the paper; warm-up and annealing, shares of the budget here, are not published for
    reinforcement learning.

    :param inner: balancer within the group; `Unitary` if there is none
    """

    Options = SonGokuOptions
    found: Tensor

    def __init__(
        self,
        num_tasks: int,
        options: SonGokuOptions,
        inner: Balancer | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        self.options = options
        self.within = WithinGroup(Unitary(num_tasks) if inner is None else inner)
        self.threshold = ThresholdSchedule(
            options.tau_initial, options.tau, options.warmup, options.anneal, options.schedule
        )
        self.memory = GradientMemory(num_tasks)
        self.groups = torch.ones(1, num_tasks, dtype=torch.bool)  # [M, K], on the host
        self.register_buffer("found", torch.zeros(len(FOUND)))  # by the latest refresh
        self._active = Selection.whole(num_tasks)  # in the latest update
        self._used = 0.0  # share of the budget
        self._slot, self._since, self._refreshes, self._separations = 0, 0, 0, 0
        self._began, self._seconds = 0.0, 0.0  # clock of the refresh in progress, 0 if there is none; of the latest

    @property
    def cancels_weights(self) -> str:
        return self.inner.cancels_weights

    @property
    def dulls_weights(self) -> str:
        return self.inner.dulls_weights

    @property
    def inner(self) -> Balancer:
        """The balancer within the group."""
        return self.within.inner

    @property
    def needs(self) -> Needs:
        return self.inner.needs | Needs.GRADIENTS

    def needs_now(self, selection: Selection) -> Needs:
        if self._refresh_due():
            self._began = self._began or time.perf_counter()
            return self.needs
        return self.inner.needs_now(selection)

    def next_selection(self, progress: Progress | None = None) -> Selection:
        self._began = 0.0  # it may run since an update that was stopped before its refresh
        self._note_budget(progress)
        return Selection.whole(self.num_tasks) if self._refresh_due() else Selection.of(self.groups[self._slot])

    def balance(self, tasks: Tasks) -> Balanced:
        tasks = as_tasks(tasks)
        self._note_budget(tasks.context.progress)
        self._active = self._next_group(tasks)
        balanced = self.within.balance_group(tasks, self._active)
        self._weights = balanced.weights
        return balanced

    def for_actor(self, own: Balancer) -> Balancer:
        assert isinstance(own, SonGoku)
        return self.within.for_actor(own.within)

    @property
    def within_group(self) -> Balancer:
        return self.within

    def observe(self, losses: Tensor) -> None:
        self.within.observe(losses)

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights and what the inner balancer reports: the groups, the share of active tasks, the
        threshold, and of the latest refresh the interference of the pairs of tasks (median, 90 % quantile, largest),
        the share of pairs that are edges, and its cost in seconds, from the gradients of all tasks to the new groups.
        """
        own = {
            "groups": len(self.groups),
            "share_at_work": self._active.size / self.num_tasks,
            "threshold": self.threshold(self._used),
            "refreshes": self._refreshes,
            "refresh_seconds": self._seconds,
        }
        return {
            **self.inner.diagnostics(),
            **super().diagnostics(),
            **{name: torch.tensor(value) for name, value in own.items()},
            **dict(zip(FOUND, self.found, strict=True)),
        }

    def _note_budget(self, progress: Progress | None) -> None:
        if progress is not None:
            self._used = max(self._used, progress.budget_used)  # of a budget that was extended, less is used

    def _refresh_due(self) -> bool:
        # At threshold 1 no two tasks conflict: without a refresh, the warm-up is joint training to the bit.
        due = self._slot == 0 and self._since >= self.options.refresh_every
        return due and self.threshold(self._used) < 1

    def _next_group(self, tasks: Tasks) -> Selection:
        """The tasks of this update; refreshes the groups where that is due."""
        if self._refresh_due():
            self._refresh(tasks)
        group = self.groups[self._slot]
        self._slot = (self._slot + 1) % len(self.groups)
        self._since += 1
        return Selection.of(group)

    def _refresh(self, tasks: Tasks) -> None:
        began = self._began or time.perf_counter()
        gradient_norms(self, tasks)
        smooth = self.memory.blend(tasks, 1 - self.options.beta)
        gramian = (smooth @ smooth.mT).to("cpu").to(torch.float64)
        threshold = self.threshold(self._used)
        self.groups = schedule_groups(gramian, threshold, self.options.f_min)
        self._note(over_pairs(interference(gramian)), threshold)
        self._separations += len(self.groups) > 1
        self._since = 0
        self._refreshes += 1
        self._began, self._seconds = 0.0, time.perf_counter() - began

    def _note(self, pairs: Tensor, threshold: float) -> None:
        if len(pairs) > 0:
            levels = pairs.quantile(torch.tensor([0.5, 0.9, 1.0]).to(pairs))
            edges = (pairs > threshold).to(pairs).mean(0, keepdim=True)
            self.found = torch.cat([levels, edges]).to(self.found)

    def remarks(self) -> list[str]:
        said = self.inner.remarks()
        if self._separations:
            return said
        if self._refreshes == 0:
            why = "its threshold never came below 1: a smaller warmup, or a smaller refresh_every, draws graphs"
        else:
            why = f"none of its {self._refreshes:,} graphs had an edge: a smaller tau separates more tasks"
        return [*said, f"son_goku trained all tasks together in this run, for {why}."]

    def get_extra_state(self) -> Tensor:
        counts = [self._used, self._slot, self._since, self._refreshes, self._separations]
        return torch.cat([torch.tensor(counts, dtype=torch.float64), self.groups.flatten().double()])

    def set_extra_state(self, state: Tensor) -> None:
        if not state.is_floating_point():  # of earlier versions: updates instead of the budget, and no separations
            state = torch.cat([torch.zeros(1), state[1:4], torch.ones(1), state[4:]]).double()
        used, (slot, since, refreshes, separations) = float(state[0]), (int(number) for number in state[1:5])
        groups = state[5:].bool().cpu().reshape(-1, self.num_tasks)
        wrong = not 0 <= slot < len(groups) or min(used, since, refreshes, separations) < 0
        if wrong or not bool(groups.any(1).all()):
            raise ValueError(f"it stands at turn {slot} of {len(groups)} groups, each of at least one task")
        self._used, self._slot, self._since, self._refreshes = used, slot, since, refreshes
        self._separations, self.groups = separations, groups
