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
from agents.networks.layers import EMBEDDING_SIZE, TaskEncoding


@dataclass(frozen=True)
class NetworkShape:
    """What a network is built for; it is the same for every architecture.

    :param inputs: size F of the input, without the task encoding
    :param outputs: size O of the output
    :param num_tasks: K
    :param members: ensemble size E
    :param generator: source of the initial weights
    :param task_embeddings: what ``task_id=given`` says of the tasks, ``[K, n]``
    """

    inputs: int
    outputs: int
    num_tasks: int
    members: int
    generator: torch.Generator
    task_embeddings: Sequence[Sequence[float]] | None = None


class TaskNetwork(nn.Module):
    """A trunk over inputs and task encoding, and a head: what the architectures have in common.

    A subclass sets the four attributes; `features [E, N, H]` of the trunk go to the head. One that joins task and
    inputs in another way has `features` of its own, and any layers in the trunk's place.
    """

    members: int
    task_encoding: TaskEncoding
    trunk: nn.Module
    head: nn.Module

    def task_code(self, task: Tensor) -> Tensor:
        """What every member is told about the tasks: ``[G] -> [E, G, n]``."""
        return self.task_encoding(task).expand(self.members, -1, -1)

    def samples(self, inputs: Tensor, copies: int = 1) -> Tensor:
        """Inputs ``[G, B, F]`` for every member, or for a number of modules of each: ``[E copies, G B, F]``."""
        return inputs.flatten(0, 1).expand(self.members * copies, -1, -1)

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


def told_encoding(shape: NetworkShape, network: str, task_id: str) -> TaskEncoding:
    """The task encoding of an architecture that is nothing without one.

    :raises ConfigurationError: for ``none``; a policy with ``critic_embedding`` asks for it, too
    """
    if task_id == "none":
        raise ConfigurationError(
            f"network '{network}' acts by the task, and task_id='none' (which 'critic_embedding' is to the actor) says "
            "nothing about it: choose one_hot, embedding or given."
        )
    return TaskEncoding(shape.num_tasks, task_id, EMBEDDING_SIZE, shape.generator, shape.task_embeddings)


def refuse_bad_sizes(network: str, **sizes: int) -> None:
    """:raises ConfigurationError: for the first size that is no whole number of at least 1"""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigurationError(
                f"{name} of network '{network}' must be a whole number of at least 1, found {size!r}."
            )


def refuse_few(network: str, name: str, count: int) -> None:
    """:raises ConfigurationError: for fewer than two of something that is combined"""
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ConfigurationError(
            f"{name} of network '{network}' must be a whole number of at least 2, for fewer combine nothing, found "
            f"{count!r}."
        )
