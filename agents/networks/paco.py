"""PaCo: every task composes its parameters out of sets that all tasks share."""

from collections.abc import Sequence

from torch import Tensor, nn

from agents.networks.base import NetworkShape, TaskNetwork, refuse_bad_widths, refuse_few, told_encoding
from agents.networks.layers import ComposedLinear, EnsembleLayerNorm, EnsembleLinear, ReLU, exactly
from agents.networks.registry import register_network


@register_network("paco")
class PaCo(TaskNetwork):
    """An MLP whose parameters each task composes out of shared parameter sets.

    ``w = W t + b``, one number for each of S sets, and in every layer, the head included, ``y = sum_s w_s (A_s x +
    b_s)``, with ReLU after all but the head. Source: Sun et al. 2022 (arXiv 2210.11653).

    Differs from the paper and its code: what they do to tasks whose loss diverges, to mask it and to draw its ``w``
    again, is left out; updates that are not finite are skipped for every network alike. `layer_norm` is an addition.

    :param shape: what it is built for
    :param hidden_sizes: width of every hidden layer
    :param parameter_sets: S; the paper takes 5 on MT10 and 20 on MT50
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | given``
    :param head_scale: the head's sets start uniform in ``+-head_scale``
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        parameter_sets: int = 5,
        layer_norm: bool = False,
        task_id: str = "one_hot",
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        refuse_few("paco", "parameter_sets", parameter_sets)
        members, generator = shape.members, shape.generator
        self.members = members
        self.task_encoding = told_encoding(shape, "paco", task_id)
        self.mixture = EnsembleLinear(members, self.task_encoding.size, parameter_sets, generator)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        features = shape.inputs
        for width in hidden_sizes:
            self.layers.append(ComposedLinear(members, parameter_sets, features, width, generator))
            self.norms.append(EnsembleLayerNorm(members, width) if layer_norm else nn.Identity())
            features = width
        self.head = ComposedLinear(members, parameter_sets, features, shape.outputs, generator, head_scale)
        self.relu = ReLU()

    def features(self, inputs: Tensor, task: Tensor) -> Tensor:
        groups, samples = inputs.shape[:2]
        mixture = self.shares(task)
        hidden = inputs.expand(self.members, -1, -1, -1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = self.relu(norm(layer(hidden, mixture).flatten(1, 2))).view(self.members, groups, samples, -1)
        return hidden

    def apply_head(self, features: Tensor, task: Tensor) -> Tensor:
        return self.head(features, self.shares(task))

    def shares(self, task: Tensor) -> Tensor:
        """Of the parameter sets in every task's parameters: ``[G] -> [E, G, S]``."""
        with exactly(task):
            return self.mixture(self.task_code(task))
