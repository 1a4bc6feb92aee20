"""What the architectures have in common: what they are built for, a trunk over inputs and task encoding, and a head.

Every network maps ``inputs [G, B, F]`` (G groups of B samples, each group of one task) and ``task [G]`` (the task of
each group) to ``outputs [E, G, B, O]`` for its E ensemble members. An update uses ``G = K``; acting uses ``B = 1``.

An architecture is a class in a file of its own. The policy decides its shape, the user its options::

    @register_network("mine")
    class Mine(TaskNetwork):
        def __init__(self, shape: NetworkShape, *, hidden_sizes: Sequence[int] = (400, 400), task_id: str = "one_hot"):
            super().__init__()
            ...

The first line of its docstring is what ``mtrl list networks`` prints. Every option is a keyword with a default. Every
architecture has `hidden_sizes` and `task_id`; where it also has `layer_norm` and `head_scale`, a policy sets them. All
initial weights are drawn from ``shape.generator``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError
from agents.networks.layers import TaskEncoding


@dataclass(frozen=True)
class NetworkShape:
    """What a network is built for; it is the same for every architecture.

    :param inputs: size F of the input, without the task encoding
    :param outputs: size O of the output
    :param num_tasks: K
    :param members: ensemble size E
    :param generator: source of the initial weights
    """

    inputs: int
    outputs: int
    num_tasks: int
    members: int
    generator: torch.Generator


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
