"""IGB-RL: a secondary agent, which reads the progress of every task and says how much of the budget each one gets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.balancers.igb.ddpg_agent import DDPGWeightAgent
from agents.balancers.igb.decided import DecidedWeights, DecisionOptions
from agents.balancers.igb.rule import FEATURES, Situation, rewards_of, shares_of, with_floor
from agents.balancers.igb.shipped import SETTINGS, fill_agent
from agents.balancing.registry import register_balancer
from agents.errors import ConfigurationError, unknown_name

LEARNING = ("off", "shipped", "scratch")
REPORT = ("agent_reward", "agent_critic_loss", "agent_value", "agent_skill")
UPDATES, BATCH_SIZE = 10, 64  # of the agent, per decision
LEARN_AFTER = 4  # decisions


@dataclass(frozen=True, kw_only=True)
class ImprovableGapRLOptions(DecisionOptions):
    """What a user can set of `ImprovableGapRL`.

    :param learning: ``off`` is the closed form; ``shipped`` begins with the agent that comes with the toolkit, and
        keeps learning; ``scratch`` begins with one that knows nothing
    :param agent_file: another agent to begin with, of ``python -m benchmarks.train_weight_agent``
    """

    learning: str = "off"
    agent_file: str | None = None

    def check(self, method: str) -> None:
        super().check(method)
        if self.learning not in LEARNING:
            raise unknown_name(f"learning of {method}", self.learning, LEARNING)
        if self.agent_file is not None and self.learning != "shipped":
            raise ConfigurationError(
                f"{method}: agent_file is read with learning='shipped', found learning={self.learning!r}."
            )


@register_balancer(
    "igb_rl",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="a weight agent gives the budget to tasks by their improvable gaps; it can learn, by DDPG",
)
class ImprovableGapRL(DecidedWeights):
    """A weight agent decides how much of every batch each task gets, and can learn from what its decisions bring.

    Its prior is the closed form of `igb_v1_rl`, ``share ~ gap * interest`` above a floor. With ``learning`` on, a DDPG
    agent (arXiv 1509.02971) adds to the logits of that: a deterministic policy on a critic that is a sum over tasks.
    The reward is the decrease of the soft-worst gap, ``T log mean exp(gap / T)``, over the window of a decision, by the
    parts of the tasks. Where the critic does not foretell outcomes that it has not seen better than their mean, the
    weights are exactly those of the closed form.
    Differs from the paper: gaps of returns and success instead of loss ratios, since a critic's loss rises while its
    values grow; shares of the samples instead of weights of log losses; DDPG instead of SAC, decisions held for
    hundreds of updates instead of one; an agent that can be trained across runs. `igb_v2` is the published agent.
    """

    Options = ImprovableGapRLOptions
    options: ImprovableGapRLOptions
    last_state: Tensor
    report: Tensor

    def __init__(
        self, num_tasks: int, options: ImprovableGapRLOptions, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_tasks, "igb_rl", options, generator)
        self.agent: DDPGWeightAgent | None = None
        if options.learning != "off":
            self.agent = DDPGWeightAgent(num_tasks, SETTINGS, self.generator, options.floor)
            if options.learning == "shipped":
                fill_agent(self.agent, options.agent_file)
        self.register_buffer("last_state", torch.zeros(num_tasks, len(FEATURES)))
        self.register_buffer("report", torch.zeros(len(REPORT)))

    def decide(self, situation: Situation) -> Tensor:
        before, state = self.record.course, situation.features().to(self.last_state)
        if before is not None:
            rewards = rewards_of(before.gaps, situation.gaps)
            self._note(agent_reward=rewards.sum())
            if self.agent is not None:
                self._learn(self.agent, situation.weights.to(state), rewards.to(state), state)
        self.last_state = state
        if self.agent is None:
            return with_floor(shares_of(situation.gaps, situation.interest), self.options.floor)
        return self.agent.act(state)

    def _learn(self, agent: DDPGWeightAgent, weights: Tensor, rewards: Tensor, state: Tensor) -> None:
        """Remember what the last decision brought and led to, and learn from what is remembered."""
        agent.remember(self.last_state, weights, rewards, state)
        self._note(agent_skill=agent.skill)
        if len(agent.memory) >= LEARN_AFTER:
            with torch.enable_grad():
                learned = agent.learn(UPDATES, BATCH_SIZE)
            self._note(agent_critic_loss=learned["critic_loss"], agent_value=learned["value"])

    def _note(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.report[REPORT.index(name)] = value

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside what every decided weight reports: what the agent was rewarded with and learnt."""
        return {**super().diagnostics(), **dict(zip(REPORT, self.report, strict=True))}
