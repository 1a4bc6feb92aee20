"""The policy of multitask PPO: scaled observations, a Gaussian that is not squashed, and critics of the state."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from agents.arguments import signature_with
from agents.critics import Value, make_value
from agents.errors import ConfigurationError, unknown_name
from agents.gaussian import LOG_STDS, GaussianActor, draw
from agents.own_actions import OwnActions
from agents.policies import MultiTaskPolicy, PolicySettings, refuse_shared_head
from agents.ppo_updates import StateCritic

STATE_CRITICS = ("popart", "scalar", "categorical")
POPART_RATE = 0.2  # of one update per rollout; the class's own default is for one update per minibatch


@dataclass(frozen=True)
class PPOPolicySettings(PolicySettings):
    """What a user can set of a `PPOPolicy`.

    :param task_id: what the networks are told about the task: ``one_hot``, ``embedding`` or ``none``
    :param log_std: where the log standard deviations come from: a parameter for every ``task`` and action, or the
        actor's network (``state``)
    :param initial_log_std: log standard deviations at the start
    :param critic: values are ``popart``, normalised per task; ``scalar``; or ``categorical``
    :param observation_scale: ``running`` divides states by their standard deviation so far; ``none`` leaves them
    """

    network: str = "multihead"
    hidden_sizes: Sequence[int] = (256, 256, 256)
    critic_layer_norm: bool = True
    log_std: str = "task"
    initial_log_std: float = -0.5
    critic: str = "popart"
    ensemble_reduction: str = "mean"
    num_critics: int = 1
    observation_scale: str = "running"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log_std not in LOG_STDS:
            raise unknown_name("log_std", self.log_std, LOG_STDS)
        if self.shares_embedding:
            raise ConfigurationError(
                "task_id='critic_embedding' lets an actor read what its critics learn, and PPO's learns apart from "
                "them: choose task_id='embedding'."
            )

    def value(self, num_tasks: int) -> Value:
        if self.critic not in STATE_CRITICS:
            raise unknown_name("critic", self.critic, STATE_CRITICS)
        usual: Mapping[str, Any] = {"rate": POPART_RATE} if self.critic == "popart" else {}
        options = {**usual, **(self.critic_kwargs or {})}
        return make_value(self.critic, self.ensemble_reduction, num_tasks=num_tasks, **options)


class PPOPolicy(MultiTaskPolicy):
    """Gaussian actor and critics of the state, for observations ``[N, S + K]``: state, then one-hot task.

    Actions are drawn in units of the box, from -1 to 1, and cut off at its borders.
    """

    __signature__: ClassVar[inspect.Signature]
    settings_type = PPOPolicySettings

    actor: GaussianActor
    critic: StateCritic

    def _build(self, chosen: PolicySettings) -> None:
        assert isinstance(chosen, PPOPolicySettings)
        own = OwnActions(self.action_sizes, self.action_size)
        outputs = GaussianActor.outputs_for(self.action_size, chosen.log_std)
        network = chosen.actor_network(self._shape(chosen, self.state_size, outputs, members=1))
        self.actor = GaussianActor(network, own, chosen.log_std, chosen.initial_log_std)
        self._add_state_critic(chosen)

    def _add_state_critic(self, chosen: PPOPolicySettings) -> None:
        value = chosen.value(self.num_tasks)
        shape = self._shape(chosen, self.state_size, value.outputs, chosen.num_critics)
        network = chosen.critic_network(shape)
        refuse_shared_head(value, network, chosen.network)
        self.critic = StateCritic(network, value)

    def values(self, states: Tensor, task: Tensor) -> Tensor:
        """Values ``[G, B]`` of ``states [G, B, S]`` as the environment gives them, group g belonging to ``task[g]``."""
        return self.critic.values(self.scale(states), task)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        assert isinstance(observation, Tensor)
        precision = next(self.actor.parameters()).dtype  # observations may come as float64 or integers
        states, task = self.split(observation.to(precision))
        mean, log_std = self.actor(self.scale(states), task)
        own = self.actor.own(task)
        if deterministic:
            return (mean * own).squeeze(1).clamp(-1.0, 1.0)
        noise = torch.randn(mean.shape, generator=self.generator, dtype=mean.dtype).to(mean.device)
        return draw(mean, log_std, noise, own).squeeze(1).clamp(-1.0, 1.0)


PPOPolicy.__signature__ = signature_with(PPOPolicy, PPOPolicySettings)


class ActingPPOPolicy(PPOPolicy):
    """A policy of PPO without critics: it acts and cannot learn."""

    def _add_state_critic(self, chosen: PPOPolicySettings) -> None:
        pass


PPOPolicy.acting_type = ActingPPOPolicy
