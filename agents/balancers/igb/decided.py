"""What the methods share that decide weights once per window of updates, for critic and actor alike."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.balancing.balancer import Balancer, Weighting
from agents.balancing.options import require_whole
from agents.balancing.tasks import Tasks
from agents.errors import unknown_name

ACTS_ON = ("critic", "actor", "both")
SCALES = ("none", "spread")
SMOOTH = 0.01  # share of a new batch in the running variance of the targets
NARROWEST = 1e-8  # least variance of a task's targets, relative to the largest
TINY = 1e-30  # and in itself: one sample of each task has none
PATIENCE = 10  # windows after which a decision no longer waits for an episode of every task


@dataclass(frozen=True, kw_only=True)
class DecisionOptions:
    """When weights are decided, and where they act.

    :param window: updates between two decisions; where gaps come from episodes, a decision also waits for one of each
    :param weights_on: where the weights act: ``critic``, ``actor`` or ``both``
    :param scale: ``spread`` measures losses in units of the spread of their task's targets first; ``none`` does not
    """

    window: int = 100
    weights_on: str = "both"
    scale: str = "none"


class DecidedWeights(Weighting):
    """Weights that stand for a window of updates. A subclass implements `decide`, and says in `watch` what it sees.

    One decision serves critic and actor: the critic's balancer decides, the actor's is a `FollowedDecision`.

    With the scale ``spread``, critic losses are measured in units of the variance of their task's targets, and actor
    losses in units of its square root, before the weights act: then a task with small rewards is not unheard. A
    critic's cross-entropy has no units, and is left alone. All weights together still have mean one.

    :param method: name in errors
    :param options: where `weights_on` is not ``both``, it holds if one decision serves critic and actor
    :param waits: whether a decision also waits until every task has ended an episode since the last one
    """

    decided: Tensor
    variance: Tensor

    def __init__(
        self,
        num_tasks: int,
        method: str,
        options: DecisionOptions,
        waits: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole(method, 1, window=options.window)
        if options.weights_on not in ACTS_ON:
            raise unknown_name(f"weights_on of {method}", options.weights_on, ACTS_ON)
        if options.scale not in SCALES:
            raise unknown_name(f"scale of {method}", options.scale, SCALES)
        self.options, self.window, self.waits = options, options.window, waits
        self.register_buffer("decided", torch.ones(num_tasks))
        self.register_buffer("variance", torch.ones(num_tasks))  # of each task's targets, smoothed
        self.decisions = 0
        self._since = 0  # updates since the last decision
        self._episodes = torch.zeros(num_tasks)  # ended episodes at the last decision, on the host
        self._serves_both = False
        self._squares = True  # whether the critic's losses are squares of values; every update says it

    def decide(self, tasks: Tasks) -> Tensor:
        """New weights ``[K]``, of mean one."""
        raise NotImplementedError

    def watch(self, tasks: Tasks) -> None:
        """Take note of one update; a few small operations at most."""

    def for_actor(self, own: Balancer) -> Balancer:
        self._serves_both = True
        return FollowedDecision(self)

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses
        self.watch(tasks)
        self._measure(tasks)
        if self._due(tasks):
            with torch.no_grad():
                self.decided = self.decide(tasks).to(self.decided)
            self.decisions += 1
            self._since, self._episodes = 0, self._ended_episodes(tasks)
        self._since += 1
        if self._serves_both and self.options.weights_on == "actor":
            return torch.ones_like(losses)
        if self.options.scale == "none":
            return self.decided.to(losses)
        weights = self.decided / self._variance() if self._squares else self.decided
        return (weights / weights.mean()).to(losses)

    def weights_for_actor(self) -> Tensor:
        """The decided weights as they act on the actor's losses ``[K]``."""
        if self.options.weights_on == "critic":
            return torch.ones_like(self.decided)
        if self.options.scale == "none":
            return self.decided
        weights = self.decided / self._variance().sqrt()
        return weights / weights.mean()

    def _measure(self, tasks: Tasks) -> None:
        """Follow the variance of the targets; without targets it stays one, and nothing is scaled."""
        metrics = tasks.metrics if self.options.scale == "spread" else {}
        variance, self._squares = metrics.get("target_variance"), "squared_error" not in metrics
        if variance is not None:
            new = variance.to(self.variance)
            self.variance = new.clone() if self.decisions == 0 else self.variance.lerp(new, SMOOTH)

    def _variance(self) -> Tensor:
        """Variance of every task's targets ``[K]``, bounded below."""
        return self.variance.clamp(min=NARROWEST * self.variance.amax()).clamp(min=TINY)

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights as they act: those that were decided, before any scale."""
        if self.options.scale == "none":
            return super().diagnostics()
        return {**super().diagnostics(), "decided": self.decided}

    def _due(self, tasks: Tasks) -> bool:
        if self.decisions == 0:
            return True
        if self._since < self.window:
            return False
        if not self.waits or self._since >= PATIENCE * self.window or tasks.context.progress is None:
            return True
        return bool((tasks.context.progress.episodes > self._episodes).all())

    def _ended_episodes(self, tasks: Tasks) -> Tensor:
        """Ended episodes of every task ``[K]``, on the host."""
        progress = tasks.context.progress
        return self._episodes if progress is None else progress.episodes

    def get_extra_state(self) -> Tensor:
        return torch.cat([torch.tensor([float(self.decisions), float(self._since)]), self._episodes]).double()

    def set_extra_state(self, state: Tensor) -> None:
        if len(state) != 2 + self.num_tasks:
            raise ValueError(f"it counts the episodes of {len(state) - 2} tasks, and there are {self.num_tasks}")
        self.decisions, self._since = (int(number) for number in state[:2])
        self._episodes = state[2:].float().cpu()


class FollowedDecision(Weighting):
    """The actor's side of weights that are decided once for critic and actor. It has no state of its own.

    :param decider: the critic's side
    """

    def __init__(self, decider: DecidedWeights) -> None:
        super().__init__(decider.num_tasks)
        self._decided = decider.weights_for_actor  # a method, so that the decider is no submodule

    def forward(self, tasks: Tasks) -> Tensor:
        return self._decided().to(tasks.losses)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]  # files of earlier versions hold a second copy of the decision
        super()._load_from_state_dict(state_dict, prefix, *rest)
