"""What the methods share that decide weights once per window of updates, for critic and actor alike."""

from typing import Any

import torch
from torch import Tensor

from agents.balancing.balancer import Balancer, Tasks
from agents.balancing.options import require_whole
from agents.errors import unknown_name

ACTS_ON = ("critic", "actor", "both")
SCALES = ("none", "spread")
SMOOTH = 0.01  # share of a new batch in the running variance of the targets
NARROWEST = 1e-8  # least variance of a task's targets, relative to the largest
TINY = 1e-30  # and in itself: one sample of each task has none
PATIENCE = 10  # windows after which a decision no longer waits for an episode of every task


class DecidedWeights(Balancer):
    """Weights that stand for a window of updates. A subclass implements `decide`, and says in `watch` what it sees.

    The critic's balancer decides; the actor's follows it, so that there is one decision and one agent that learns.

    :param method: name in errors
    :param window: updates between two decisions
    :param weights_on: ``critic``, ``actor`` or ``both``: where the weights act if one decision serves both
    :param scale: ``spread`` measures critic losses in units of the variance of their task's targets, and actor losses
        in units of its square root, before the weights act: then a task with small rewards is not unheard. A critic's
        cross-entropy has no units, and is left alone. All weights together still have mean one. ``none`` leaves the
        losses as they are
    :param waits: whether a decision also waits until every task has ended an episode since the last one
    """

    acts_on_host = True  # it counts updates, and a decision learns
    decided: Tensor
    variance: Tensor

    def __init__(
        self,
        num_tasks: int,
        method: str,
        window: int,
        weights_on: str,
        scale: str,
        waits: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole(method, 1, window=window)
        if weights_on not in ACTS_ON:
            raise unknown_name(f"weights_on of {method}", weights_on, ACTS_ON)
        if scale not in SCALES:
            raise unknown_name(f"scale of {method}", scale, SCALES)
        self.method, self.window, self.weights_on, self.waits = method, window, weights_on, waits
        self.scale = scale
        self.register_buffer("decided", torch.ones(num_tasks))
        self.register_buffer("variance", torch.ones(num_tasks))  # of each task's targets, smoothed
        self.decisions = 0
        self._since = 0  # updates since the last decision
        self._episodes = torch.zeros(num_tasks)  # ended episodes at the last decision, on the host
        self._leader: tuple[DecidedWeights, ...] = ()  # in a tuple, so that it is no submodule
        self._role = ""
        self._squares = True  # whether the critic's losses are squares of values; every update says it anew

    def decide(self, tasks: Any) -> Tensor:
        """New weights ``[K]``, of mean one."""
        raise NotImplementedError

    def watch(self, tasks: Any) -> None:
        """Take note of one update; a few small operations at most."""

    def follow(self, leader: Balancer) -> None:
        assert isinstance(leader, DecidedWeights)
        self._leader = (leader,)
        self._role, leader._role = "actor", "critic"

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses
        if not self._leader:
            self.watch(tasks)
            self._measure(tasks)
            if self._due(tasks):
                with torch.no_grad():
                    self.decided = self.decide(tasks).to(self.decided)
                self.decisions += 1
                self._since, self._episodes = 0, _episodes(tasks, self._episodes)
            self._since += 1
        acts = self._role in ("", self.weights_on) or self.weights_on == "both"
        return self._scaled().to(losses) if acts else torch.ones_like(losses)

    def _measure(self, tasks: Any) -> None:
        """Follow the variance of the targets; without targets it stays one, and nothing is scaled."""
        metrics = getattr(tasks, "metrics", {}) if self.scale == "spread" else {}
        variance, self._squares = metrics.get("target_variance"), "squared_error" not in metrics
        if variance is not None:
            new = variance.to(self.variance)
            self.variance = new.clone() if self.decisions == 0 else self.variance.lerp(new, SMOOTH)

    def _scaled(self) -> Tensor:
        """The decided weights in units of each task's targets."""
        leader = self._leader[0] if self._leader else self
        if self.scale == "none":
            return leader.decided
        variance = leader.variance.clamp(min=NARROWEST * leader.variance.amax()).clamp(min=TINY)
        if self._role == "actor":
            weights = leader.decided / variance.sqrt()
        else:
            weights = leader.decided / variance if leader._squares else leader.decided
        return weights / weights.mean()

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights as they act: those that were decided, before any scale."""
        if self._leader or self.scale == "none":
            return super().diagnostics()
        return {**super().diagnostics(), "decided": self.decided}

    def _due(self, tasks: Any) -> bool:
        if self.decisions == 0:
            return True
        if self._since < self.window:
            return False
        if not self.waits or self._since >= PATIENCE * self.window:
            return True
        return bool((_episodes(tasks, self._episodes + 1) > self._episodes).all())

    def get_extra_state(self) -> Tensor:
        return torch.cat([torch.tensor([float(self.decisions), float(self._since)]), self._episodes]).double()

    def set_extra_state(self, state: Tensor) -> None:
        if len(state) != 2 + self.num_tasks:
            raise ValueError(f"it counts the episodes of {len(state) - 2} tasks, and there are {self.num_tasks}")
        self.decisions, self._since = (int(number) for number in state[:2])
        self._episodes = state[2:].float().cpu()


def _episodes(tasks: Any, otherwise: Tensor) -> Tensor:
    """Ended episodes of every task ``[K]``, on the host."""
    progress = getattr(tasks, "progress", None)
    return otherwise if progress is None else progress.episodes
