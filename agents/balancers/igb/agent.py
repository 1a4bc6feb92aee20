"""The agent that assigns task weights: a deterministic policy and a critic that learn from their own replay (DDPG).

It sees task features ``[K, F]``, answers with a point on the simplex, and is told what that brought. It knows neither
balancers nor the agent whose losses are weighted. Source: Lillicrap et al. 2016 (arXiv 1509.02971); weights as actions
of a learned agent: Dai et al. 2023 (arXiv 2307.15429), whose agent is SAC (agents/balancers/igb/sac_agent.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.balancers.igb.memory import DecisionMemory, Decisions
from agents.balancers.igb.networks import make_critic, make_policy
from agents.balancing.buffer_adam import BufferAdam
from agents.balancing.options import require_not_negative, require_positive, require_whole
from agents.errors import ConfigurationError


def to_weights(logits: Tensor, floor: float) -> Tensor:
    """Weights ``(1 - floor) K softmax(u) + floor``, whose mean is one; none is below the floor.

    A floor of 1 leaves no choice: every weight is exactly one.
    """
    return (1.0 - floor) * logits.shape[-1] * logits.softmax(-1) + floor


@dataclass(frozen=True, kw_only=True)
class WeightAgentSettings:
    """How a weight agent learns.

    :param network: ``equivariant`` (any number of tasks, all treated alike) or ``mlp``
    :param width: of the hidden layers
    :param floor: least weight of a task, of 1 on average; 1 leaves no choice: every weight is one
    :param logit_range: u_max; without floor and noise, weights differ by at most a factor ``exp(2 u_max)``
    :param gamma: discount per decision
    :param tau: Polyak coefficient of both target networks
    :param actor_lr: step size of the policy
    :param critic_lr: step size of the critic
    :param capacity: decisions kept
    :param batch_size: decisions in an update
    :param critics: E; with 2 the smaller value counts
    """

    network: str = "equivariant"
    width: int = 64
    floor: float = 0.1
    logit_range: float = 2.0
    gamma: float = 0.9
    tau: float = 0.005
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3
    capacity: int = 10_000
    batch_size: int = 64
    critics: int = 1

    def check(self, owner: str) -> None:
        """:raises ConfigurationError: for a number out of range, in the name of `owner`"""
        require_whole(owner, 1, width=self.width, capacity=self.capacity, batch_size=self.batch_size)
        require_whole(owner, 1, critics=self.critics)
        require_positive(owner, actor_lr=self.actor_lr, critic_lr=self.critic_lr)
        require_not_negative(owner, logit_range=self.logit_range)
        for name, value in (("floor", self.floor), ("tau", self.tau)):
            if not 0 <= value <= 1:
                raise ConfigurationError(f"{owner}: {name} must lie between 0 and 1, found {value!r}.")
        if not 0 <= self.gamma < 1:
            raise ConfigurationError(f"{owner}: gamma must be at least 0 and below 1, found {self.gamma!r}.")


class WeightAgent(nn.Module):
    """What the agents share: policy, critics with targets, optimisers in buffers, memory, and generators of their own.

    All state is in `state_dict`: a restored agent continues identically.

    :param num_tasks: K
    :param features: F
    :param outputs: numbers that the policy gives for each task
    :param generator: seeds the agent's own generators, of which there is one for each purpose
    """

    def __init__(
        self, num_tasks: int, features: int, outputs: int, settings: WeightAgentSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_tasks, self.settings = num_tasks, settings
        self.exploration, self.replay, weights = (_spawn(generator) for _ in range(3))
        shape = (settings.network, num_tasks, features)
        self.actor = make_policy(*shape, outputs, settings.width, weights)
        self.critic = make_critic(*shape, settings.width, settings.critics, weights)
        self.critic_target = make_critic(*shape, settings.width, settings.critics, weights)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.actor_adam = BufferAdam(_size(self.actor), settings.actor_lr)
        self.critic_adam = BufferAdam(_size(self.critic), settings.critic_lr)
        self.memory = DecisionMemory(num_tasks, features, settings.capacity)

    def update(self, batch: Decisions) -> dict[str, Tensor]:
        """One step of critic and policy on a batch with scaled rewards; returns what it saw, as scalars."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """States of the two generators ``[2, bytes]``."""
        return torch.stack([self.exploration.get_state(), self.replay.get_state()])

    def set_extra_state(self, state: Tensor) -> None:
        # `set_state` reads from the beginning of the storage, so that a row must be a tensor of its own.
        self.exploration.set_state(state[0].cpu().clone())
        self.replay.set_state(state[1].cpu().clone())

    def _descend(self, module: nn.Module, adam: BufferAdam, loss: Tensor) -> None:
        """One step of one network."""
        parameters: list[Tensor] = list(module.parameters())
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
        with torch.no_grad():
            values = nn.utils.parameters_to_vector(parameters)
            adam.step(values, gradient)
            parts = values.split([parameter.numel() for parameter in parameters])
            torch._foreach_copy_(
                parameters, [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
            )

    def _follow(self, target: nn.Module, source: nn.Module) -> None:
        """Polyak averaging."""
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), self.settings.tau)


class DDPGWeightAgent(WeightAgent):
    """Deterministic policy with logits ``u = u_max tanh(f(s) + prior (gap - 1/2))``, critic on (state, shares).

    Shares are the weights divided by K as executed, after noise and floor. Critic and memory never see logits, since
    the softmax forgets a common shift, along which a policy would drift. There is no terminal state.

    :param gap_feature: index of the improvable gap among the features
    :param prior: how far an untrained policy leans towards tasks with large gaps; 0 starts from equal weights
    """

    def __init__(
        self,
        num_tasks: int,
        features: int,
        settings: WeightAgentSettings,
        generator: torch.Generator,
        gap_feature: int = 0,
        prior: float = 0.0,
    ) -> None:
        super().__init__(num_tasks, features, 1, settings, generator)
        self.gap_feature, self.prior = gap_feature, prior
        self.actor_target = make_policy(settings.network, num_tasks, features, 1, settings.width, _spawn(generator))
        self.actor_target.load_state_dict(self.actor.state_dict())
        self.actor_target.requires_grad_(False)

    def logits(self, states: Tensor, policy: nn.Module | None = None) -> Tensor:
        """Logits ``[B, K]`` of states ``[B, K, F]``, within the range of the settings."""
        raw = (policy or self.actor)(states).squeeze(-1)
        return self.settings.logit_range * (raw + self.prior * (states[..., self.gap_feature] - 0.5)).tanh()

    def shares(self, states: Tensor, policy: nn.Module | None = None) -> Tensor:
        """Weights divided by K: points on the simplex ``[B, K]``, without noise."""
        return to_weights(self.logits(states, policy), self.settings.floor) / self.num_tasks

    @torch.no_grad()
    def act(self, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """Weights ``[K]`` for the state ``[K, F]``, with noise ``[K]`` on the logits."""
        logits = self.logits(state.unsqueeze(0)).squeeze(0)
        return to_weights(logits if noise is None else logits + noise, self.settings.floor)

    def random_weights(self) -> Tensor:
        """Weights of standard normal logits ``[K]``: random loss weighting, with the floor."""
        return to_weights(torch.randn(self.num_tasks, generator=self.exploration), self.settings.floor)

    def learn(self, updates: int) -> dict[str, Tensor]:
        """Make updates on sampled decisions; returns what the last one saw.

        Rewards are stored as they came and standardised when sampled, so that old and new ones are on one scale: two
        standard deviations of the memory become one, and what lies beyond is clipped. Without a terminal state the
        shift adds the same constant to every value.
        """
        rewards = self.memory.rewards
        centre, scale = rewards.mean(), 2.0 * rewards.std(correction=0)
        scale = torch.where(scale > 1e-12, scale, 1.0)
        report: dict[str, Tensor] = {}
        for _ in range(updates):
            batch = self.memory.sample(self.settings.batch_size, self.replay)
            report = self.update(batch._replace(rewards=((batch.rewards - centre) / scale).clamp(-1.0, 1.0)))
        return report

    def update(self, batch: Decisions) -> dict[str, Tensor]:
        settings = self.settings
        bound = 1.0 / (1.0 - settings.gamma)  # no value is larger, since no reward is larger than one
        with torch.no_grad():
            next_shares = self.shares(batch.next_states, self.actor_target)
            next_values = self.critic_target(batch.next_states, next_shares).amin(0)
            targets = (batch.rewards + settings.gamma * next_values).clamp(-bound, bound)  # [B]
        values = self.critic(batch.states, batch.shares)  # [E, B]
        critic_loss = (values - targets).square().mean(-1).sum()
        self._descend(self.critic, self.critic_adam, critic_loss)

        actor_loss = -self.critic(batch.states, self.shares(batch.states))[0].mean()
        self._descend(self.actor, self.actor_adam, actor_loss)

        self._follow(self.critic_target, self.critic)
        self._follow(self.actor_target, self.actor)
        return {"critic_loss": critic_loss.detach(), "value": -actor_loss.detach()}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _spawn(generator: torch.Generator) -> torch.Generator:
    """A new generator on the CPU, seeded by another."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
