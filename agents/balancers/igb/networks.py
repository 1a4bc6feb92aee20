"""Networks of the weight agent: task features in, task weights or their value out.

Two architectures. ``equivariant`` treats all tasks alike and serves any number of them (Deep Sets, arXiv 1703.06114);
``mlp`` reads the concatenated tasks, as in the authors' program of improvable gap balancing (arXiv 2307.15429).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agents.errors import unknown_name
from agents.networks.layers import EnsembleLinear

ARCHITECTURES = ("equivariant", "mlp")
LEAST_WEIGHT = 0.05  # smaller ones look like it
HEAD_SCALE = 3e-3  # the last layer starts within it, so that all tasks start with nearly equal weights (DDPG paper)


class Mlp(nn.Module):
    """Affine maps with ReLU between them, E networks as one parameter set: ``[N, F] -> [E, N, O]``."""

    def __init__(
        self, sizes: Sequence[int], generator: torch.Generator, members: int = 1, head_scale: float | None = HEAD_SCALE
    ) -> None:
        super().__init__()
        self.members = members
        scales = [None] * (len(sizes) - 2) + [head_scale]
        self.layers = nn.ModuleList(
            EnsembleLinear(members, inputs, outputs, generator, scale)
            for inputs, outputs, scale in zip(sizes[:-1], sizes[1:], scales, strict=True)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs.expand(self.members, *inputs.shape[-2:])
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden if index == 0 else hidden.relu())
        return hidden


class EquivariantPolicy(nn.Module):
    """Each task's features, then with the mean over tasks beside them: ``[B, K, F] -> [B, K, O]`` for any K."""

    def __init__(self, features: int, outputs: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.task = Mlp((features, width, width), generator, head_scale=None)
        self.head = Mlp((2 * width, width, outputs), generator)

    def forward(self, states: Tensor) -> Tensor:
        batch, tasks, features = states.shape
        each = self.task(states.reshape(1, batch * tasks, features)).view(batch, tasks, -1).relu()
        context = each.mean(1, keepdim=True).expand_as(each)
        return self.head(torch.cat((each, context), -1).view(1, batch * tasks, -1)).view(batch, tasks, -1)


class MlpPolicy(nn.Module):
    """All tasks at once: ``[B, K, F] -> [B, K, O]``."""

    def __init__(self, num_tasks: int, features: int, outputs: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.network = Mlp((num_tasks * features, width, width, num_tasks * outputs), generator)

    def forward(self, states: Tensor) -> Tensor:
        batch, tasks, _ = states.shape
        return self.network(states.reshape(1, batch, -1)).view(batch, tasks, -1)


class FactoredCritic(nn.Module):
    """A value for every task, which sum to that of the decision: ``[B, K, F], [B, K] -> [E, B, K]`` for any K.

    A task's value depends on its own features and weight, and on the mean over the tasks of what these say.
    """

    def __init__(self, features: int, width: int, members: int, generator: torch.Generator) -> None:
        super().__init__()
        self.task = Mlp((features + 1, width, width), generator, members, head_scale=None)
        self.head = Mlp((2 * width, width, 1), generator, members)

    def forward(self, states: Tensor, shares: Tensor) -> Tensor:
        batch, tasks, _ = states.shape
        # Shares shrink like 1/K; weights, their K-fold, do not.
        weights = 0.5 * (tasks * shares).clamp(min=LEAST_WEIGHT).log()
        rows = torch.cat((states, weights.unsqueeze(-1)), -1).view(1, batch * tasks, -1)
        each = self.task(rows).relu().unflatten(1, (batch, tasks))
        context = each.mean(2, keepdim=True).expand_as(each)
        return self.head(torch.cat((each, context), -1).flatten(1, 2)).view(-1, batch, tasks)


class MlpCritic(nn.Module):
    """Value of all tasks' features and shares: ``[B, K, F], [B, K] -> [E, B]``."""

    def __init__(self, num_tasks: int, features: int, width: int, members: int, generator: torch.Generator) -> None:
        super().__init__()
        self.network = Mlp((num_tasks * (features + 1), width, width, 1), generator, members)

    def forward(self, states: Tensor, shares: Tensor) -> Tensor:
        return self.network(torch.cat((states.flatten(1), shares), -1).unsqueeze(0)).squeeze(-1)


def make_policy(
    architecture: str, num_tasks: int, features: int, outputs: int, width: int, generator: torch.Generator
) -> nn.Module:
    """``[B, K, F] -> [B, K, O]``.

    :raises ConfigurationError: for an unknown architecture
    """
    if architecture == "equivariant":
        return EquivariantPolicy(features, outputs, width, generator)
    if architecture == "mlp":
        return MlpPolicy(num_tasks, features, outputs, width, generator)
    raise unknown_name("network of the weight agent", architecture, ARCHITECTURES)


def make_critic(
    architecture: str, num_tasks: int, features: int, width: int, members: int, generator: torch.Generator
) -> nn.Module:
    """``[B, K, F], [B, K] -> [E, B]``, or ``[E, B, K]`` if ``equivariant``; the architectures are those of policies."""
    if architecture == "equivariant":
        return FactoredCritic(features, width, members, generator)
    return MlpCritic(num_tasks, features, width, members, generator)
