"""Fully connected trunk and one shared head."""

from collections.abc import Sequence

import torch
from torch import nn

from agents.networks.base import TaskNetwork, refuse_bad_widths
from agents.networks.layers import EMBEDDING_SIZE, EnsembleLayerNorm, EnsembleLinear, ReLU, TaskEncoding


class MLP(TaskNetwork):
    """Shared trunk and one shared head; the task is part of the input.

    :param inputs: size F of the input, without the task encoding
    :param outputs: size O of the output
    :param members: ensemble size E
    :param hidden_sizes: width of every hidden layer
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | none``
    :param embedding_size: size of the learned embedding
    :param head_scale: the head starts uniform in ``+-head_scale``
    :param generator: source of the initial weights
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        num_tasks: int,
        *,
        members: int,
        generator: torch.Generator,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        layer_norm: bool = False,
        task_id: str = "one_hot",
        embedding_size: int = EMBEDDING_SIZE,
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        self.members = members
        self.task_encoding = TaskEncoding(num_tasks, task_id, embedding_size, generator)
        layers: list[nn.Module] = []
        features = inputs + self.task_encoding.size
        for width in hidden_sizes:
            layers.append(EnsembleLinear(members, features, width, generator))
            if layer_norm:
                layers.append(EnsembleLayerNorm(members, width))
            layers.append(ReLU())
            features = width
        self.trunk = nn.Sequential(*layers)
        self.head = self.make_head(features, outputs, num_tasks, generator, head_scale)

    def make_head(
        self, features: int, outputs: int, num_tasks: int, generator: torch.Generator, head_scale: float
    ) -> nn.Module:
        """The last layer; what distinguishes the architectures that share this trunk."""
        return EnsembleLinear(self.members, features, outputs, generator, head_scale)
