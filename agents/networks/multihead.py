"""Fully connected trunk and one head per task."""

from torch import Tensor, nn

from agents.networks.base import NetworkShape
from agents.networks.layers import TaskHeads
from agents.networks.mlp import MLP
from agents.networks.registry import register_network


@register_network("multihead")
class MultiHead(MLP):
    """Shared trunk and one linear head per task (MTMHSAC of Meta-World+; the trunk also sees the task)."""

    def make_head(self, features: int, shape: NetworkShape, head_scale: float) -> nn.Module:
        return TaskHeads(shape.members, shape.num_tasks, features, shape.outputs, shape.generator, head_scale)

    def apply_head(self, features: Tensor, task: Tensor) -> Tensor:
        return self.head(features, task)
