"""The affine map of a stacked ensemble, written so that per-task gradients copy no weights.

Under ``vmap`` over tasks PyTorch's own batched product repeats the shared weight for every task before it multiplies,
which costs more than the product itself when B is small. Here the tasks are folded into the rows instead: the
forward pass and the gradient of the inputs are the very products of the plain pass, and only the gradient of the
weights is grouped by task.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_folding_tasks = ContextVar("folding_tasks", default=False)


@contextmanager
def folded_tasks() -> Iterator[None]:
    """Context of a ``vmap`` over tasks. Outside it the plain product is used, whose calls cost less."""
    token = _folding_tasks.set(True)
    try:
        yield
    finally:
        _folding_tasks.reset(token)


def shared_affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``[E, N, F], [E, F, O], [E, 1, O] -> [E, N, O]``, in autocast's precision where autocast is on."""
    if not _folding_tasks.get():
        return torch.baddbmm(bias, inputs, weight)
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        precision = torch.get_autocast_dtype(device)
        inputs, weight, bias = inputs.to(precision), weight.to(precision), bias.to(precision)
    return SharedProduct.apply(inputs, weight, bias)


class SharedProduct(torch.autograd.Function):
    """``inputs [E, N, F] @ weight [E, F, O] (+ bias [E, 1, O])``; the tasks of a ``vmap`` become rows."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.bmm(inputs, weight) if bias is None else torch.baddbmm(bias, inputs, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        inputs, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        for_inputs = SharedProduct.apply(gradient, weight.transpose(1, 2), None) if wanted[0] else None
        for_weight = WeightGradient.apply(inputs, gradient) if wanted[1] else None
        return for_inputs, for_weight, gradient.sum(1, keepdim=True) if wanted[2] else None

    @staticmethod
    def vmap(  # type: ignore[override]
        info: Any, in_dims: tuple[int | None, ...], inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        if in_dims[0] is None or in_dims[1] is not None or in_dims[2] is not None:
            raise NotImplementedError("SharedProduct maps over tasks: the inputs vary, the weights are shared.")
        rows = inputs.movedim(in_dims[0], 1)  # [E, K, N, F]
        members, tasks, samples, _ = rows.shape
        output = SharedProduct.apply(rows.flatten(1, 2), weight, bias)
        return output.view(members, tasks, samples, -1), 1


class WeightGradient(torch.autograd.Function):
    """``inputs^T [E, F, N] @ gradient [E, N, O]``; the tasks of a ``vmap`` stay apart, as more ensemble members."""

    @staticmethod
    def forward(inputs: Tensor, gradient: Tensor) -> Tensor:
        return torch.bmm(inputs.transpose(1, 2), gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:  # type: ignore[override]
        raise NotImplementedError("Second derivatives of the losses are not available.")

    @staticmethod
    def vmap(  # type: ignore[override]
        info: Any, in_dims: tuple[int | None, int | None], inputs: Tensor, gradient: Tensor
    ) -> tuple[Tensor, int]:
        if in_dims[0] is None or in_dims[1] is None:
            raise NotImplementedError("WeightGradient maps over tasks: inputs and gradients both vary.")
        inputs, gradient = inputs.movedim(in_dims[0], 1), gradient.movedim(in_dims[1], 1)  # [E, K, N, .]
        product = WeightGradient.apply(inputs.flatten(0, 1), gradient.flatten(0, 1))
        return product.unflatten(0, inputs.shape[:2]), 1
