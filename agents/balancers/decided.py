"""What the methods share that decide weights once per window of updates, for critic and actor alike."""

from typing import Any

import torch
from torch import Tensor

from agents.balancers.base import Balancer, Tasks
from agents.balancers.options import require_whole
from agents.errors import unknown_name

ACTS_ON = ("critic", "actor", "both")
PATIENCE = 10  # windows after which a decision no longer waits for an episode of every task


class DecidedWeights(Balancer):
    """Weights that stand for a window of updates. A subclass implements `decide`, and says in `watch` what it sees.

    The critic's balancer decides; the actor's follows it, so that there is one decision and one agent that learns.

    :param method: name in errors
    :param window: updates between two decisions
    :param weights_on: ``critic``, ``actor`` or ``both``: where the weights act if one decision serves both
    :param waits: whether a decision also waits until every task has ended an episode since the last one
    """

    decided: Tensor

    def __init__(
        self,
        num_tasks: int,
        method: str,
        window: int,
        weights_on: str,
        waits: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole(method, 1, window=window)
        if weights_on not in ACTS_ON:
            raise unknown_name(f"weights_on of {method}", weights_on, ACTS_ON)
        self.method, self.window, self.weights_on, self.waits = method, window, weights_on, waits
        self.register_buffer("decided", torch.ones(num_tasks))
        self.decisions = 0
        self._since = 0  # updates since the last decision
        self._episodes = torch.zeros(num_tasks)  # ended episodes at the last decision, on the host
        self._leader: tuple[DecidedWeights, ...] = ()  # in a tuple, so that it is no submodule
        self._role = ""

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
            if self._due(tasks):
                with torch.no_grad():
                    self.decided = self.decide(tasks).to(self.decided)
                self.decisions += 1
                self._since, self._episodes = 0, _episodes(tasks, self._episodes)
            self._since += 1
        acts = self._role in ("", self.weights_on) or self.weights_on == "both"
        decided = self._leader[0].decided if self._leader else self.decided
        return decided.to(losses) if acts else torch.ones_like(losses)

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
        self.decisions, self._since = (int(number) for number in state[:2])
        self._episodes = state[2:].float().cpu()


def _episodes(tasks: Any, otherwise: Tensor) -> Tensor:
    """Ended episodes of every task ``[K]``, on the host."""
    progress = getattr(tasks, "progress", None)
    return otherwise if progress is None else progress.episodes
