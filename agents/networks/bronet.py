"""Residual blocks with LayerNorm (BRO, BRC)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError
from agents.networks.base import NetworkShape, TaskNetwork, refuse_bad_widths
from agents.networks.layers import EMBEDDING_SIZE, EnsembleLayerNorm, EnsembleLinear, ReLU, TaskEncoding
from agents.networks.registry import register_network

ORTHOGONAL_GAIN = math.sqrt(2.0)


class ResidualBlock(nn.Module):
    """``x + LN(W2 relu(LN(W1 x)))``."""

    def __init__(self, members: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            EnsembleLinear(members, width, width, generator, orthogonal_gain=ORTHOGONAL_GAIN),
            EnsembleLayerNorm(members, width),
            ReLU(),
            EnsembleLinear(members, width, width, generator, orthogonal_gain=ORTHOGONAL_GAIN),
            EnsembleLayerNorm(members, width),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """``[E, N, H] -> [E, N, H]``."""
        return inputs + self.layers(inputs)


@register_network("bronet")
class BroNet(TaskNetwork):
    """Residual blocks with LayerNorm, all weights orthogonal at the start (BRO, BRC); the task is part of the input.

    ``relu(LN(W x))``, then the blocks, then a linear head. Source: Nauman et al. 2024 (arXiv 2405.16158) and 2025
    (arXiv 2505.23150), with the authors' initialisation: orthogonal of gain sqrt 2 and zero bias, the head included.

    :param shape: what it is built for
    :param hidden_sizes: one residual block for each, all of the same width
    :param task_id: ``one_hot | embedding | given | none``
    :param embedding_size: size of the learned embedding
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        task_id: str = "one_hot",
        embedding_size: int = EMBEDDING_SIZE,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        if len(set(hidden_sizes)) > 1:
            raise ConfigurationError(
                "bronet adds its blocks to what goes in, so hidden_sizes must be equal widths such as [256, 256], "
                f"found {list(hidden_sizes)}."
            )
        width, members, generator = hidden_sizes[0], shape.members, shape.generator
        self.members = members
        self.task_encoding = TaskEncoding(shape.num_tasks, task_id, embedding_size, generator, shape.task_embeddings)
        features = shape.inputs + self.task_encoding.size
        self.trunk = nn.Sequential(
            EnsembleLinear(members, features, width, generator, orthogonal_gain=ORTHOGONAL_GAIN),
            EnsembleLayerNorm(members, width),
            ReLU(),
            *(ResidualBlock(members, width, generator) for _ in hidden_sizes),
        )
        self.head = EnsembleLinear(members, width, shape.outputs, generator, orthogonal_gain=ORTHOGONAL_GAIN)
