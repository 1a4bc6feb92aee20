"""Layers of stacked ensembles that keep the gradients of different tasks apart.

Every layer also takes *grouped* parameters: K equal copies of each parameter, ``[K, *shape]``, made by
``expand`` without memory, copy k serving group k of the samples. The forward pass is then the plain one, and autograd
returns one gradient per copy: the K task gradients, from one backward pass with the same matrix products, only the
gradient of the weights grouped by task. Where a copy of weights has an attribute ``keep_factors``, the last product is
left out, and the function of that name gets its two factors (agents/balancing/task_gradients.py).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name

TASK_IDS = ("one_hot", "embedding", "critic_embedding", "none")
EMBEDDING_SIZE = 32  # unless a network is told otherwise


class GroupedLayer(nn.Module):
    """A layer whose forward pass takes plain and grouped parameters alike."""


def takes_grouped_parameters(module: nn.Module) -> bool:
    """Whether all parameters of a network belong to layers that take them grouped."""
    owners = (part for part in module.modules() if next(part.parameters(recurse=False), None) is not None)
    return all(isinstance(part, GroupedLayer) for part in owners)


class EnsembleLinear(GroupedLayer):
    """E affine maps as one parameter, so that an ensemble costs one batched matrix product.

    Initialised as the Meta-World+ baselines are: He-uniform weights with zero bias, or, for a head,
    weights and bias uniform in ``+-head_scale``. With an `orthogonal_gain`, orthogonal weights and zero bias.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        head_scale: float | None = None,
        orthogonal_gain: float | None = None,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / inputs) if head_scale is None else head_scale
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        if orthogonal_gain is not None:
            for weight in self.weight.detach():
                nn.init.orthogonal_(weight, orthogonal_gain, generator=generator)
            return
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        if head_scale is not None:
            nn.init.uniform_(self.bias, -head_scale, head_scale, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[E, N, F] -> [E, N, O]``."""
        if self.weight.ndim == 4:
            return GroupedProduct.apply(inputs, self.weight, self.bias, getattr(self.weight, "keep_factors", None))
        return torch.baddbmm(self.bias, inputs, self.weight)


class GroupedProduct(torch.autograd.Function):
    """``inputs [E, N, F] @ weight + bias`` of grouped ``weight [K, E, F, O]`` and ``bias [K, E, 1, O]``.

    The copies are equal, so the first one is multiplied; it is cast here where autocast is on, because a cast of all
    copies would give them memory.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, keep_factors: Any = None) -> Tensor:
        device = inputs.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        rows, shared = inputs.to(precision), weight[0].to(precision)
        ctx.save_for_backward(rows, shared)
        ctx.copies, ctx.precisions, ctx.keep_factors = len(weight), (inputs.dtype, weight.dtype), keep_factors
        return torch.baddbmm(bias[0].to(precision), rows, shared)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None]:
        rows, shared = ctx.saved_tensors
        for_inputs = torch.bmm(gradient, shared.mT).to(ctx.precisions[0]) if ctx.needs_input_grad[0] else None
        by_task = gradient.unflatten(1, (ctx.copies, -1))  # [E, K, B, O]
        for_bias = by_task.sum(2, keepdim=True).transpose(0, 1).to(ctx.precisions[1])
        if ctx.keep_factors is not None:
            ctx.keep_factors(rows, gradient)
            return for_inputs, None, for_bias, None
        samples = rows.unflatten(1, (ctx.copies, -1)).flatten(0, 1)  # [E * K, B, F]
        for_weight = torch.bmm(samples.mT, by_task.flatten(0, 1)).unflatten(0, by_task.shape[:2])
        return for_inputs, for_weight.transpose(0, 1).to(ctx.precisions[1]), for_bias, None


class EnsembleLayerNorm(GroupedLayer):
    """Layer normalisation with one gain and one offset per ensemble member, in the precision of its inputs."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, features))
        self.bias = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, inputs: Tensor) -> Tensor:
        """``[E, N, F] -> [E, N, F]``."""
        # In the precision of the inputs: otherwise all that follows would be promoted to that of the gains, or, on an
        # accelerator, whose autocast normalises in float32, of the result.
        normalised = nn.functional.layer_norm(inputs, inputs.shape[-1:]).to(inputs.dtype)
        if self.weight.ndim == 3:
            return torch.addcmul(self.bias.to(inputs.dtype), normalised, self.weight.to(inputs.dtype))
        by_task = normalised.unflatten(1, (len(self.weight), -1))  # [E, K, B, F]
        gain, offset = (copies.transpose(0, 1).to(inputs.dtype) for copies in (self.weight, self.bias))
        return torch.addcmul(offset, by_task, gain).flatten(1, 2)


class ReLU(nn.Module):
    """``max(x, 0)``; in the place of its inputs, where it is not compiled."""

    def forward(self, inputs: Tensor) -> Tensor:
        """``[...] -> [...]``."""
        # Not relu itself: its mask of booleans takes TorchInductor on a processor ten times as long as all the rest.
        return _UnmaskedReLU.apply(inputs) if torch.compiler.is_compiling() else inputs.relu_()


class _UnmaskedReLU(torch.autograd.Function):
    """ReLU whose backward pass reads the outputs, which the next layer keeps anyway."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        outputs = inputs.clamp_min(0.0)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (outputs,) = ctx.saved_tensors
        return gradient * outputs.sign()


class TaskHeads(GroupedLayer):
    """One linear head per task and ensemble member: weight ``[E, K, F, O]``."""

    def __init__(
        self, members: int, num_tasks: int, inputs: int, outputs: int, generator: torch.Generator, head_scale: float
    ) -> None:
        super().__init__()
        weight = torch.empty(members, num_tasks, inputs, outputs)
        bias = torch.empty(members, num_tasks, 1, outputs)
        self.weight = nn.Parameter(weight.uniform_(-head_scale, head_scale, generator=generator))
        self.bias = nn.Parameter(bias.uniform_(-head_scale, head_scale, generator=generator))

    def forward(self, inputs: Tensor, task: Tensor) -> Tensor:
        """``[E, G, B, F], [G] -> [E, G, B, O]``."""
        return inputs @ self._of_tasks(self.weight, task) + self._of_tasks(self.bias, task)

    @staticmethod
    def _of_tasks(heads: Tensor, task: Tensor) -> Tensor:
        if heads.ndim == 4:
            return heads.index_select(1, task)
        return heads.transpose(0, 1)[:, torch.arange(len(task), device=task.device), task]


class TaskEncoding(GroupedLayer):
    """What a network is told about the task: a one-hot vector, a learned embedding, or nothing.

    :param kind: ``one_hot`` (size K), ``embedding`` (a learned unit vector of `embedding_size`) or ``none`` (size 0).
        A policy with ``critic_embedding`` gives its critics the second and its actor what that says
    """

    table: Tensor

    def __init__(self, num_tasks: int, kind: str, embedding_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.kind = kind
        if kind == "one_hot":
            self.register_buffer("table", torch.eye(num_tasks), persistent=False)
        elif kind == "embedding":
            if embedding_size < 1:
                raise ConfigurationError(f"embedding_size must be at least 1, found {embedding_size}.")
            self.table = nn.Parameter(torch.randn(num_tasks, embedding_size, generator=generator))
        elif kind == "none":
            self.register_buffer("table", torch.zeros(num_tasks, 0), persistent=False)
        else:
            raise unknown_name("task_id", kind, TASK_IDS)
        self.size = self.table.shape[1]

    def forward(self, task: Tensor) -> Tensor:
        """``[G] -> [G, size]``."""
        if self.table.ndim == 3:
            code = self.table[torch.arange(len(task), device=task.device), task]
        else:
            code = self.table.index_select(0, task)
        return nn.functional.normalize(code, dim=-1) if self.kind == "embedding" else code
