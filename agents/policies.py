"""The policy of many tasks: one shared actor and one shared ensemble of critics, as an SB3 policy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.func import functional_call

from agents.critics import ScalarValue
from agents.errors import ConfigurationError
from agents.networks import make_network

LOG_STD_RANGE = (-20.0, 2.0)


class Actor(nn.Module):
    """Tanh-squashed Gaussian whose mean and log standard deviation come from one network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, states: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the squashing, each ``[G, B, A]``.

        :param states: ``[G, B, S]``
        :param task: ``[G]``
        """
        mean, log_std = self.network(states, task).squeeze(0).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions ``tanh(mean + std * noise)`` and their log-probabilities (arXiv 1812.05905, appendix C).

    ``log(1 - tanh(x)^2)`` is taken as ``2 (log 2 - x - softplus(-2x))``, exact also where tanh saturates.

    :param mean: ``[..., A]``
    :param log_std: ``[..., A]``
    :param noise: standard normal ``[..., A]``
    :return: actions ``[..., A]`` and log-probabilities ``[...]``
    """
    unsquashed = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * np.log(2 * np.pi)
    correction = 2.0 * (np.log(2.0) - unsquashed - nn.functional.softplus(-2.0 * unsquashed))
    return unsquashed.tanh(), (gaussian - correction).sum(-1)


class Critic(nn.Module):
    """E value networks of (state, action), stacked in one parameter set."""

    def __init__(self, network: nn.Module, value: ScalarValue) -> None:
        super().__init__()
        self.network = network
        self.value = value

    def forward(self, states: Tensor, actions: Tensor, task: Tensor) -> Tensor:
        """``[G, B, S], [G, B, A], [G] -> [E, G, B, O]``."""
        return self.network(torch.cat((states, actions), dim=-1), task)


def call(module: nn.Module, parameters: Mapping[str, Tensor], *inputs: Tensor) -> Any:
    """Evaluate a module with the given parameters, which makes a loss a pure function of them."""
    if next(iter(parameters.values())) is next(module.parameters()):
        return module(*inputs)  # its own: nothing to exchange
    return functional_call(module, dict(parameters), inputs)


class MultiTaskPolicy(BasePolicy):
    """Shared actor and twin critics for observations ``[N, S + K]``: state, then one-hot task.

    :param observation_space: Box ``[S + K]``
    :param action_space: bounded Box ``[A]``
    :param lr_schedule: unused; optimizers belong to the agent
    :param num_tasks: K
    :param generator: source of initial weights and of exploration noise
    :param network: architecture of actor and critics, by registered name
    :param task_id: what the networks are told about the task: ``one_hot | embedding | none``
    :param hidden_sizes: widths of actor and critics
    :param actor_layer_norm: layer normalisation in the actor
    :param critic_layer_norm: layer normalisation in the critics
    :param num_critics: E
    :param network_kwargs: further options of the architecture
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule | None = None,
        *,
        num_tasks: int,
        generator: torch.Generator | None = None,
        network: str = "mlp",
        task_id: str = "one_hot",
        hidden_sizes: Sequence[int] = (400, 400, 400),
        actor_layer_norm: bool = False,
        critic_layer_norm: bool = False,
        num_critics: int = 2,
        network_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        if num_critics < 1:
            raise ConfigurationError(f"num_critics must be at least 1, found {num_critics}.")
        self.num_tasks = num_tasks
        self.state_size = observation_space.shape[0] - num_tasks
        self.action_size = action_space.shape[0]
        self.generator = generator or torch.Generator().manual_seed(0)
        options: dict[str, Any] = {
            "task_id": task_id,
            "hidden_sizes": tuple(hidden_sizes),
            "generator": self.generator,
            **(network_kwargs or {}),
        }
        value = ScalarValue()
        inputs = self.state_size + self.action_size

        def critic() -> Critic:
            net = make_network(
                network, inputs, value.outputs, num_tasks, members=num_critics, layer_norm=critic_layer_norm, **options
            )
            return Critic(net, value)

        self.actor = Actor(
            make_network(
                network,
                self.state_size,
                2 * self.action_size,
                num_tasks,
                members=1,
                layer_norm=actor_layer_norm,
                head_scale=1e-3,
                **options,
            )
        )
        self.critic = critic()
        self.critic_target = critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)

    def split(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[N, 1, S]`` and tasks ``[N]`` of observations ``[N, S + K]``."""
        states, one_hot = observations[:, : self.state_size], observations[:, self.state_size :]
        return states[:, None, :], one_hot.argmax(dim=1)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions ``[N, A]`` in [-1, 1] of observations ``[N, S + K]``."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        assert isinstance(observation, Tensor)
        precision = next(self.actor.parameters()).dtype  # observations may come as float64 or integers
        mean, log_std = self.actor(*self.split(observation.to(precision)))
        if deterministic:
            return mean.squeeze(1).tanh()
        noise = torch.randn(mean.shape, generator=self.generator, dtype=mean.dtype).to(mean.device)
        return squashed_sample(mean, log_std, noise)[0].squeeze(1)
