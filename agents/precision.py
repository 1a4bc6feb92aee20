"""How the matrix products of an update are computed, chosen from what this machine can do and recorded with the run."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from agents.errors import unknown_name

PRECISIONS = ("float32", "bfloat16", "auto")


def resolve_precision(precision: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``; ``auto`` is bfloat16 where the processor multiplies it natively."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    return "bfloat16" if _native_bfloat16(device) else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Context in which the losses are computed.

    The weight cache stays off: a first call under ``no_grad`` would leave a cast without graph in it, and a later loss
    would silently send no gradient to those weights.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


@contextlib.contextmanager
def float32_products(mode: str) -> Iterator[None]:
    """Context in which PyTorch's process-wide float32 matrix-product mode is `mode`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context in which PyTorch computes in one thread: a rollout's products are small, and others would wait awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_exact_float32(device: torch.device) -> str:
    """PyTorch's float32 matrix-product mode to use: ``medium`` where it is exact to float32 here, else ``highest``.

    On processors without native bfloat16 "medium" selects oneDNN, up to 2.3 times faster than MKL at float32's own
    rounding error; elsewhere it really computes in bfloat16. The error decides, so the choice is a fact of the machine.
    On an accelerator every other mode is TF32, with an error of 1e-3.
    """
    if device.type != "cpu":
        return "highest"
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(256, 256, generator=generator)
    right = torch.randn(256, 256, generator=generator)
    exact = left.double() @ right.double()
    with float32_products("medium"):
        error = ((left @ right).double() - exact).abs().max() / exact.abs().max()
    return "medium" if error < 1e-5 else "highest"


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
