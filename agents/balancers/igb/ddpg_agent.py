"""The agent of IGB-RL: a deterministic policy on a factored critic (DDPG), as a residual on the closed form.

Source: Lillicrap et al. 2016 (arXiv 1509.02971); weights as actions of a learned agent: Dai et al. 2023 (arXiv
2307.15429), whose agent is SAC. The critic is a sum over tasks, so that every task's own outcome teaches it.
"""

import torch
from torch import Tensor, nn

from agents.balancers.igb.agent import WeightAgent, WeightAgentSettings, spawn
from agents.balancers.igb.memory import Decisions
from agents.balancers.igb.networks import make_policy
from agents.balancers.igb.rule import FEATURES, GAP, INTEREST, shares_of, with_floor

LOGIT_RANGE = 1.5  # how far the policy can move the logits of the closed form
NOISE = 0.2  # standard deviation on the logits, while the critic is trusted
REWARD_SCALE = 10.0  # the soft-worst gap falls by some hundredths in a window
FORGET = 0.95  # of the evidence, per decision
ENOUGH = 8.0  # decisions of evidence before the critic is trusted
EVIDENCE = ("decisions", "numbers", "sum", "squares", "errors")  # of outcomes that the critic had not seen


class DDPGWeightAgent(WeightAgent):
    """Weights ``(1 - floor) K softmax(log share + u) + floor``: the closed form's shares, and ``u = u_max tanh f(s)``.

    ``Q(s, a) = sum_k q(s_k, a_k)``, each part learnt from the reward of its task. How well the critic foretells
    outcomes is measured on decisions before it learns from them; unless it does better than their mean, u is zero.

    :param floor: least weight
    """

    evidence: Tensor

    def __init__(self, num_tasks: int, settings: WeightAgentSettings, generator: torch.Generator, floor: float) -> None:
        super().__init__(num_tasks, len(FEATURES), 1, settings, generator)
        self.floor = floor
        self.actor_target = make_policy(settings.network, num_tasks, len(FEATURES), 1, settings.width, spawn(generator))
        self.actor_target.load_state_dict(self.actor.state_dict())
        self.actor_target.requires_grad_(False)
        self.register_buffer("evidence", torch.zeros(len(EVIDENCE)))

    def weights(
        self, states: Tensor, policy: nn.Module | None = None, noise: Tensor | float = 0.0, strength: float = 1.0
    ) -> Tensor:
        """Weights ``[B, K]`` for states ``[B, K, F]``.

        :param noise: on the logits
        :param strength: of what the policy adds; zero is the closed form
        """
        shares = shares_of(states[..., GAP], states[..., INTEREST])
        if strength:
            moved = LOGIT_RANGE * (policy or self.actor)(states).squeeze(-1).tanh() + noise
            shares = (shares.log() + strength * moved).softmax(-1)
        return with_floor(shares, self.floor)

    @torch.no_grad()
    def act(self, state: Tensor) -> Tensor:
        """Weights ``[K]`` for a state ``[K, F]``: with noise, or the closed form where the critic has no skill."""
        noise = NOISE * torch.randn(self.num_tasks, generator=self.exploration)
        return self.weights(state.unsqueeze(0), None, noise.to(state), float(self.skill > 0)).squeeze(0)

    @property
    def skill(self) -> Tensor:
        """R^2 of the critic on outcomes that it had not seen; zero while there are too few of them."""
        decisions, numbers, total, squares, errors = self.evidence
        variance = squares - total.square() / numbers.clamp(min=1.0)
        enough = (decisions >= ENOUGH) & (variance > 0)
        return torch.where(enough, 1.0 - errors / variance.clamp(min=1e-12), 0.0)

    @torch.no_grad()
    def remember(self, state: Tensor, weights: Tensor, rewards: Tensor, next_state: Tensor) -> None:
        """Test the critic on a decision, then store it: ``[K, F], [K], [K], [K, F]``."""
        shares, rewards = weights / self.num_tasks, REWARD_SCALE * rewards
        one = Decisions(*(part.unsqueeze(0) for part in (state, shares, rewards, next_state)))
        errors = self.critic(one.states, one.shares)[0] - self._targets(one)
        seen = [1.0, float(self.num_tasks), *(float(v) for v in _moments(self._targets(one), errors))]
        self.evidence = FORGET * self.evidence + torch.tensor(seen).to(self.evidence)
        self.memory.add(state, shares, rewards, next_state)

    def learn(self, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Make updates on decisions of the memory; returns what the last one saw."""
        report: dict[str, Tensor] = {}
        for _ in range(updates):
            report = self.update(self.memory.sample(batch_size, self.replay))
        return report

    def update(self, batch: Decisions) -> dict[str, Tensor]:
        values = self.critic(batch.states, batch.shares)  # [E, B, K]
        critic_loss = (values - self._targets(batch)).square().mean((-2, -1)).sum()
        self._descend(self.critic, self.critic_adam, critic_loss)

        shares = self.weights(batch.states) / batch.states.shape[1]
        actor_loss = -self.critic(batch.states, shares)[0].sum(-1).mean()
        self._descend(self.actor, self.actor_adam, actor_loss)

        self._follow(self.critic_target, self.critic)
        self._follow(self.actor_target, self.actor)
        return {"critic_loss": critic_loss.detach(), "value": -actor_loss.detach()}

    @torch.no_grad()
    def _targets(self, batch: Decisions) -> Tensor:
        """``r_k + gamma q_k(s', pi(s'))``: ``[B, K]``. There is no terminal state."""
        if self.settings.gamma == 0:
            return batch.rewards
        shares = self.weights(batch.next_states, self.actor_target) / batch.states.shape[1]
        return batch.rewards + self.settings.gamma * self.critic_target(batch.next_states, shares).amin(0)


def _moments(values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return values.sum(), values.square().sum(), errors.square().sum()
