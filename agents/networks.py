"""Networks for many tasks: one calling convention, one registry, ensembles as one stacked parameter set.

Every network maps ``inputs [G, B, F]`` (G groups of B samples, each group of one task) and ``task [G]`` (the task of
each group) to ``outputs [E, G, B, O]`` for its E ensemble members. An update uses ``G = K``; acting uses ``B = 1``.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name
from agents.layers import TASK_IDS, EnsembleLayerNorm, EnsembleLinear, TaskEncoding, TaskHeads

__all__ = ["NETWORKS", "TASK_IDS", "MLP", "MultiHead", "make_network"]


class MLP(nn.Module):
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
        embedding_size: int = 32,
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        if not hidden_sizes or any(size <= 0 for size in hidden_sizes):
            raise ConfigurationError(f"hidden_sizes must be positive widths such as [400, 400], found {hidden_sizes}.")
        self.members = members
        self.task_encoding = TaskEncoding(num_tasks, task_id, embedding_size, generator)
        layers: list[nn.Module] = []
        features = inputs + self.task_encoding.size
        for width in hidden_sizes:
            layers.append(EnsembleLinear(members, features, width, generator))
            if layer_norm:
                layers.append(EnsembleLayerNorm(members, width))
            layers.append(nn.ReLU(inplace=True))
            features = width
        self.trunk = nn.Sequential(*layers)
        self.head = self.make_head(features, outputs, num_tasks, generator, head_scale)

    def make_head(
        self, features: int, outputs: int, num_tasks: int, generator: torch.Generator, head_scale: float
    ) -> nn.Module:
        """The last layer; what distinguishes the architectures that share this trunk."""
        return EnsembleLinear(self.members, features, outputs, generator, head_scale)

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


class MultiHead(MLP):
    """Shared trunk and one linear head per task (MTMHSAC of Meta-World+; the trunk also sees the task)."""

    def make_head(
        self, features: int, outputs: int, num_tasks: int, generator: torch.Generator, head_scale: float
    ) -> nn.Module:
        return TaskHeads(self.members, num_tasks, features, outputs, generator, head_scale)

    def apply_head(self, features: Tensor, task: Tensor) -> Tensor:
        return self.head(features, task)


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "multihead": MultiHead}
_NOT_OPTIONS = {"inputs", "outputs", "num_tasks", "members", "generator"}  # given by the policy, not by the user


def make_network(name: str, inputs: int, outputs: int, num_tasks: int, **options: Any) -> nn.Module:
    """Build a network by its registered name.

    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    known = inspect.signature(NETWORKS[name]).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of network '{name}'", option, set(known) - _NOT_OPTIONS)
    return NETWORKS[name](inputs, outputs, num_tasks, **options)
