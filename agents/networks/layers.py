"""Layers of stacked ensembles that keep the gradients of different tasks apart.

Every layer also takes *grouped* parameters: K equal copies of each parameter, ``[K, *shape]``, made by
``expand`` without memory, copy k serving group k of the samples. The forward pass is then the plain one, and autograd
returns one gradient per copy: the K task gradients, from one backward pass with the same matrix products, only the
gradient of the weights grouped by task. Where a copy of weights has an attribute ``keep_factors``, the last product is
left out, and the function of that name gets its two factors (agents/balancing/task_gradients.py).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name

TASK_IDS = ("one_hot", "embedding", "critic_embedding", "given", "none")
EMBEDDING_SIZE = 32  # unless a network is told otherwise


class GroupedLayer(nn.Module):
    """A layer whose forward pass takes plain and grouped parameters alike."""


def takes_grouped_parameters(module: nn.Module) -> bool:
    """Whether all parameters of a network belong to layers that take them grouped."""
    owners = (part for part in module.modules() if next(part.parameters(recurse=False), None) is not None)
    return all(isinstance(part, GroupedLayer) for part in owners)


def keeps_small_factors(module: nn.Module) -> bool:
    """Whether the factors of a network's task gradients are no wider than its layers; composed ones have S inputs."""
    return not any(isinstance(part, ComposedLinear) for part in module.modules())


class EnsembleLinear(GroupedLayer):
    """E affine maps as one parameter, so that an ensemble costs one batched matrix product.

    Initialised as the Meta-World+ baselines are: He-uniform weights with zero bias, or, for a head,
    weights and bias uniform in ``+-head_scale``. With an `orthogonal_gain`, orthogonal weights and zero bias.
    Modules or experts of an ensemble are further members of it: ``[E M, F, O]``, those of one member in a row.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        head_scale: float | None = None,
        orthogonal_gain: float | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / inputs) if head_scale is None else head_scale
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs)) if bias else None
        if orthogonal_gain is not None:
            for weight in self.weight.detach():
                nn.init.orthogonal_(weight, orthogonal_gain, generator=generator)
            return
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        if head_scale is not None and self.bias is not None:
            nn.init.uniform_(self.bias, -head_scale, head_scale, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[E, N, F] -> [E, N, O]``."""
        if self.weight.ndim == 4:
            return GroupedProduct.apply(inputs, self.weight, self.bias, getattr(self.weight, "keep_factors", None))
        return affine(inputs, self.weight, self.bias)


def affine(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``[E, N, F] @ [E, F, O] + [E, 1, O]``."""
    return torch.bmm(inputs, weight) if bias is None else torch.baddbmm(bias, inputs, weight)


class GroupedProduct(torch.autograd.Function):
    """``inputs [E, N, F] @ weight + bias`` of grouped ``weight [K, E, F, O]`` and ``bias [K, E, 1, O]``.

    The copies are equal, so the first one is multiplied; it is cast here where autocast is on, because a cast of all
    copies would give them memory.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, keep_factors: Any = None) -> Tensor:
        precision = product_precision(weight)
        rows, shared = inputs.to(precision), weight[0].to(precision)
        ctx.save_for_backward(rows, shared)
        ctx.copies, ctx.precisions, ctx.keep_factors = len(weight), (inputs.dtype, weight.dtype), keep_factors
        return affine(rows, shared, None if bias is None else bias[0].to(precision))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        rows, shared = ctx.saved_tensors
        for_inputs = torch.bmm(gradient, shared.mT).to(ctx.precisions[0]) if ctx.needs_input_grad[0] else None
        by_task = gradient.unflatten(1, (ctx.copies, -1))  # [E, K, B, O]
        for_bias = None
        if ctx.needs_input_grad[2]:
            for_bias = by_task.sum(2, keepdim=True).transpose(0, 1).to(ctx.precisions[1])
        if ctx.keep_factors is not None:
            ctx.keep_factors(rows, gradient)
            return for_inputs, None, for_bias, None
        samples = rows.unflatten(1, (ctx.copies, -1)).flatten(0, 1)  # [E * K, B, F]
        for_weight = torch.bmm(samples.mT, by_task.flatten(0, 1)).unflatten(0, by_task.shape[:2])
        return for_inputs, for_weight.transpose(0, 1).to(ctx.precisions[1]), for_bias, None


def product_precision(weight: Tensor) -> torch.dtype:
    """The type that a matrix product with these weights is computed in: autocast's where it is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class ComposedLinear(GroupedLayer):
    """Affine maps composed for every task out of S shared ones: ``y = sum_s w_s (x A_s + b_s)``.

    The weights of a group are composed once and serve all of its samples, so that a layer costs what one map costs.
    Where a group has fewer samples than there are maps, as in acting, its samples are multiplied by all maps instead.

    Initialised as `EnsembleLinear`. The S maps lie in one parameter ``[E, S F, O]``: the layer is linear in it, with
    the products ``w_s x`` for inputs.

    :param sets: S
    """

    def __init__(
        self,
        members: int,
        sets: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        head_scale: float | None = None,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / inputs) if head_scale is None else head_scale
        weight, bias = torch.empty(members, sets * inputs, outputs), torch.zeros(members, sets, outputs)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound, generator=generator))
        if head_scale is not None:
            bias.uniform_(-head_scale, head_scale, generator=generator)
        self.bias = nn.Parameter(bias)

    def forward(self, inputs: Tensor, mixture: Tensor) -> Tensor:
        """``[E, G, B, F]`` and ``mixture [E, G, S] -> [E, G, B, O]``."""
        grouped = self.weight.ndim == 4
        # Composed in the precision of the weights: rounding the shares would move all samples of a task alike.
        with exactly(inputs):
            bias = self.bias.transpose(0, 1) if grouped else self.bias.unsqueeze(1)
            offset = mixture.unsqueeze(-2) @ bias  # [E, G, 1, O]
            few = not grouped and inputs.shape[2] < mixture.shape[2]
            weight = self.weight if grouped or few else composed(mixture, self.weight)
        if grouped:
            keep_factors = getattr(weight, "keep_factors", None)
            outputs = GroupedComposition.apply(inputs, mixture, weight, keep_factors)
        elif few:
            outputs = torch.bmm(spread_over_sets(inputs, mixture), weight).view(*inputs.shape[:3], -1)
        else:
            outputs = inputs @ weight
        return outputs + offset.to(outputs.dtype)


def exactly(like: Tensor) -> torch.autocast:
    """Context in which nothing is rounded to bfloat16, for what is cheap, because it is computed once for a task."""
    return torch.autocast(like.device.type, enabled=False)


def composed(mixture: Tensor, weight: Tensor) -> Tensor:
    """Weights ``[E, G, F, O]`` of ``mixture [E, G, S]`` and ``weight [E, S F, O]``."""
    members, _, sets = mixture.shape
    flat = torch.bmm(mixture, weight.view(members, sets, -1))
    return flat.view(*mixture.shape[:2], -1, weight.shape[-1])


def spread_over_sets(inputs: Tensor, mixture: Tensor) -> Tensor:
    """What a `ComposedLinear` is linear in: ``w_s x`` of every sample, ``[E, G B, S F]``."""
    return (mixture[:, :, None, :, None] * inputs[:, :, :, None, :]).flatten(3).flatten(1, 2)


class GroupedComposition(torch.autograd.Function):
    """The product of a `ComposedLinear` with grouped ``weight [K, E, S F, O]``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, mixture: Tensor, weight: Tensor, keep_factors: Any = None) -> Tensor:
        precision = product_precision(weight)
        rows, shared = inputs.to(precision), weight[0]
        with exactly(inputs):
            of_tasks = composed(mixture, shared).to(precision)
        ctx.save_for_backward(rows, mixture, shared, of_tasks)
        ctx.precision, ctx.keep_factors = inputs.dtype, keep_factors
        return rows @ of_tasks

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        rows, mixture, shared, of_tasks = ctx.saved_tensors
        members, groups, sets = mixture.shape
        for_inputs = (gradient @ of_tasks.mT).to(ctx.precision) if ctx.needs_input_grad[0] else None
        for_composed = (rows.mT @ gradient).flatten(2)  # [E, K, F O]
        for_mixture = torch.bmm(for_composed.to(shared.dtype), shared.view(members, sets, -1).mT)
        if ctx.keep_factors is not None:
            ctx.keep_factors(spread_over_sets(rows, mixture).to(rows.dtype), gradient.flatten(1, 2))
            return for_inputs, for_mixture, None, None
        for_weight = mixture.unsqueeze(-1) * for_composed.unsqueeze(-2)  # [E, K, S, F O]
        return for_inputs, for_mixture, for_weight.view(members, groups, *shared.shape[1:]).transpose(0, 1), None


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


def relu(inputs: Tensor) -> Tensor:
    """``max(x, 0)`` of a tensor that is needed as it is, too."""
    return _UnmaskedReLU.apply(inputs) if torch.compiler.is_compiling() else inputs.relu()


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


def stack(
    members: int,
    sizes: Sequence[int],
    generator: torch.Generator,
    *,
    layer_norm: bool = False,
    linear_last: bool = False,
) -> nn.Sequential:
    """Fully connected layers with a ReLU after each.

    :param members: ensemble size E, times the number of modules or experts of each member
    :param sizes: the inputs, then the width of every layer
    :param layer_norm: normalise before each ReLU
    :param linear_last: nothing after the last layer
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes), start=2):
        layers.append(EnsembleLinear(members, inputs, outputs, generator))
        if linear_last and index == len(sizes):
            break
        if layer_norm:
            layers.append(EnsembleLayerNorm(members, outputs))
        layers.append(ReLU())
    return nn.Sequential(*layers)


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
    """What a network is told about the task: a one-hot vector, a learned embedding, a given one, or nothing.

    :param kind: ``one_hot`` (size K), ``embedding`` (a learned unit vector of `embedding_size`), ``given`` (a row of
        `given`) or ``none`` (size 0). A policy with ``critic_embedding`` gives its critics the second and its actor
        what that says
    :param given: ``[K, n]``
    """

    table: Tensor

    def __init__(
        self,
        num_tasks: int,
        kind: str,
        embedding_size: int,
        generator: torch.Generator,
        given: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "one_hot":
            self.register_buffer("table", torch.eye(num_tasks), persistent=False)
        elif kind == "embedding":
            if embedding_size < 1:
                raise ConfigurationError(f"embedding_size must be at least 1, found {embedding_size}.")
            self.table = nn.Parameter(torch.randn(num_tasks, embedding_size, generator=generator))
        elif kind == "given":
            self.register_buffer("table", _table(given, num_tasks), persistent=False)
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


def _table(given: Sequence[Sequence[float]] | None, num_tasks: int) -> Tensor:
    """:raises ConfigurationError: for anything but finite numbers ``[K, n]``"""
    if given is None:
        raise ConfigurationError("task_id='given' needs task_embeddings: one row of numbers for each task.")
    try:
        table = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"task_embeddings must be rows of numbers, all of one length: {error}.") from error
    if table.ndim != 2 or len(table) != num_tasks or not table.shape[1]:
        raise ConfigurationError(
            f"task_embeddings must have one row of numbers for each of the {num_tasks} tasks, found the shape "
            f"{list(table.shape)}."
        )
    wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if wrong.size:
        raise ConfigurationError(f"task_embeddings must be finite numbers, and those of task {wrong[0]} are not.")
    return torch.as_tensor(table)
