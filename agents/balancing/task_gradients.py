"""The gradients of K tasks from one backward pass: written out, or as the factors of every layer.

A batch is stratified by task and a sample belongs to one task only. Layers that take grouped parameters
(agents/networks/layers.py) give every task its own copy of the parameters, without memory, and one ordinary backward
pass gives the gradient of every copy. *Dense* gradients are these, ``[K, P]`` numbers. *Factored* gradients stop one
product short: of a linear layer they keep the inputs and the gradient of the outputs, ``[K B]`` rows instead of
``[K P]`` numbers, and multiply them out in blocks that stay in the processor's cache.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from agents.errors import ConfigurationError
from agents.precision import float32_products

Parameters = Mapping[str, Tensor]
LossFunction = Callable[..., tuple[Tensor, dict[str, Tensor]]]
Block = tuple[slice, Tensor]  # columns of the Jacobian, and the K task gradients in them [K, M]

JACOBIANS = ("auto", "full", "layerwise")

# Numbers in a block: as many as a processor's cache holds, as many as keep an accelerator busy.
BLOCK_SIZE = {"cpu": 2**21}
ACCELERATOR_BLOCK_SIZE = 2**26
PIECE = 2**11  # columns of one product of K long rows with themselves


class Scratch:
    """Memory for blocks that one update leaves to the next: fresh memory costs a processor as much as filling it."""

    def __init__(self) -> None:
        self._kept: dict[torch.dtype, Tensor] = {}

    def take(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of arbitrary numbers, of the type and on the device of another; void with the next one taken."""
        size = math.prod(shape)
        kept = self._kept.get(like.dtype)
        if kept is None or kept.numel() < size or kept.device != like.device:
            kept = self._kept[like.dtype] = like.new_empty(size)
        return kept[:size].view(*shape)


class TaskGradients:
    """Gradients of K tasks in the P parameters, whichever way they are kept.

    :param parameters: the balanced parameters by name; they give the columns ``[P]`` their order
    :param num_tasks: K
    """

    def __init__(self, parameters: Parameters, num_tasks: int) -> None:
        self.parameters = parameters
        self.num_tasks = num_tasks

    def blocks(self) -> Iterator[Block]:
        """The Jacobian ``[K, P]`` column block by column block; a block is read-only and does not outlive the next."""
        raise NotImplementedError

    def weighted(self, weights: Tensor) -> Sequence[Tensor]:
        """``sum_k weights[k] g_k`` as one tensor per parameter.

        :param weights: ``[K]``
        """
        raise NotImplementedError

    def gramian(self) -> Tensor:
        """Inner products of the task gradients ``[K, K]``, added up block by block."""
        kind = next(iter(self.parameters.values()))
        products = torch.zeros(self.num_tasks, self.num_tasks, dtype=kind.dtype, device=kind.device)
        for _, rows in self.blocks():
            add_inner_products(products, rows)
        return products

    def _block_size(self) -> int:
        return BLOCK_SIZE.get(next(iter(self.parameters.values())).device.type, ACCELERATOR_BLOCK_SIZE)


class DenseGradients(TaskGradients):
    """The gradients themselves.

    :param by_name: ``[K, *shape]`` by parameter name
    """

    def __init__(self, parameters: Parameters, by_name: dict[str, Tensor]) -> None:
        super().__init__(parameters, len(next(iter(by_name.values()))))
        self.by_name = by_name

    def blocks(self) -> Iterator[Block]:
        first, width = 0, max(1, self._block_size() // self.num_tasks)
        for gradient in self.by_name.values():
            for rows in [gradient.flatten(1)] if gradient.is_contiguous() else _task_rows(gradient):
                for block in rows.split(width, dim=1):
                    yield slice(first, first + block.shape[1]), block
                    first += block.shape[1]

    def weighted(self, weights: Tensor) -> Sequence[Tensor]:
        return [
            torch.matmul(weights.to(gradient.dtype), _task_rows(gradient)).view(gradient.shape[1:])
            for gradient in self.by_name.values()
        ]


class Factors(NamedTuple):
    """The gradient of one linear layer's weights, ``g_k = inputs_k^T outputs_k``, before the product."""

    inputs: Tensor  # [E, K, B, F]
    outputs: Tensor  # [E, K, B, O], gradient of the layer's outputs


class FactoredGradients(TaskGradients):
    """Factors of the linear layers; for the few other parameters the gradients themselves.

    :param by_name: `Factors`, or ``[K, *shape]``, by parameter name
    :param scratch: memory for the blocks
    """

    def __init__(
        self,
        parameters: Parameters,
        num_tasks: int,
        by_name: dict[str, Factors | Tensor],
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__(parameters, num_tasks)
        self.by_name = by_name
        self.scratch = scratch or Scratch()

    def blocks(self) -> Iterator[Block]:
        first = 0
        for rows, parameter in self._products():
            yield slice(first, first + rows.shape[1]), self._cast(rows, parameter)
            first += rows.shape[1]

    def gramian(self) -> Tensor:
        kind = next(iter(self.parameters.values()))
        products = torch.zeros(self.num_tasks, self.num_tasks, dtype=kind.dtype, device=kind.device)
        for rows, parameter in self._products():
            exact = self._cast(rows, parameter)
            if exact is rows or self.num_tasks < 32:
                add_inner_products(products, exact)
            else:  # bfloat16: "medium" multiplies such numbers without loss, sums in float32, and likes many rows
                with float32_products("medium"):
                    products.addmm_(exact, exact.mT)
        return products

    def _cast(self, rows: Tensor, parameter: Tensor) -> Tensor:
        """The same numbers in the precision of a parameter."""
        return rows if rows.dtype == parameter.dtype else self.scratch.take(rows.shape, parameter.detach()).copy_(rows)

    def _products(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks ``[K, M]`` in the precision that their layer computes in, and their parameter."""
        for name, parameter in self.parameters.items():
            found = self.by_name[name]
            if isinstance(found, Factors):
                blocks = self._multiplied(found)
            else:
                blocks = iter(found.flatten(1).split(max(1, self._block_size() // self.num_tasks), dim=1))
            for block in blocks:
                yield block, parameter

    def _multiplied(self, factors: Factors) -> Iterator[Tensor]:
        features, outputs = factors.inputs.shape[-1], factors.outputs.shape[-1]
        height = min(features, max(1, self._block_size() // (self.num_tasks * outputs)))
        for inputs, gradient in zip(factors.inputs, factors.outputs, strict=True):
            for part in inputs.split(height, dim=-1):
                block = self.scratch.take((self.num_tasks, part.shape[-1], outputs), gradient)
                yield torch.bmm(part.mT, gradient, out=block).flatten(1)

    def weighted(self, weights: Tensor) -> Sequence[Tensor]:
        return [self._weighted(self.by_name[name], weights, parameter) for name, parameter in self.parameters.items()]

    @staticmethod
    def _weighted(found: Factors | Tensor, weights: Tensor, parameter: Tensor) -> Tensor:
        weights = weights.to(parameter.dtype)
        if isinstance(found, Tensor):
            return torch.tensordot(weights, found, dims=1)
        outputs = (found.outputs * weights[:, None, None]).to(found.outputs.dtype)
        return torch.bmm(found.inputs.flatten(1, 2).mT, outputs.flatten(1, 2)).to(parameter.dtype)


def factors_pay(samples: int) -> bool:
    """Whether factors cost less than gradients written out.

    They take one product more, whose cost grows with the samples, and save the writing of ``[K, P]`` numbers, whose
    cost does not. Nor does their memory grow with P, but with the samples: at 128 per task it is as large as the
    Jacobian of three layers of 400.

    :param samples: B
    """
    return samples < 64


def dense_gradients(
    loss_function: LossFunction, parameters: Parameters, batch: Sequence[Tensor]
) -> tuple[DenseGradients, Tensor, dict[str, Tensor]]:
    """Gradients, losses and metrics from one backward pass; every layer must take grouped parameters."""
    copies = _copies(parameters, len(batch[0]))
    losses, metrics = loss_function(copies, *batch)
    found = torch.autograd.grad(losses.sum(), list(copies.values()))
    return DenseGradients(parameters, dict(zip(copies, found, strict=True))), losses, metrics


def factored_gradients(
    loss_function: LossFunction, parameters: Parameters, batch: Sequence[Tensor], scratch: Scratch | None = None
) -> tuple[FactoredGradients, Tensor, dict[str, Tensor]]:
    """The same, with linear layers left as factors."""
    num_tasks = len(batch[0])
    copies, found = _copies(parameters, num_tasks), dict[str, Factors | Tensor]()
    for name, copy in copies.items():
        copy.keep_factors = partial(_keep, found, name, num_tasks)  # type: ignore[attr-defined]  # see EnsembleLinear
    losses, metrics = loss_function(copies, *batch)
    others = torch.autograd.grad(losses.sum(), list(copies.values()), allow_unused=True)
    found.update({name: gradient for name, gradient in zip(copies, others, strict=True) if gradient is not None})
    unused = next((name for name in copies if name not in found), None)
    if unused is not None:
        raise ConfigurationError(f"The losses do not depend on the parameter '{unused}': leave it out of the network.")
    return FactoredGradients(parameters, num_tasks, found, scratch), losses, metrics


def _copies(parameters: Parameters, num_tasks: int) -> dict[str, Tensor]:
    return {
        name: parameter.detach().expand(num_tasks, *parameter.shape).requires_grad_()
        for name, parameter in parameters.items()
    }


def _keep(found: dict[str, Factors | Tensor], name: str, num_tasks: int, inputs: Tensor, outputs: Tensor) -> None:
    """Note ``inputs [E, K B, F]`` and ``outputs [E, K B, O]``; a layer used twice has the samples of both uses."""
    new = Factors(*(rows.detach().unflatten(1, (num_tasks, -1)) for rows in (inputs, outputs)))
    old = found.get(name)
    found[name] = Factors(*(torch.cat(pair, 2) for pair in zip(old, new, strict=True))) if old is not None else new


def add_inner_products(products: Tensor, rows: Tensor) -> None:
    """``products [K, K] += rows @ rows^T`` for few long ``rows [K, M]``, piece by piece: BLAS is slow at it at once."""
    whole = rows.shape[1] // PIECE * PIECE
    if whole > PIECE:
        pieces = rows[:, :whole].unflatten(1, (-1, PIECE)).transpose(0, 1)
        products += torch.bmm(pieces, pieces.mT).sum(0)
        rows = rows[:, whole:]
    products.addmm_(rows, rows.mT)


def _task_rows(gradient: Tensor) -> Tensor:
    """``[K, E, ...] -> [E, K, M]`` without a copy: task gradients may lie in memory member by member."""
    return gradient.reshape(*gradient.shape[:2], -1).transpose(0, 1)
