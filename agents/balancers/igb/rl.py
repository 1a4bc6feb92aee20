"""IGB-RL: an agent beside the agent, which reads the progress of every task and learns to assign the task weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.balancers.igb.agent import DDPGWeightAgent, WeightAgentSettings, to_weights
from agents.balancers.igb.decided import DecidedWeights
from agents.balancers.igb.gaps import ImprovableGaps, Reading
from agents.balancers.igb.memory import DecisionMemory, ExplorationNoise
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

    :param window: updates between two decisions; where gaps come from episodes, a decision also waits for one of each
    :param gap_source: ``critic``, ``td_norm``, ``return``, ``success`` or ``mixed``
    :param target_returns: return that counts as solved, one number or one per task; None takes the best so far
    :param reward: ``decrease`` of the gaps over the window, or their ``level`` after it
    :param kappa: part of the mean over tasks in the reward
    :param worst_share: share of the tasks that count as the worst ones; at least one
    :param weights_on: where the weights act: ``critic``, ``actor`` or ``both``
    :param scale: ``spread`` measures losses in units of the spread of their task's targets first; ``none`` does not
    :param warmup: share of the budget with random weights
    :param noise: ``gaussian`` or ``ou``, on the logits
    :param noise_start: its standard deviation at first
    :param noise_end: its standard deviation from half of the budget on
    :param updates: of the agent per decision
    :param learn_after: decisions before the first of them
    :param prior: how far an untrained agent leans towards tasks with large gaps; 0 starts from equal weights
    :param network: ``equivariant`` (all tasks alike, any number) or ``mlp``
    :param floor: least weight; 1 makes every weight one while the agent learns on
    :param logit_range: u_max; weights differ by less than a factor ``exp(2 u_max)`` but for the noise
    :param gamma: discount per decision
    :param tau: Polyak coefficient of the agent's target networks
    :param actor_lr: step size of its policy
    :param critic_lr: step size of its critic
    :param capacity: decisions that it remembers
    :param batch_size: decisions in one of its updates
    :param critics: 2 takes the smaller of two values
    """

    last_state: Tensor
    last_gaps: Tensor
    report: Tensor

    def __init__(
        self,
        num_tasks: int,
        window: int = 100,
        gap_source: str = "mixed",
        target_returns: float | Sequence[float] | None = None,
        reward: str = "decrease",
        kappa: float = 0.5,
        worst_share: float = 0.2,
        weights_on: str = "both",
        scale: str = "none",
        warmup: float = 0.1,
        noise: str = "gaussian",
        noise_start: float = 0.5,
        noise_end: float = 0.1,
        updates: int = 10,
        learn_after: int = 32,
        prior: float = 1.0,
        network: str = "equivariant",
        floor: float = 0.1,
        logit_range: float = 2.0,
        gamma: float = 0.9,
        tau: float = 0.005,
        actor_lr: float = 1e-3,
        critic_lr: float = 1e-3,
        capacity: int = 10_000,
        batch_size: int = 64,
        critics: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        gaps = ImprovableGaps("igb_rl", num_tasks, gap_source, target_returns)
        super().__init__(num_tasks, "igb_rl", window, weights_on, scale, gaps.episodic, generator)
        require_not_negative("igb_rl", kappa=kappa, prior=prior)
        require_positive("igb_rl", worst_share=worst_share)
        require_whole("igb_rl", 0, updates=updates, learn_after=learn_after)
        if reward not in REWARDS:
            raise unknown_name("reward of igb_rl", reward, REWARDS)
        if not 0 <= warmup <= 1:
            raise ConfigurationError(f"igb_rl: warmup is a share of the budget from 0 to 1, found {warmup!r}.")
        self.gaps, self.noise = gaps, ExplorationNoise(num_tasks, noise, noise_start, noise_end)
        self.reward, self.kappa, self.worst_share, self.warmup = reward, kappa, worst_share, warmup
        self.updates, self.learn_after = updates, max(learn_after, 1)
        settings = WeightAgentSettings(
            network, 64, floor, logit_range, gamma, tau, actor_lr, critic_lr, capacity, batch_size, critics
        )
        settings.check("igb_rl")
        self.agent = DDPGWeightAgent(num_tasks, len(FEATURES), settings, self.generator, FEATURES.index("gap"), prior)
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
        if used < self.warmup:
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
        agent = self.agent
        agent.memory.add(self.last_state, self.decided / self.num_tasks, reward, state)
        self._note(agent_reward=reward, weight_progress_correlation=weight_progress_correlation(agent.memory))
        if len(agent.memory) >= self.learn_after and self.updates > 0:
            with torch.enable_grad():
                learned = agent.learn(self.updates)
            self._note(agent_critic_loss=learned["critic_loss"], agent_value=learned["value"])

    def _reward_of(self, gaps: Tensor) -> Tensor:
        if self.reward == "level":
            return level_reward(gaps, self.worst_share, self.kappa)
        return improvement_reward(self.last_gaps, gaps, self.worst_share, self.kappa)

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

    :param window: updates between two draws; as in `igb_rl`, a draw also waits for an episode of every task
    :param weights_on: where the weights act: ``critic``, ``actor`` or ``both``
    :param scale: ``spread`` measures losses in units of the spread of their task's targets first; ``none`` does not
    :param warmup: share of the budget with standard normal logits
    :param noise: ``gaussian`` or ``ou``, on the logits
    :param noise_start: its standard deviation at first
    :param noise_end: its standard deviation from half of the budget on
    :param floor: least weight
    """

    def __init__(
        self,
        num_tasks: int,
        window: int = 100,
        weights_on: str = "both",
        scale: str = "none",
        warmup: float = 0.1,
        noise: str = "gaussian",
        noise_start: float = 0.5,
        noise_end: float = 0.1,
        floor: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, "igb_rl_random", window, weights_on, scale, True, generator)
        if not 0 <= floor <= 1:
            raise ConfigurationError(f"igb_rl_random: floor must lie between 0 and 1, found {floor!r}.")
        self.noise, self.warmup, self.floor = ExplorationNoise(num_tasks, noise, noise_start, noise_end), warmup, floor

    def decide(self, tasks: Tasks) -> Tensor:
        used = tasks.context.budget_used
        if used < self.warmup:
            return to_weights(torch.randn(self.num_tasks, generator=self.generator), self.floor)
        return to_weights(self.noise.draw(used, self.generator), self.floor)
