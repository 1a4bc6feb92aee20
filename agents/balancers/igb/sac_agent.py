"""The weight agent of improvable gap balancing as published: soft actor-critic on raw losses.

Source: Dai et al. 2023 (arXiv 2307.15429, algorithm 2) and the authors' program; agents/balancers/igb/agent.py is ours.
"""

import math

import torch
from torch import Tensor, nn

from agents.balancers.igb.agent import WeightAgent, WeightAgentSettings
from agents.balancers.igb.memory import Decisions
from agents.balancing.buffer_adam import BufferAdam

LOG_STD_RANGE = (-20.0, 2.0)
INITIAL_TEMPERATURE = 0.2


class SACWeightAgent(WeightAgent):
    """Weights ``K softmax(u)``, ``u ~ N(mu(s), std(s))``; twin critics on (state, weights); a learned temperature.

    The correction of the log-probability is that of tanh although the squashing is a softmax, as in the authors'
    program: the density is formally wrong and works as a regulariser. Target entropy ``-K``.
    Differs from the authors' program: the critics see weights divided by K.

    :param num_tasks: K
    :param features: F, numbers that are seen of every task
    """

    log_temperature: Tensor

    def __init__(
        self, num_tasks: int, features: int, settings: WeightAgentSettings, generator: torch.Generator
    ) -> None:
        super().__init__(num_tasks, features, 2, settings, generator)
        self.register_buffer("log_temperature", torch.full((1,), math.log(INITIAL_TEMPERATURE)))
        self.temperature_adam = BufferAdam(1, settings.actor_lr)

    def sample(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Shares ``[B, K]`` and log-probabilities ``[B]``.

        :param states: ``[B, K, F]``
        :param noise: standard normal ``[B, K]``
        """
        mean, log_std = self.actor(states).unbind(-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        logits = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        correction = 2.0 * (math.log(2.0) - logits - nn.functional.softplus(-2.0 * logits))  # log(1 - tanh(u)^2)
        return logits.softmax(-1), (gaussian - correction).sum(-1)

    @torch.no_grad()
    def act(self, state: Tensor) -> Tensor:
        """Stochastic weights ``[K]`` for the state ``[K, F]``."""
        return self.num_tasks * self.sample(state.unsqueeze(0), self._noise(1, state))[0].squeeze(0)

    def random_weights(self) -> Tensor:
        """``K softmax(z)`` of a standard normal z ``[K]``."""
        return self.num_tasks * torch.randn(self.num_tasks, generator=self.exploration).softmax(-1)

    def learn(self, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Make updates on batches of the memory; returns what the last one saw."""
        report: dict[str, Tensor] = {}
        for _ in range(updates):
            report = self.update(self.memory.sample(batch_size, self.replay))
        return report

    def update(self, batch: Decisions) -> dict[str, Tensor]:
        temperature, size = self.log_temperature.exp(), len(batch.rewards)
        with torch.no_grad():
            next_shares, next_log_probability = self.sample(batch.next_states, self._noise(size, batch.states))
            next_values = self.critic_target(batch.next_states, next_shares).amin(0)
            soft_values = next_values - temperature * next_log_probability
            targets = batch.rewards + self.settings.gamma * soft_values  # [B]; nothing is terminal
        values = self.critic(batch.states, batch.shares)  # [E, B]
        critic_loss = (values - targets).square().mean(-1).sum()
        self._descend(self.critic, self.critic_adam, critic_loss)

        shares, log_probability = self.sample(batch.states, self._noise(size, batch.states))
        value = self.critic(batch.states, shares).amin(0)
        self._descend(self.actor, self.actor_adam, (temperature * log_probability - value).mean())

        # Gradient of -log alpha (log pi + target entropy) by log alpha; the target entropy is -K.
        excess = log_probability.detach().mean() - self.num_tasks
        self.temperature_adam.step(self.log_temperature, -excess.reshape(1))
        self._follow(self.critic_target, self.critic)
        return {"critic_loss": critic_loss.detach(), "value": value.mean().detach()}

    def _noise(self, size: int, like: Tensor) -> Tensor:
        return torch.randn(size, self.num_tasks, generator=self.exploration).to(like)
