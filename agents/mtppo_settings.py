"""The settings of multitask PPO, each written once: what it is, its default, its range, what it changes and does.

`MTPPOSettings` is what the constructor and the command line have in common. Sizes that grow with the number of tasks K
are totals in the constructor (`MTPPOArguments`, as in SB3) and per task on the command line (`MTPPOPreset`).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, ClassVar

from agents.arguments import AgentArguments, batch_problems, falling_rate
from agents.balancing.task_gradients import JACOBIANS
from agents.critic_settings import PopArtSettings
from agents.gaussian import LOG_STDS
from agents.kl_rule import KL_RULES
from agents.observations import OBSERVATION_SCALES
from agents.ppo_policy import POPART_RATE
from agents.precision import PRECISIONS
from agents.rollout import NORMALISATIONS
from agents.settings import (
    IN_POLICY,
    AgentPreset,
    Changes,
    Choice,
    Count,
    Fraction,
    Gives,
    NotNegative,
    Positive,
    Range,
    Says,
    described,
    hints,
)

LEARNING_RATE = 5e-4
SAMPLES_PER_TASK = 100  # of a minibatch, where batch_size is not given


@dataclass(frozen=True)
class MTPPOSettings:
    """What the constructor of `MTPPO` and the command line have in common.

    :param n_steps: vector steps of a rollout; a task has this many transitions from each copy of its environment
    :param n_epochs: passes over a rollout
    :param gamma: discount
    :param gae_lambda: lambda of the advantages (arXiv 1506.02438): 0 trusts the critic, 1 the rewards
    :param clip_range: how far the ratio of new to old densities counts, from 1
    :param normalize_advantage: to mean zero and variance one over the rollout: ``per_task``, over ``all`` tasks, or
        ``none``
    :param ent_coef: weight of the entropy in the actor's loss
    :param target_kl: divergence of the new policy from the one that acted, in nats, that `kl_rule` keeps to; None lets
        it be
    :param kl_rule: ``stop`` ends the epochs of an iteration at 1.5 times the target; ``adapt`` divides or multiplies
        the learning rate by 1.5 after iterations beyond twice the target or below half of it, between a tenth and
        four times what it would be
    :param max_grad_norm: clip the norm of actor and critic gradients; None does not clip
    :param adam_epsilon: epsilon of both Adams
    :param jacobian: how task gradients are kept for a balancer: ``full``, written out ``[K, P]``; ``layerwise``, as
        factors of the layers; ``auto``, whichever costs less. The same gradients up to rounding
    :param max_skipped_updates: updates in a row, skipped for a loss or gradient that is not finite, that end training
        with `NonFiniteUpdate`
    :param precision: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 where the processor has it)
    :param compile: compile the losses for the shapes of this agent (``torch.compile``): the same up to rounding.
        It takes up to a minute at the first update. Without a C++ compiler the agent warns, and learns as with False
    """

    n_steps: Count = 200
    n_epochs: Count = 8
    gamma: Annotated[float, Range(0, 1, exclusive=True)] = 0.99
    gae_lambda: Fraction = 0.97
    clip_range: Positive = 0.2
    normalize_advantage: Annotated[str, Choice(NORMALISATIONS)] = "per_task"
    ent_coef: NotNegative = 2e-3
    target_kl: Annotated[Positive | None, Says("a number above 0, or None for no limit")] = None
    kl_rule: Annotated[str, Choice(KL_RULES)] = "stop"
    max_grad_norm: Annotated[Positive | None, Says("a number above 0, or None for no clipping")] = 1.0
    adam_epsilon: NotNegative = 1e-5
    jacobian: Annotated[str, Choice(JACOBIANS)] = "auto"
    max_skipped_updates: Annotated[Count, Changes.NOTHING] = 20
    precision: Annotated[str, Choice(PRECISIONS)] = "float32"
    compile: bool = False


@dataclass(frozen=True)
class MTPPOArguments(MTPPOSettings, AgentArguments):
    """What the constructor of `MTPPO` takes: sizes are transitions over all tasks, as in SB3.

    :param learning_rate: of actor and critics; a number or SB3's schedule
    :param batch_size: transitions of one minibatch over all tasks, a multiple of K; None takes 100 per task
    :param balancer: method that balances the critic's task losses, such as ``famo`` or ``igb_v1+cagrad``
    :param policy_kwargs: arguments of `PPOPolicy`
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "n_steps", "batch_size", "n_epochs"),
        *("gamma", "gae_lambda", "clip_range"),
    )
    ATTRIBUTES: ClassVar[tuple[str, ...]] = ("n_epochs", "clip_range", "max_grad_norm")

    batch_size: Annotated[Count | None, Says("a positive multiple of the number of tasks")] = None


@dataclass(frozen=True)
class MTPPOPreset(MTPPOSettings, AgentPreset):
    """Multitask PPO on the command line. Sizes that grow with the number of tasks K are given per task.

    :param samples_per_task: transitions of each task in a minibatch
    :param batch_size: transitions of all tasks in a minibatch; instead of `samples_per_task`, divisible by K
    :param learning_rate: of actor and critics
    :param final_learning_rate: the rate falls in a straight line to this one over the run; None keeps it constant
    :param critic: values are normalised per task (``popart``), or numbers as they are (``scalar``)
    :param popart: the normalisation
    :param critic_layer_norm: of the networks that leave the choice; bronet always has it
    :param actor_layer_norm: likewise, of the actor
    :param log_std: where log standard deviations come from: a parameter for every ``task`` and action, or the actor's
        network (``state``)
    :param initial_log_std: log standard deviations at the start
    :param observation_scale: ``running`` divides states by their standard deviation so far; ``none`` leaves them
    """

    NETWORK: ClassVar[str] = "multihead"

    algorithm: str = "mtppo"
    name: str = "mtppo"
    samples_per_task: Annotated[Count, Gives("batch_size")] = SAMPLES_PER_TASK
    batch_size: Count | None = None
    learning_rate: Positive = LEARNING_RATE
    final_learning_rate: Annotated[Positive | None, Gives("learning_rate")] = None
    precision: Annotated[str, Choice(PRECISIONS)] = "auto"
    critic: Annotated[str, Choice(("popart", "scalar")), IN_POLICY] = "popart"
    popart: Annotated[PopArtSettings, Gives("policy_kwargs['critic_kwargs']")] = field(
        default_factory=partial(PopArtSettings, rate=POPART_RATE)
    )
    critic_layer_norm: Annotated[bool, IN_POLICY] = True
    actor_layer_norm: Annotated[bool, IN_POLICY] = False
    log_std: Annotated[str, Choice(LOG_STDS), IN_POLICY] = "task"
    initial_log_std: Annotated[float, IN_POLICY] = -0.5
    observation_scale: Annotated[str, Choice(OBSERVATION_SCALES), IN_POLICY] = "running"

    def arguments(self, num_tasks: int, env_steps: int, copies: int) -> dict[str, Any]:
        names = [name for name, hint in hints(type(self)).items() if described(hint, Gives) == IN_POLICY]
        moments = dataclasses.asdict(self.popart) if self.critic == "popart" else {}
        return {
            **{shared.name: getattr(self, shared.name) for shared in fields(MTPPOSettings)},
            "learning_rate": falling_rate(self.learning_rate, self.final_learning_rate),
            "batch_size": self.batch_size or self.samples_per_task * num_tasks,
            "policy_kwargs": {**{name: getattr(self, name) for name in names}, "critic_kwargs": moments},
        }

    def problems(self, num_tasks: int | None = None) -> Iterator[str]:
        yield from batch_problems(self.batch_size, num_tasks)
