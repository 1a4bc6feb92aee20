"""Fully connected trunk and one shared head."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from agents.errors import ConfigurationError
from agents.networks.base import NetworkShape, TaskNetwork, refuse_bad_widths
from agents.networks.layers import EMBEDDING_SIZE, EnsembleLinear, TaskEncoding, stack
from agents.networks.matching import matched_widths
from agents.networks.registry import register_network

HIDDEN_SIZES = (400, 400, 400)


@register_network("mlp")
class MLP(TaskNetwork):
    """Shared trunk and one shared head; the task is part of the input.

    :param shape: what it is built for
    :param hidden_sizes: width of every hidden layer
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | given | none``
    :param embedding_size: size of the learned embedding
    :param head_scale: the head starts uniform in ``+-head_scale``
    :param match: an architecture: all widths are scaled until there are as many parameters as it has with the same
        settings; `hidden_sizes` that are left at their default are its own default there
    :param match_options: further options of that architecture
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = HIDDEN_SIZES,
        layer_norm: bool = False,
        task_id: str = "one_hot",
        embedding_size: int = EMBEDDING_SIZE,
        head_scale: float = 3e-3,
        match: str | None = None,
        match_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        if head_scale < 0:
            raise ConfigurationError(f"head_scale must be at least 0, found {head_scale:g}.")
        common: dict[str, Any] = {"task_id": task_id, "layer_norm": layer_norm}
        if match is not None:
            make = partial(type(self), embedding_size=embedding_size, **common)
            own = {} if tuple(hidden_sizes) == HIDDEN_SIZES else {"hidden_sizes": tuple(hidden_sizes)}
            hidden_sizes = matched_widths(make, shape, hidden_sizes, match, {**own, **common, **(match_options or {})})
        elif match_options:
            raise ConfigurationError(
                f"match_options are for the architecture that match names, and it names none, found {match_options}."
            )
        self.members = shape.members
        self.task_encoding = TaskEncoding(
            shape.num_tasks, task_id, embedding_size, shape.generator, shape.task_embeddings
        )
        sizes = (shape.inputs + self.task_encoding.size, *hidden_sizes)
        self.trunk = stack(shape.members, sizes, shape.generator, layer_norm=layer_norm)
        self.head = self.make_head(hidden_sizes[-1], shape, head_scale)

    def make_head(self, features: int, shape: NetworkShape, head_scale: float) -> nn.Module:
        """The last layer; what distinguishes the architectures that share this trunk."""
        return EnsembleLinear(shape.members, features, shape.outputs, shape.generator, head_scale)
