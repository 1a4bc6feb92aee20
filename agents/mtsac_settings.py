"""The settings of multitask SAC, each written once: what it is, its default, its range, what it changes and does.

`MTSACSettings` is what the constructor and the command line have in common. Sizes that grow with the number of tasks K
are totals in the constructor (`MTSACArguments`, as in SB3) and per task on the command line (`MTSACPreset`).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from agents.arguments import LEARNING_RATE, AgentArguments, batch_problems, falling_rate
from agents.balancing.task_gradients import JACOBIANS
from agents.critic_settings import CategoricalSettings, PopArtSettings
from agents.critics import REDUCTIONS
from agents.errors import ConfigurationError
from agents.observations import OBSERVATION_SCALES
from agents.policies import ACTION_CRITICS, LOG_STD_RANGES
from agents.precision import PRECISIONS
from agents.reward_scale import REWARD_SCALES
from agents.settings import (
    IN_POLICY,
    AgentPreset,
    Amount,
    Auto,
    Changes,
    Choice,
    Count,
    Fraction,
    Gives,
    Later,
    NotNegative,
    Positive,
    Range,
    Says,
    described,
    hints,
)
from agents.temperature import TEMPERATURES, target_entropy_of


@dataclass(frozen=True)
class MTSACSettings:
    """What the constructor of `MTSAC` and the command line have in common.

    :param tau: Polyak coefficient of the target critics; higher follows faster
    :param gamma: discount
    :param train_freq: vector steps between two rounds of updates
    :param gradient_steps: updates in a round
    :param ent_coef: temperature: ``auto``, ``auto_<initial value>`` (learned) or a fixed number
    :param temperature: ``per_task``, or ``shared`` by all tasks
    :param target_entropy: in nats; ``auto`` is ``-A``, the size of a task's actions, and ``auto_0.5`` half of it
    :param temperature_beta1: first-moment decay of the temperature's Adam; lower forgets sooner which way it went
    :param reward_scale: ``none``; ``std`` to divide sampled rewards by their task's standard deviation; ``return`` by
        the largest return of their task, so that values fit into a categorical critic's support; or a number that
        multiplies them: critics fit values of order 100 sooner than values of order 1000
    :param max_grad_norm: clip the norm of actor and critic gradients; None does not clip
    :param weight_decay: decoupled, of actor and critics (AdamW, arXiv 1711.05101); 0 is Adam
    :param actor_weight_decay: coupled L2 on the actor alone (arXiv 2201.04122)
    :param adam_epsilon: epsilon of every Adam (Meta-World+ uses 1e-5)
    :param jacobian: how task gradients are kept for a balancer: ``full``, written out ``[K, P]``; ``layerwise``, as
        factors of the layers; ``auto``, whichever costs less. The same gradients up to rounding
    :param max_skipped_updates: updates in a row, skipped for a loss or gradient that is not finite, that end training
        with `NonFiniteUpdate`
    :param precision: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 where the processor has it)
    :param compile: compile target and losses for the shapes of this agent (``torch.compile``): the same up to rounding.
        It takes up to a minute at the first update, and seconds where that was done before. Task gradients stay as they
        are. Without a C++ compiler the agent warns, and learns as with False
    :param pipeline: simulate and learn at the same time; False alternates in SB3's order
    """

    tau: Annotated[float, Range(0, 1, exclusive=True)] = 0.005
    gamma: Annotated[float, Range(0, 1, exclusive=True)] = 0.99
    train_freq: Count = 1
    gradient_steps: Amount = 1
    ent_coef: Annotated[str, Auto("auto, auto_0.1 or a number greater than 0")] | Positive = "auto"
    temperature: Annotated[str, Choice(TEMPERATURES)] = "per_task"
    target_entropy: float | Annotated[str, Auto("auto, auto_0.5 or a number in nats")] = "auto"
    temperature_beta1: Annotated[float, Range(0, 0.999)] = 0.9
    reward_scale: Positive | Annotated[str, Choice(REWARD_SCALES)] = "none"
    max_grad_norm: Annotated[Positive | None, Says("a number above 0, or None for no clipping")] = 1.0
    weight_decay: NotNegative = 0.0
    actor_weight_decay: NotNegative = 0.0
    adam_epsilon: NotNegative = 1e-5
    jacobian: Annotated[str, Choice(JACOBIANS)] = "auto"
    max_skipped_updates: Annotated[Count, Changes.NOTHING] = 20
    precision: Annotated[str, Choice(PRECISIONS)] = "float32"
    compile: bool = False
    pipeline: bool = True


@dataclass(frozen=True)
class MTSACArguments(MTSACSettings, AgentArguments):
    """What the constructor of `MTSAC` takes: sizes are transitions over all tasks, as in SB3.

    :param learning_rate: of actor, critics and temperatures; a number or SB3's schedule
    :param buffer_size: transitions kept, over all tasks
    :param learning_starts: transitions taken with uniform actions before the first update
    :param batch_size: transitions of one update over all tasks, a multiple of K; None takes 32 per task
    :param balancer: method that balances the critic's task losses, such as ``famo`` or ``igb_v1+cagrad``
    :param policy_kwargs: arguments of `MultiTaskPolicy`
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "buffer_size", "learning_starts", "batch_size"),
        *("tau", "gamma", "train_freq", "gradient_steps"),
    )
    ATTRIBUTES: ClassVar[tuple[str, ...]] = ("max_grad_norm", "pipeline")

    buffer_size: Count = 1_000_000
    learning_starts: Amount = 5_000
    batch_size: Annotated[Count | None, Says("a positive multiple of the number of tasks")] = None

    def refuse_contradictions(self) -> None:
        target_entropy_of(self.target_entropy, 1)
        if self.weight_decay and self.actor_weight_decay:
            raise ConfigurationError(
                "weight_decay (decoupled) and actor_weight_decay (L2 on the actor alone) exclude each other, found "
                f"{self.weight_decay:g} and {self.actor_weight_decay:g}."
            )


@dataclass(frozen=True)
class MTSACPreset(MTSACSettings, AgentPreset):
    """Multitask SAC on the command line. Sizes that grow with the number of tasks K are given per task.

    :param samples_per_task: transitions of each task in a batch
    :param batch_size: transitions of all tasks in a batch; instead of `samples_per_task`, divisible by K
    :param replay_per_task: transitions kept of each task; None keeps all of the run
    :param warmup_steps_per_task: random actions in each task before learning starts
    :param learning_rate: of actor, critics and temperatures
    :param final_learning_rate: the rate falls in a straight line to this one over the run; None keeps it constant
    :param critic: values are numbers (``scalar``), distributions over atoms (``categorical``), or numbers normalised
        per task (``popart``, which needs a head for each task)
    :param categorical: the atoms
    :param popart: the normalisation
    :param ensemble_reduction: one value of the two critics, for targets and actor: the smaller one, or the mean
    :param critic_layer_norm: of the networks that leave the choice; bronet always has it
    :param actor_layer_norm: likewise, of the actor
    :param observation_scale: ``running`` divides states by their standard deviation so far; ``none`` leaves them
    :param log_std: how the actor's log standard deviations are bounded: cut off at [-20, 2] (``clamp``), or squashed
        into [-10, 2] (``tanh``)
    """

    algorithm: Annotated[str, Later()] = "mtsac"
    name: str = "mtsac"
    samples_per_task: Annotated[Count, Gives("batch_size")] = 32
    batch_size: Count | None = None
    replay_per_task: Annotated[Count | None, Gives("buffer_size")] = 100_000
    warmup_steps_per_task: Annotated[Amount, Gives("learning_starts")] = 1_000
    learning_rate: Positive = LEARNING_RATE
    final_learning_rate: Annotated[Positive | None, Gives("learning_rate")] = None
    gamma: Fraction = MTSACSettings.gamma
    gradient_steps: Count = MTSACSettings.gradient_steps
    precision: Annotated[str, Choice(PRECISIONS)] = "auto"
    critic: Annotated[str, Choice(ACTION_CRITICS), IN_POLICY] = "scalar"
    categorical: Annotated[CategoricalSettings, Gives("policy_kwargs['critic_kwargs']")] = field(
        default_factory=CategoricalSettings
    )
    ensemble_reduction: Annotated[str, Choice(REDUCTIONS), IN_POLICY] = "min"
    log_std: Annotated[str, Choice(tuple(LOG_STD_RANGES)), IN_POLICY] = "clamp"
    popart: Annotated[PopArtSettings, Gives("policy_kwargs['critic_kwargs']"), Later()] = field(
        default_factory=PopArtSettings
    )
    critic_layer_norm: Annotated[bool, IN_POLICY] = True
    actor_layer_norm: Annotated[bool, IN_POLICY] = False
    observation_scale: Annotated[str, Choice(OBSERVATION_SCALES), IN_POLICY, Later()] = "none"

    def arguments(self, num_tasks: int, env_steps: int, copies: int) -> dict[str, Any]:
        # A run shorter than its replay buffer never fills it: it does not pay for the rest.
        overshoot = copies * self.train_freq  # the loop ends between two rounds of updates
        everything = -(-env_steps // num_tasks) + overshoot
        return {
            **{shared.name: getattr(self, shared.name) for shared in fields(MTSACSettings)},
            "learning_rate": falling_rate(self.learning_rate, self.final_learning_rate),
            "buffer_size": min(self.replay_per_task or everything, everything) * num_tasks,
            "learning_starts": self.warmup_steps_per_task * num_tasks,
            "batch_size": self.batch_size or self.samples_per_task * num_tasks,
            "policy_kwargs": self._policy_arguments(),
        }

    def _policy_arguments(self) -> dict[str, Any]:
        names = [name for name, hint in hints(type(self)).items() if described(hint, Gives) == IN_POLICY]
        kinds: dict[str, CategoricalSettings | PopArtSettings] = {
            "categorical": self.categorical,
            "popart": self.popart,
        }
        of_critic = dataclasses.asdict(kinds[self.critic]) if self.critic in kinds else {}
        return {**{name: getattr(self, name) for name in names}, "critic_kwargs": of_critic}

    def problems(self, num_tasks: int | None = None) -> Iterator[str]:
        atoms = self.categorical
        if not atoms.v_min < atoms.v_max:
            yield f"categorical.v_min must be smaller than v_max, found {atoms.v_min:g} and {atoms.v_max:g}."
        yield from batch_problems(self.batch_size, num_tasks)

    def doubts(self, num_tasks: int, env_steps: int) -> Iterator[str]:
        warmup = self.warmup_steps_per_task * num_tasks
        if warmup >= env_steps:
            yield (
                f"warmup_steps_per_task={self.warmup_steps_per_task} in each of {num_tasks} tasks is a warm-up of "
                f"{warmup:,} env steps, and the run has {env_steps:,}: it acts at random and learns nothing."
            )
