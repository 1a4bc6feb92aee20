"""The actor of PPO: a diagonal Gaussian that is not squashed. Whoever acts clips the actions to the box."""

import math

import torch
from torch import Tensor, nn

from agents.errors import unknown_name
from agents.networks.layers import GroupedLayer
from agents.own_actions import OwnActions

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
    :param own: which numbers of an action are a task's own
    :param log_std: where log standard deviations come from: a parameter for every ``task`` and action, or the network
        (``state``)
    :param initial_log_std: their value at the start; with ``state``, what is added to the network's outputs
    """

    def __init__(
        self,
        network: nn.Module,
        own: OwnActions,
        log_std: str = "task",
        initial_log_std: float = -0.5,
    ) -> None:
        super().__init__()
        if log_std not in LOG_STDS:
            raise unknown_name("log_std", log_std, LOG_STDS)
        self.network = network
        self.own = own
        self.initial_log_std = initial_log_std
        self.task_log_std = (
            TaskLogStd(len(own.sizes), own.table.shape[1], initial_log_std) if log_std == "task" else None
        )

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


# `own` is 1 for the numbers of an action that are the task's own and 0 for padding, [..., 1, A]: see `OwnActions`.


def draw(mean: Tensor, log_std: Tensor, noise: Tensor, own: Tensor | float = 1.0) -> Tensor:
    """Actions ``mean + std * noise``, all ``[..., A]``; padding is 0."""
    return torch.addcmul(mean, log_std.exp(), noise) * own


def log_density(mean: Tensor, log_std: Tensor, actions: Tensor, own: Tensor | float = 1.0) -> Tensor:
    """Log-densities ``[...]`` of the task's own numbers of actions ``[..., A]``."""
    distance = (actions - mean) * (-log_std).exp()
    return ((-0.5 * distance.square() - log_std - LOG_ROOT_TWO_PI) * own).sum(-1)


def entropy(log_std: Tensor, own: Tensor | float = 1.0) -> Tensor:
    """Differential entropies ``[...]`` of the task's own numbers, in nats."""
    return ((log_std + 0.5 + LOG_ROOT_TWO_PI) * own).sum(-1)


def mean_std(log_std: Tensor, own: Tensor) -> Tensor:
    """Mean standard deviation of the task's own numbers, ``[G, B, A] -> [G]``."""
    numbers = log_std.shape[-2] * own.sum((-2, -1))
    return (log_std.exp() * own).sum((-2, -1)) / numbers
