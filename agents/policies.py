"""The policy of many tasks: one shared actor and one shared ensemble of critics, as an SB3 policy."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.func import functional_call

from agents.arguments import refuse_unknown, signature_with
from agents.critics import PopArtValue, Value, make_value
from agents.errors import ConfigurationError, unknown_name
from agents.networks import NetworkShape, TaskNetwork, make_network, options_of
from agents.networks.layers import EMBEDDING_SIZE, TaskEncoding, TaskHeads
from agents.observations import ObservationScale, make_observation_scale
from agents.own_actions import OwnActions

ACTION_CRITICS = ("scalar", "categorical", "popart")  # kinds of values of state and action
LOG_STD_RANGES = {"clamp": (-20.0, 2.0), "tanh": (-10.0, 2.0)}
ACTOR_HEAD_SCALE = 1e-3  # actions start near the middle of their range


class Actor(nn.Module):
    """Tanh-squashed Gaussian whose mean and log standard deviation come from one network.

    :param network: ``[G, B, F], [G] -> [1, G, B, 2 A]``
    :param own: which numbers of an action are a task's own
    :param log_std: ``clamp`` cuts log standard deviations off at [-20, 2]; ``tanh`` squashes them into [-10, 2], where
        they always have a gradient
    :param encoding: what the critics are told about the task, for the actor to read and never to learn; its network
        gets it beside the state
    """

    def __init__(
        self, network: nn.Module, own: OwnActions, log_std: str = "clamp", encoding: TaskEncoding | None = None
    ) -> None:
        super().__init__()
        if log_std not in LOG_STD_RANGES:
            raise unknown_name("log_std", log_std, LOG_STD_RANGES)
        self.network = network
        self.own = own
        self.log_std = log_std
        self._encoding = (encoding,)  # in a tuple, so that it is no submodule: the critics own it

    def forward(self, states: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the squashing, each ``[G, B, A]``.

        :param states: ``[G, B, S]``
        :param task: ``[G]``
        """
        encoding = self._encoding[0]
        if encoding is not None:
            code = encoding(task).detach()[:, None, :].expand(*states.shape[:2], -1)
            states = torch.cat((states, code), dim=-1)
        mean, log_std = self.network(states, task).squeeze(0).chunk(2, dim=-1)
        lowest, highest = LOG_STD_RANGES[self.log_std]
        if self.log_std == "clamp":
            return mean, log_std.clamp(lowest, highest)
        return mean, lowest + 0.5 * (highest - lowest) * (1.0 + log_std.tanh())


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor, own: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Actions ``tanh(mean + std * noise)`` and their log-probabilities (arXiv 1812.05905, appendix C).

    ``log(1 - tanh(x)^2)`` is taken as ``2 (log 2 - x - softplus(-2x))``, exact also where tanh saturates.

    :param mean: ``[..., A]``
    :param log_std: ``[..., A]``
    :param noise: standard normal ``[..., A]``
    :param own: 1 for the task's own numbers and 0 for padding, ``[..., 1, A]``: see `OwnActions`
    :return: actions ``[..., A]``, padding 0, and log-probabilities ``[...]`` of the task's own numbers
    """
    unsquashed = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * np.log(2 * np.pi)
    correction = 2.0 * (np.log(2.0) - unsquashed - nn.functional.softplus(-2.0 * unsquashed))
    return unsquashed.tanh() * own, ((gaussian - correction) * own).sum(-1)


class Critic(nn.Module):
    """E value networks of (state, action), stacked in one parameter set.

    :param network: ``[G, B, F], [G] -> [E, G, B, O]``
    :param value: what the O outputs mean
    """

    def __init__(self, network: TaskNetwork, value: Value) -> None:
        super().__init__()
        self.network = network
        self.value = value

    def forward(self, states: Tensor, actions: Tensor, task: Tensor) -> Tensor:
        """``[G, B, S], [G, B, A], [G] -> [E, G, B, O]``."""
        return self.network(torch.cat((states, actions), dim=-1), task)


def refuse_shared_head(value: Value, network: TaskNetwork, name: str) -> None:
    """:raises ConfigurationError: for values normalised per task, of a network whose tasks share a head"""
    if isinstance(value, PopArtValue) and not isinstance(network.head, TaskHeads):
        raise ConfigurationError(
            f"critic='popart' needs a head for each task, and network='{name}' has one for all: choose "
            "network='multihead' or critic='scalar'."
        )


def owns(module: nn.Module, parameters: Mapping[str, Tensor]) -> bool:
    """Whether parameters are a module's own, and not others in their place."""
    return next(iter(parameters.values())) is next(module.parameters())


def call(module: nn.Module, parameters: Mapping[str, Tensor], *inputs: Tensor) -> Any:
    """Evaluate a module with the given parameters, which makes a loss a pure function of them."""
    if owns(module, parameters):
        return module(*inputs)  # nothing to exchange
    return functional_call(module, dict(parameters), inputs)


@dataclass(frozen=True)
class PolicySettings:
    """What a user can set of a `MultiTaskPolicy`.

    :param network: architecture of actor and critics, by registered name
    :param task_id: what the networks are told about the task: ``one_hot``; ``embedding``, learned by actor and critics
        each for itself; ``critic_embedding``, learned by the critics and read by the actor; ``given``; or ``none``
    :param hidden_sizes: widths of the critics, and of the actor where it has none of its own
    :param actor_hidden_sizes: widths of the actor
    :param actor_layer_norm: layer normalisation in the actor, where the architecture leaves the choice
    :param critic_layer_norm: layer normalisation in the critics, likewise
    :param log_std: how the actor's log standard deviations are bounded: ``clamp`` or ``tanh``
    :param critic: ``scalar`` values; ``categorical``, a distribution over atoms; or ``popart``, normalised per task
    :param critic_kwargs: options of the kind of critic, such as ``num_atoms``
    :param ensemble_reduction: one value of the E critics, for targets and actor: their ``min`` or their ``mean``
    :param num_critics: E
    :param network_kwargs: further options of the architecture
    :param task_embeddings: what is ``given``, ``[K, n]``; with them, ``given`` takes the place of ``one_hot``
    :param observation_scale: ``running`` divides states by their standard deviation so far; ``none`` leaves them
    """

    network: str = "mlp"
    task_id: str = "one_hot"
    hidden_sizes: Sequence[int] = (400, 400, 400)
    actor_hidden_sizes: Sequence[int] | None = None
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    log_std: str = "clamp"
    critic: str = "scalar"
    critic_kwargs: Mapping[str, Any] | None = None
    ensemble_reduction: str = "min"
    num_critics: int = 2
    network_kwargs: Mapping[str, Any] | None = None
    task_embeddings: Sequence[Sequence[float]] | None = None
    observation_scale: str = "none"

    def __post_init__(self) -> None:
        if self.num_critics < 1:
            raise ConfigurationError(f"num_critics must be at least 1, found {self.num_critics}.")
        if self.task_embeddings is not None and self.task_id not in ("one_hot", "given"):
            raise ConfigurationError(f"task_embeddings are for task_id='given', found task_id='{self.task_id}'.")

    @property
    def shares_embedding(self) -> bool:
        """Whether the actor reads the task embedding that the critics learn."""
        return self.task_id == "critic_embedding"

    @property
    def shared_size(self) -> int:
        """Size of what the actor reads of the critics' task embedding."""
        return dict(self.network_kwargs or {}).get("embedding_size", EMBEDDING_SIZE) if self.shares_embedding else 0

    @property
    def _told(self) -> str:
        """What task_id is to a network."""
        return self.task_id if self.task_embeddings is None else "given"

    def actor_network(self, shape: NetworkShape) -> TaskNetwork:
        """The network of an actor."""
        sizes = self.hidden_sizes if self.actor_hidden_sizes is None else self.actor_hidden_sizes
        task_id = "none" if self.shares_embedding else self._told
        return self._network(shape, sizes, task_id, layer_norm=self.actor_layer_norm, head_scale=ACTOR_HEAD_SCALE)

    def critic_network(self, shape: NetworkShape) -> TaskNetwork:
        """The networks of E critics."""
        task_id = "embedding" if self.shares_embedding else self._told
        return self._network(shape, self.hidden_sizes, task_id, layer_norm=self.critic_layer_norm)

    def value(self, num_tasks: int) -> Value:
        """What the outputs of the critics mean.

        :raises ConfigurationError: for a kind that these critics cannot have
        """
        if self.critic not in ACTION_CRITICS:
            raise unknown_name("critic", self.critic, ACTION_CRITICS)
        return make_value(self.critic, self.ensemble_reduction, num_tasks=num_tasks, **(self.critic_kwargs or {}))

    def _network(self, shape: NetworkShape, hidden_sizes: Sequence[int], task_id: str, **wanted: float) -> TaskNetwork:
        """A network that gets, of the options wanted, those that its architecture has not settled itself."""
        free = options_of(self.network)
        left = {name: value for name, value in wanted.items() if name in free}
        options = {"hidden_sizes": tuple(hidden_sizes), "task_id": task_id, **left, **(self.network_kwargs or {})}
        return make_network(self.network, shape, **options)


class MultiTaskPolicy(BasePolicy):
    """Shared actor and twin critics for observations ``[N, S + K]``: state, then one-hot task.

    :param observation_space: Box ``[S + K]``
    :param action_space: bounded Box ``[A]``
    :param lr_schedule: unused; optimizers belong to the agent
    :param num_tasks: K
    :param generator: source of initial weights and of exploration noise
    :param settings: those of `PolicySettings`
    :raises ConfigurationError: for an unknown setting or name, with the nearest known one
    """

    __signature__: ClassVar[inspect.Signature]
    settings_type: ClassVar[type[PolicySettings]] = PolicySettings
    acting_type: ClassVar[type["MultiTaskPolicy"]]  # what acts alone, without critics: what an exported file holds

    actor: Any
    critic: Any

    task_names: tuple[str, ...] | None = None  # in the order of the one-hot, where it is known

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule | None = None,
        *,
        num_tasks: int,
        generator: torch.Generator | None = None,
        action_sizes: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        refuse_unknown("MultiTaskPolicy", settings, inspect.signature(self.settings_type))
        chosen = self.settings_type(**settings)
        self.num_tasks = num_tasks
        self.state_size = observation_space.shape[0] - num_tasks
        self.action_size = action_space.shape[0]
        self.action_sizes = tuple(action_sizes or [self.action_size] * num_tasks)
        self.generator = generator or torch.Generator().manual_seed(0)
        self.scale = make_observation_scale(chosen.observation_scale, self.state_size)
        self._build(chosen)

    def _build(self, chosen: PolicySettings) -> None:
        """Build actor and critics; the first weights are drawn in this order."""
        inputs = self.state_size + chosen.shared_size
        network = chosen.actor_network(self._shape(chosen, inputs, 2 * self.action_size, members=1))
        encoding = self._add_critics(chosen)
        own = OwnActions(self.action_sizes, self.action_size)
        self.actor = Actor(network, own, chosen.log_std, encoding)

    def _make_critic(self, chosen: PolicySettings, value: Value) -> Critic:
        shape = self._shape(chosen, self.state_size + self.action_size, value.outputs, chosen.num_critics)
        network = chosen.critic_network(shape)
        refuse_shared_head(value, network, chosen.network)
        return Critic(network, value)

    def _shape(self, chosen: PolicySettings, inputs: int, outputs: int, members: int) -> NetworkShape:
        return NetworkShape(inputs, outputs, self.num_tasks, members, self.generator, chosen.task_embeddings)

    def _add_critics(self, chosen: PolicySettings) -> TaskEncoding | None:
        """Build the critics; returns their task encoding if the actor shares it."""
        value = chosen.value(self.num_tasks)  # one for both: the moments of PopArt belong to the tasks
        self.critic, self.critic_target = self._make_critic(chosen, value), self._make_critic(chosen, value)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        return self.critic.network.task_encoding if chosen.shares_embedding else None

    def observe(self, states: np.ndarray | Tensor) -> None:
        """Add states ``[..., S]`` to the statistics of the observations, where there are any."""
        if isinstance(self.scale, ObservationScale):
            self.scale.update(torch.as_tensor(states, device=self.scale.mean.device))

    def split(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[N, 1, S]`` and tasks ``[N]`` of observations ``[N, S + K]``."""
        states, one_hot = observations[:, : self.state_size], observations[:, self.state_size :]
        return states[:, None, :], one_hot.argmax(dim=1)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        task: str | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Actions for observations.

        :param observation: ``[S + K]`` or ``[N, S + K]``, state and one-hot task; with `task`, what a single
            environment returns: ``[<= S]`` or ``[N, <= S]``
        :param state: unused, as there is no memory; returned as it is
        :param episode_start: unused
        :param deterministic: the mean action instead of a sample
        :param task: name of the task that all observations are of
        :return: actions ``[A]`` or ``[N, A]`` within the action space, padded where the task's own are fewer; with
            `task`, its own numbers alone; and the state
        :raises ConfigurationError: for another size, or a task that is not known
        """
        if isinstance(observation, tuple):
            raise ConfigurationError(
                f"An observation is an array, found a tuple of {len(observation)}: Gymnasium's reset returns "
                "(observation, info)."
            )
        observation = np.asarray(observation)
        if task is not None:
            observation = self._with_one_hot(observation, task)
        size = self.state_size + self.num_tasks
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise ConfigurationError(
                f"An observation has {size} numbers, {self.state_size} of the state and the one-hot of "
                f"{self.num_tasks} tasks, found shape {observation.shape}: for the observation of a single "
                "environment, give task='name'."
            )
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return (actions if task is None else actions[..., : self._size_of(task)]), state

    def _size_of(self, task: str) -> int:
        return self.action_sizes[(self.task_names or ()).index(task)]

    def _with_one_hot(self, states: np.ndarray, task: str) -> np.ndarray:
        """Observations of states ``[..., <= S]``: padded with zeros, as the suite pads them, then the one-hot."""
        names = self.task_names or ()
        if task not in names:
            raise unknown_name("task", task, names)
        if states.ndim not in (1, 2) or states.shape[-1] > self.state_size:
            raise ConfigurationError(
                f"With task={task!r}, an observation is a state of at most {self.state_size} numbers without its "
                f"one-hot, found shape {states.shape}."
            )
        observations = np.zeros((*states.shape[:-1], self.state_size + self.num_tasks), np.float32)
        observations[..., : states.shape[-1]] = states
        observations[..., self.state_size + names.index(task)] = 1.0
        return observations

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions ``[N, A]`` in [-1, 1] of observations ``[N, S + K]``."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        assert isinstance(observation, Tensor)
        precision = next(self.actor.parameters()).dtype  # observations may come as float64 or integers
        states, task = self.split(observation.to(precision))
        mean, log_std = self.actor(self.scale(states), task)
        own = self.actor.own(task)
        if deterministic:
            return (mean.tanh() * own).squeeze(1)
        noise = torch.randn(mean.shape, generator=self.generator, dtype=mean.dtype).to(mean.device)
        return squashed_sample(mean, log_std, noise, own)[0].squeeze(1)


MultiTaskPolicy.__signature__ = signature_with(MultiTaskPolicy, PolicySettings)


class ActingPolicy(MultiTaskPolicy):
    """A policy without critics: it acts and cannot learn. What its actor reads of theirs, it has of its own."""

    def _add_critics(self, chosen: PolicySettings) -> TaskEncoding | None:
        if not chosen.shares_embedding:
            return None
        with torch.device("meta"):  # without memory: only the size is asked for
            size = self._make_critic(chosen, chosen.value(self.num_tasks)).network.task_encoding.size
        self.task_encoding = TaskEncoding(self.num_tasks, "embedding", size, self.generator)
        return self.task_encoding


MultiTaskPolicy.acting_type = ActingPolicy
