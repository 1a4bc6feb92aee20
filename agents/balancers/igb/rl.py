"""IGB-RL: an agent beside the agent, which reads the progress of every task and learns to assign the task weights."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from agents.balancers.igb.agent import DDPGWeightAgent, WeightAgentSettings, to_weights
from agents.balancers.igb.decided import DecidedWeights, DecisionOptions
from agents.balancers.igb.gaps import GapOptions, ImprovableGaps, Reading
from agents.balancers.igb.memory import DecisionMemory, ExplorationNoise, ExplorationOptions
from agents.balancing.options import require_not_negative, require_positive, require_whole
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks
from agents.errors import ConfigurationError, unknown_name

# What the weight agent sees of every task; all within [-1, 1] or close, so that no running normaliser is needed, which
# would make old decisions inconsistent.
FEATURES = ("gap", "gap change", "success", "return", "loss ratio", "log temperature", "share", "budget used")
REWARDS = ("decrease", "level")
REPORT = ("agent_reward", "agent_critic_loss", "agent_value", "exploration", "weight_progress_correlation", "decisions")
CHANGE_SCALE = 10.0  # gaps change by a few hundredths in a window
LOG_TEMPERATURE_SCALE = 5.0
LAG, RECENT = 5, 50  # decisions: how late progress is looked for, and over how many


def improvement_reward(before: Tensor, after: Tensor, worst_share: float = 0.2, kappa: float = 0.1) -> Tensor:
    """``worst + kappa mean`` of the decreases of the gaps, a scalar.

    The smallest decrease is what matters (ablation of arXiv 2307.15429); the mean keeps a signal where the worst task
    stands still. The smallest of many noisy numbers is biased downwards, so of many tasks the worst share is averaged.

    :param before: gaps ``[K]`` at the last decision
    :param after: gaps ``[K]`` now
    :param worst_share: share of the tasks that count as the worst; at least one task does
    """
    decreases = before - after
    return _worst(decreases, worst_share) + kappa * decreases.mean(-1)


def level_reward(after: Tensor, worst_share: float = 0.2, kappa: float = 0.1) -> Tensor:
    """``-(largest + kappa mean)`` of the gaps: where the tasks stand, instead of what the last window brought."""
    return _worst(-after, worst_share) - kappa * after.mean(-1)


def _worst(values: Tensor, share: float) -> Tensor:
    return values.sort(-1).values[..., : max(1, int(share * values.shape[-1]))].mean(-1)


@dataclass(frozen=True, kw_only=True)
class ImprovableGapRLOptions(WeightAgentSettings, ExplorationOptions, GapOptions, DecisionOptions):
    """What a user can set of `ImprovableGapRL`.

    :param reward: ``decrease`` of the gaps over the window, or their ``level`` after it
    :param kappa: part of the mean over tasks in the reward
    :param worst_share: share of the tasks that count as the worst ones; at least one
    :param updates: of the agent per decision
    :param learn_after: decisions before the first of them
    :param prior: how far an untrained agent leans towards tasks with large gaps; 0 starts from equal weights
    """

    width: int = field(default=64, init=False)  # no option
    reward: str = "decrease"
    kappa: float = 0.5
    worst_share: float = 0.2
    updates: int = 10
    learn_after: int = 32
    prior: float = 1.0

    def __post_init__(self) -> None:
        require_not_negative("igb_rl", kappa=self.kappa, prior=self.prior)
        require_positive("igb_rl", worst_share=self.worst_share)
        require_whole("igb_rl", 0, updates=self.updates, learn_after=self.learn_after)
        if self.reward not in REWARDS:
            raise unknown_name("reward of igb_rl", self.reward, REWARDS)
        if not 0 <= self.warmup <= 1:
            raise ConfigurationError(f"igb_rl: warmup is a share of the budget from 0 to 1, found {self.warmup!r}.")
        self.check("igb_rl")


@register_balancer(
    "igb_rl",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="a DDPG agent reads the progress of every task and assigns the weights",
)
class ImprovableGapRL(DecidedWeights):
    """A learned agent decides once per window; it is rewarded when the tasks' improvable gaps shrink, the worst first.

    ``weights = (1 - floor) K softmax(u) + floor`` with ``u = u_max tanh(f(state) + prior (gap - 1/2)) + noise``; reward
    ``worst decrease of the gaps + kappa * mean decrease``. The weights multiply the losses, not their logarithms, and
    are the same for critic and actor; temperatures are never weighted. The agent is DDPG (arXiv 1509.02971) with a
    replay, generators and optimisers of its own; it starts with random weights for a share of the budget.
    Differs from the paper: gaps of returns and success instead of loss ratios, since a critic's loss rises while its
    values grow; DDPG instead of SAC, windows instead of single batches, a floor under every weight; the sum to K and
    the smallest decrease as the reward are the paper's. `igb_v2` is the published agent.
    """

    Options = ImprovableGapRLOptions
    options: ImprovableGapRLOptions
    last_state: Tensor
    last_gaps: Tensor
    report: Tensor

    def __init__(
        self, num_tasks: int, options: ImprovableGapRLOptions, generator: torch.Generator | None = None
    ) -> None:
        gaps = ImprovableGaps("igb_rl", num_tasks, options.gap_source, options.target_returns)
        super().__init__(num_tasks, "igb_rl", options, gaps.episodic, generator)
        self.gaps = gaps
        self.noise = ExplorationNoise(num_tasks, options.noise, options.noise_start, options.noise_end)
        gap_feature = FEATURES.index("gap")
        self.agent = DDPGWeightAgent(num_tasks, len(FEATURES), options, self.generator, gap_feature, options.prior)
        self.register_buffer("last_state", torch.zeros(num_tasks, len(FEATURES)))
        self.register_buffer("last_gaps", torch.ones(num_tasks))
        self.register_buffer("report", torch.zeros(len(REPORT)))
        self._first_rate = 0.0  # the learning rate at the first decision; 0 before it

    def watch(self, tasks: Tasks) -> None:
        self.gaps.watch(tasks)

    def decide(self, tasks: Tasks) -> Tensor:
        reading, used = self.gaps.read(tasks), tasks.context.budget_used
        state, rate_ratio = self._state(tasks, reading, used), self._rate_ratio(tasks)
        if self.decisions > 0:
            self._learn(self._reward_of(reading.gaps) * rate_ratio, state)
        if used < self.options.warmup:
            weights = self.agent.random_weights()
        else:
            weights = self.agent.act(state, self.noise.draw(used, self.agent.exploration))
        self.last_state, self.last_gaps = state, reading.gaps
        self._note(exploration=self.noise.scale(used), decisions=self.decisions + 1)
        return weights

    def _note(self, **values: Tensor | float) -> None:
        for name, value in values.items():
            self.report[REPORT.index(name)] = value

    def _state(self, tasks: Tasks, reading: Reading, used: float) -> Tensor:
        """What the agent sees ``[K, F]``, in the order of `FEATURES`."""
        temperatures = tasks.context.temperatures
        log_temperature = (
            torch.zeros_like(reading.gaps) if temperatures is None else temperatures.log().to(reading.gaps)
        )
        change = torch.zeros_like(reading.gaps) if self.decisions == 0 else reading.gaps - self.last_gaps
        features = (
            reading.gaps,
            (CHANGE_SCALE * change).clamp(-1.0, 1.0),
            reading.success,
            reading.returns,
            reading.loss_ratio,
            (log_temperature / LOG_TEMPERATURE_SCALE).clamp(-2.0, 1.0),
            self.decided / self.num_tasks,
            torch.full_like(reading.gaps, used),
        )
        return torch.stack(features, dim=1)

    def _learn(self, reward: Tensor, state: Tensor) -> None:
        """Remember what the last decision brought and led to, and learn from what is remembered."""
        agent, options = self.agent, self.options
        agent.memory.add(self.last_state, self.decided / self.num_tasks, reward, state)
        self._note(agent_reward=reward, weight_progress_correlation=weight_progress_correlation(agent.memory))
        if len(agent.memory) >= options.learn_after and options.updates > 0:
            with torch.enable_grad():
                learned = agent.learn(options.updates)
            self._note(agent_critic_loss=learned["critic_loss"], agent_value=learned["value"])

    def _reward_of(self, gaps: Tensor) -> Tensor:
        options = self.options
        if options.reward == "level":
            return level_reward(gaps, options.worst_share, options.kappa)
        return improvement_reward(self.last_gaps, gaps, options.worst_share, options.kappa)

    def _rate_ratio(self, tasks: Tasks) -> float:
        """Initial over current learning rate: what a smaller step brings less is not the weights' doing (alpha)."""
        rate = tasks.context.learning_rate
        if not rate:
            return 1.0
        self._first_rate = self._first_rate or rate
        return self._first_rate / rate

    def get_extra_state(self) -> Tensor:
        return torch.cat([torch.tensor([self._first_rate]).double(), super().get_extra_state()])

    def set_extra_state(self, state: Tensor) -> None:
        self._first_rate = float(state[0])
        super().set_extra_state(state[1:])

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights: gap of every task, and what the agent was rewarded with and learnt."""
        return {**super().diagnostics(), "gaps": self.last_gaps, **dict(zip(REPORT, self.report, strict=True))}


def weight_progress_correlation(memory: DecisionMemory) -> Tensor:
    """Correlation, over tasks and recent decisions, of a task's weight and how far its gap fell within `LAG` decisions.

    Weights act late; a value that stays near zero says that they have not been what moves the gaps. 0 while unknown.
    """
    recent = memory.latest(RECENT)
    shares, gaps = recent.shares, recent.states[..., FEATURES.index("gap")]  # [n, K]
    if len(gaps) <= LAG:
        return torch.zeros((), device=gaps.device)
    falls = gaps[:-LAG] - gaps[LAG:]
    weights, falls = (values - values.mean(1, keepdim=True) for values in (shares[:-LAG], falls))
    return (weights * falls).sum() / (weights.norm() * falls.norm()).clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True)
class ImprovableGapRandomOptions(ExplorationOptions, DecisionOptions):
    """What a user can set of `ImprovableGapRandom`.

    :param floor: least weight
    """

    floor: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ConfigurationError(f"igb_rl_random: floor must lie between 0 and 1, found {self.floor!r}.")


@register_balancer(
    "igb_rl_random",
    family="loss",
    cost="O(1)",
    paper="arXiv 2111.10603",
    summary="control of igb_rl: the same noise and windows, and no agent behind them",
)
class ImprovableGapRandom(DecidedWeights):
    """The weights that `igb_rl` would execute if its agent knew nothing: same warm-up, noise, floor and windows.

    A gain of `igb_rl` over this control is due to what the agent has learnt, not to weights that move.
    """

    Options = ImprovableGapRandomOptions
    options: ImprovableGapRandomOptions

    def __init__(
        self, num_tasks: int, options: ImprovableGapRandomOptions, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_tasks, "igb_rl_random", options, True, generator)
        self.noise = ExplorationNoise(num_tasks, options.noise, options.noise_start, options.noise_end)

    def decide(self, tasks: Tasks) -> Tensor:
        used, floor = tasks.context.budget_used, self.options.floor
        if used < self.options.warmup:
            return to_weights(torch.randn(self.num_tasks, generator=self.generator), floor)
        return to_weights(self.noise.draw(used, self.generator), floor)
