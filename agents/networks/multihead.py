"""Fully connected trunk and one head per task."""

import torch
from torch import Tensor, nn

from agents.networks.layers import TaskHeads
from agents.networks.mlp import MLP


class MultiHead(MLP):
    """Shared trunk and one linear head per task (MTMHSAC of Meta-World+; the trunk also sees the task)."""

    def make_head(
        self, features: int, outputs: int, num_tasks: int, generator: torch.Generator, head_scale: float
    ) -> nn.Module:
        return TaskHeads(self.members, num_tasks, features, outputs, generator, head_scale)

    def apply_head(self, features: Tensor, task: Tensor) -> Tensor:
        return self.head(features, task)
