"""What modules and experts are combined with: sums without parameters of their own, in float32."""

import torch
from torch import Tensor

# Of a vector's norm: what is left of it outside the span of others, where that is rounding error.
DEPENDENT = 1e-6
EPSILON = 1e-8


def at_least_float32(values: Tensor) -> Tensor:
    """Values in float32, or in what is more exact."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def mix(shares: Tensor, outputs: Tensor) -> Tensor:
    """Sums ``sum_j shares[i, j] outputs[j]`` of the outputs of J modules, in their precision.

    :param shares: ``[E, N, I, J]``
    :param outputs: ``[E J, N, H]``
    :return: ``[E I, N, H]``
    """
    members, rows, sums, modules = shares.shape
    by_module = at_least_float32(outputs).view(members, modules, rows, -1).transpose(1, 2)  # [E, N, J, H]
    # Products this small are slow in bfloat16.
    with torch.autocast(outputs.device.type, enabled=False):
        mixed = torch.matmul(shares.to(by_module.dtype), by_module)
    return mixed.transpose(1, 2).reshape(members * sums, rows, -1).to(outputs.dtype)


def gram_schmidt(vectors: Tensor) -> Tensor:
    """Orthonormal vectors of the same spans: of each vector what the earlier ones leave of it, at unit length.

    A vector in the span of the earlier ones leaves nothing but rounding error. It becomes zero, and gets no gradient:
    the direction of an error means nothing, and its gradient would be a million times too large.

    :param vectors: ``[E, M, N, H]``
    :return: the same shape, in float32
    """
    basis: list[Tensor] = []
    for vector in at_least_float32(vectors).unbind(1):
        left = vector
        for unit in basis:
            left = left - (vector * unit).sum(-1, keepdim=True) * unit
        square = left.square().sum(-1, keepdim=True)
        dependent = square <= DEPENDENT**2 * vector.square().sum(-1, keepdim=True)
        norm = torch.where(dependent, 1.0, square).sqrt()
        basis.append(torch.where(dependent, 0.0, left / (norm + EPSILON)))
    return torch.stack(basis, 1)
