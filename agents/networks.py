"""Networks for many tasks: one calling convention, one registry, ensembles as one stacked parameter set.

Every network maps ``inputs [G, B, F]`` (G groups of B samples, each group of one task) and ``task [G]`` (the task of
each group) to ``outputs [E, G, B, O]`` for its E ensemble members. An update uses ``G = K``; acting uses ``B = 1``.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name
from agents.layers import EMBEDDING_SIZE, TASK_IDS, EnsembleLayerNorm, EnsembleLinear, ReLU, TaskEncoding, TaskHeads

__all__ = ["NETWORKS", "TASK_IDS", "MLP", "BroNet", "MultiHead", "make_network", "options_of"]

ORTHOGONAL_GAIN = math.sqrt(2.0)


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
        _refuse_bad_widths(hidden_sizes)
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


class MultiHead(MLP):
    """Shared trunk and one linear head per task (MTMHSAC of Meta-World+; the trunk also sees the task)."""

    def make_head(
        self, features: int, outputs: int, num_tasks: int, generator: torch.Generator, head_scale: float
    ) -> nn.Module:
        return TaskHeads(self.members, num_tasks, features, outputs, generator, head_scale)

    def apply_head(self, features: Tensor, task: Tensor) -> Tensor:
        return self.head(features, task)


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


class BroNet(TaskNetwork):
    """Residual blocks with LayerNorm, all weights orthogonal at the start (BRO, BRC); the task is part of the input.

    ``relu(LN(W x))``, then the blocks, then a linear head. Source: Nauman et al. 2024 (arXiv 2405.16158) and 2025
    (arXiv 2505.23150), with the authors' initialisation: orthogonal of gain sqrt 2 and zero bias, the head included.

    :param inputs: size F of the input, without the task encoding
    :param outputs: size O of the output
    :param members: ensemble size E
    :param hidden_sizes: one residual block for each, all of the same width
    :param task_id: ``one_hot | embedding | none``
    :param embedding_size: size of the learned embedding
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
        hidden_sizes: Sequence[int] = (256, 256),
        task_id: str = "one_hot",
        embedding_size: int = EMBEDDING_SIZE,
    ) -> None:
        super().__init__()
        _refuse_bad_widths(hidden_sizes)
        if len(set(hidden_sizes)) > 1:
            raise ConfigurationError(
                "bronet adds its blocks to what goes in, so hidden_sizes must be equal widths such as [256, 256], "
                f"found {list(hidden_sizes)}."
            )
        width = hidden_sizes[0]
        self.members = members
        self.task_encoding = TaskEncoding(num_tasks, task_id, embedding_size, generator)
        features = inputs + self.task_encoding.size
        self.trunk = nn.Sequential(
            EnsembleLinear(members, features, width, generator, orthogonal_gain=ORTHOGONAL_GAIN),
            EnsembleLayerNorm(members, width),
            ReLU(),
            *(ResidualBlock(members, width, generator) for _ in hidden_sizes),
        )
        self.head = EnsembleLinear(members, width, outputs, generator, orthogonal_gain=ORTHOGONAL_GAIN)


def _refuse_bad_widths(hidden_sizes: Sequence[int]) -> None:
    if not hidden_sizes or any(size <= 0 for size in hidden_sizes):
        raise ConfigurationError(f"hidden_sizes must be positive widths such as [400, 400], found {hidden_sizes}.")


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "multihead": MultiHead, "bronet": BroNet}
_NOT_OPTIONS = {"inputs", "outputs", "num_tasks", "members", "generator"}  # given by the policy, not by the user


def options_of(name: str) -> set[str]:
    """What a user can set of an architecture.

    :raises ConfigurationError: for an unknown name, with the nearest known one
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    return set(inspect.signature(NETWORKS[name]).parameters) - _NOT_OPTIONS


def make_network(name: str, inputs: int, outputs: int, num_tasks: int, **options: Any) -> nn.Module:
    """Build a network by its registered name.

    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """
    known = options_of(name)
    for option in options:
        if option not in known | _NOT_OPTIONS:
            raise unknown_name(f"option of network '{name}'", option, known)
    return NETWORKS[name](inputs, outputs, num_tasks, **options)
