"""The actor of PPO: a diagonal Gaussian that is not squashed. Whoever acts clips the actions to the box."""

import math

import torch
from torch import Tensor, nn

from agents.errors import unknown_name
from agents.networks.layers import GroupedLayer

LOG_STDS = ("task", "state")
LOG_STD_RANGE = (-3.0, 0.5)
LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


class TaskLogStd(GroupedLayer):
    """A learned log standard deviation for every task and action, the same in all states: ``[K, A]``."""

    def __init__(self, num_tasks: int, action_size: int, initial: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((num_tasks, action_size), initial))

    def forward(self, task: Tensor) -> Tensor:
        """``[G] -> [G, A]``."""
        if self.table.ndim == 3:
            return self.table[torch.arange(len(task), device=task.device), task]
        return self.table.index_select(0, task)


class GaussianActor(nn.Module):
    """Gaussian whose means come from a network of the state.

    :param network: ``[G, B, S], [G] -> [1, G, B, O]`` with `outputs` O, as `outputs_for` says
    :param num_tasks: K
    :param action_size: A
    :param log_std: where log standard deviations come from: a parameter for every ``task`` and action, or the network
        (``state``)
    :param initial_log_std: their value at the start; with ``state``, what is added to the network's outputs
    """

    def __init__(
        self,
        network: nn.Module,
        num_tasks: int,
        action_size: int,
        log_std: str = "task",
        initial_log_std: float = -0.5,
    ) -> None:
        super().__init__()
        if log_std not in LOG_STDS:
            raise unknown_name("log_std", log_std, LOG_STDS)
        self.network = network
        self.initial_log_std = initial_log_std
        self.task_log_std = TaskLogStd(num_tasks, action_size, initial_log_std) if log_std == "task" else None

    @staticmethod
    def outputs_for(action_size: int, log_std: str) -> int:
        """Numbers that the network must give for each state."""
        return action_size if log_std == "task" else 2 * action_size

    def forward(self, states: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, each ``[G, B, A]``.

        :param states: ``[G, B, S]``
        :param task: ``[G]``
        """
        outputs = self.network(states, task).squeeze(0)
        if self.task_log_std is not None:
            mean, log_std = outputs, self.task_log_std(task)[:, None].expand_as(outputs)
        else:
            mean, offset = outputs.chunk(2, dim=-1)
            log_std = offset + self.initial_log_std
        return mean, log_std.clamp(*LOG_STD_RANGE)


def draw(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Actions ``mean + std * noise``, all ``[..., A]``."""
    return torch.addcmul(mean, log_std.exp(), noise)


def log_density(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Log-densities ``[...]`` of actions ``[..., A]``."""
    distance = (actions - mean) * (-log_std).exp()
    return (-0.5 * distance.square() - log_std - LOG_ROOT_TWO_PI).sum(-1)


def entropy(log_std: Tensor) -> Tensor:
    """Differential entropies ``[...]`` in nats."""
    return (log_std + 0.5 + LOG_ROOT_TWO_PI).sum(-1)
