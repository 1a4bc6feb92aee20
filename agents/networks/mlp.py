"""Fully connected trunk and one shared head."""

from collections.abc import Sequence

from torch import nn

from agents.networks.base import NetworkShape, TaskNetwork, refuse_bad_widths
from agents.networks.layers import EMBEDDING_SIZE, EnsembleLayerNorm, EnsembleLinear, ReLU, TaskEncoding
from agents.networks.registry import register_network


@register_network("mlp")
class MLP(TaskNetwork):
    """Shared trunk and one shared head; the task is part of the input.

    :param shape: what it is built for
    :param hidden_sizes: width of every hidden layer
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | given | none``
    :param embedding_size: size of the learned embedding
    :param head_scale: the head starts uniform in ``+-head_scale``
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        layer_norm: bool = False,
        task_id: str = "one_hot",
        embedding_size: int = EMBEDDING_SIZE,
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        self.members = shape.members
        self.task_encoding = TaskEncoding(shape.num_tasks, task_id, embedding_size, shape.generator, shape.task_embeddings)
        layers: list[nn.Module] = []
        features = shape.inputs + self.task_encoding.size
        for width in hidden_sizes:
            layers.append(EnsembleLinear(shape.members, features, width, shape.generator))
            if layer_norm:
                layers.append(EnsembleLayerNorm(shape.members, width))
            layers.append(ReLU())
            features = width
        self.trunk = nn.Sequential(*layers)
        self.head = self.make_head(features, shape, head_scale)

    def make_head(self, features: int, shape: NetworkShape, head_scale: float) -> nn.Module:
        """The last layer; what distinguishes the architectures that share this trunk."""
        return EnsembleLinear(shape.members, features, shape.outputs, shape.generator, head_scale)
