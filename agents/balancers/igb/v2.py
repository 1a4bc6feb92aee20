"""IGBv2, improvable gap balancing with a learned agent as published: SAC on raw losses, a decision at every batch."""

from typing import Any

import torch
from torch import Tensor

from agents.balancers.igb.agent import WeightAgentSettings
from agents.balancers.igb.sac_agent import SACWeightAgent
from agents.balancing.balancer import Needs, Weighting
from agents.balancing.options import require_not_negative, require_positive, require_whole
from agents.balancing.reference_losses import ReferenceLosses
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks
from agents.errors import ConfigurationError

UPDATE_EVERY = 50  # batches between two rounds of the agent's updates
BATCH_SIZE = 256


@register_balancer(
    "igb_v2",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="a SAC agent reads the raw losses and weighs the log losses at every update",
)
class ImprovableGapV2(Weighting):
    """``sum_k lambda_k log l_k`` with lambda from a learned agent (Dai et al. 2023, algorithm 2).

    State: the K losses of the batch, raw; reward: ``alpha min_k (l_k - l'_k) / l_base_k`` from one batch to the next,
    alpha = initial over current learning rate; agent: SAC with a plain network. Epochs 1 and 2 weigh at random, the
    second gives the base losses; from epoch 3 decisions are stored, from 4 the agent learns, from 6 its weights are
    used. Every 50 updates it makes 25 to 50 updates on 128 to 256 decisions, the more the fuller its memory.
    The paper's direction is a sum, K times ours. With the losses of a critic, which grow while values do, the reward
    is negative during successful learning: `igb_rl` is what we make of the idea for reinforcement learning.
    Differs from the authors' code: an epoch is a number of updates; random numbers come from generators of its own.

    :param epoch: updates that stand for an epoch
    :param lr: step size of actor, critics and temperature; the paper takes 1e-4 before MGDA, PCGrad or Nash-MTL
    :param gamma: discount per update
    :param capacity: decisions remembered; the paper finds 1e4 best by far
    """

    needs = Needs.POSITIVE_LOSSES
    last_losses: Tensor
    last_weights: Tensor

    def __init__(
        self,
        num_tasks: int,
        epoch: int = 200,
        lr: float = 3e-4,
        gamma: float = 0.99,
        capacity: int = 10_000,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole("igb_v2", 1, epoch=epoch, capacity=capacity)
        require_positive("igb_v2", lr=lr)
        require_not_negative("igb_v2", gamma=gamma)
        if gamma >= 1:
            raise ConfigurationError(f"igb_v2: gamma must be below 1, found {gamma!r}.")
        self.epoch, self.capacity = epoch, capacity
        settings = WeightAgentSettings(
            network="mlp", width=128, gamma=gamma, actor_lr=lr, critic_lr=lr, capacity=capacity, critics=2
        )
        self.agent = SACWeightAgent(num_tasks, 1, settings, self.generator)
        self.base = ReferenceLosses(num_tasks, start=epoch, window=epoch)
        self.register_buffer("last_losses", torch.zeros(num_tasks))
        self.register_buffer("last_weights", torch.ones(num_tasks))
        self._updates = 0
        self._first_rate = 0.0

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses.to(self.last_losses)
        with torch.no_grad():
            importance = self._decide(losses, tasks.context.learning_rate or 1.0)
        self.last_losses, self.last_weights = losses, importance
        self._updates += 1
        return importance.to(tasks.losses) / tasks.losses

    def _decide(self, losses: Tensor, rate: float) -> Tensor:
        epochs, agent = self._updates // self.epoch, self.agent  # epochs that are over
        self._first_rate = self._first_rate or rate
        if epochs < 2:
            self.base.observe(losses)
            return agent.random_weights().to(losses)
        if self._updates > 2 * self.epoch:
            decrease = ((self.last_losses - losses) / self.base.mean.to(losses)).amin()
            shares = self.last_weights / self.num_tasks
            agent.memory.add(
                self._state(self.last_losses), shares, self._first_rate / rate * decrease, self._state(losses)
            )
        if epochs >= 3 and self._updates % UPDATE_EVERY == 0:
            fullness = 0.5 * (1 + len(agent.memory) / self.capacity)
            with torch.enable_grad():
                agent.learn(int(UPDATE_EVERY * fullness), int(BATCH_SIZE * fullness))
        return agent.act(self._state(losses)) if epochs >= 5 else agent.random_weights().to(losses)

    @staticmethod
    def _state(losses: Tensor) -> Tensor:
        return losses.unsqueeze(-1)  # [K, 1]

    def diagnostics(self) -> dict[str, Any]:
        """Beside the weights of the losses: the temperature of the agent."""
        return {**super().diagnostics(), "agent_temperature": self.agent.log_temperature.exp().squeeze(0)}

    def get_extra_state(self) -> Tensor:
        return torch.tensor([float(self._updates), self._first_rate], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self._updates, self._first_rate = int(state[0]), float(state[1])
