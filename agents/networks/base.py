"""What the architectures have in common: a trunk over inputs and task encoding, and a head.

Every network maps ``inputs [G, B, F]`` (G groups of B samples, each group of one task) and ``task [G]`` (the task of
each group) to ``outputs [E, G, B, O]`` for its E ensemble members. An update uses ``G = K``; acting uses ``B = 1``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError
from agents.networks.layers import TaskEncoding


class TaskNetwork(nn.Module):
    """A trunk over inputs and task encoding, and a head: what the architectures have in common.

    A subclass sets the four attributes; `features [E, N, H]` of the trunk go to the head.
    """

    members: int
    task_encoding: TaskEncoding
    trunk: nn.Module
    head: nn.Module

    def features(self, inputs: Tensor, task: Tensor) -> Tensor:
        """Trunk output ``[E, G * B, H]`` of ``inputs [G, B, F]`` and ``task [G]``."""
        groups, samples = inputs.shape[:2]
        code = self.task_encoding(task)[:, None, :].expand(groups, samples, -1)
        flat = torch.cat((inputs, code), dim=-1).reshape(1, groups * samples, -1)
        return self.trunk(flat.expand(self.members, -1, -1))

    def apply_head(self, features: Tensor, task: Tensor) -> Tensor:
        """``[E, G, B, H], [G] -> [E, G, B, O]``."""
        members, groups, samples, width = features.shape
        return self.head(features.reshape(members, groups * samples, width)).view(members, groups, samples, -1)

    def forward(self, inputs: Tensor, task: Tensor) -> Tensor:
        """``[G, B, F], [G] -> [E, G, B, O]``, in the precision of the inputs."""
        features = self.features(inputs, task).view(self.members, *inputs.shape[:2], -1)
        # The last layer is cheap and its output is a value or a density: never rounded to bfloat16.
        with torch.autocast(inputs.device.type, enabled=False):
            return self.apply_head(features.to(inputs.dtype), task)


def refuse_bad_widths(hidden_sizes: Sequence[int]) -> None:
    """:raises ConfigurationError: for no layer, or a layer without units"""
    if not hidden_sizes or any(size <= 0 for size in hidden_sizes):
        raise ConfigurationError(f"hidden_sizes must be positive widths such as [400, 400], found {hidden_sizes}.")
