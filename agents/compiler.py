"""The functions of an update compiled by TorchInductor, and the same functions as they are where that cannot be had."""

import subprocess
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

RECOMPILE_LIMIT = 64  # kinds of agents in one process, each in a few variants; PyTorch's own 8 are for one model


class Compiler:
    """Calls functions compiled; each is compiled when it is first called, for the shapes that it then meets.

    If one cannot be compiled (there is no C++ compiler, or the temporary folder is full) all are called as they are
    from then on, after a warning: the same results up to rounding, more slowly.

    :param graphs: capture what is compiled as CUDA graphs, which start hundreds of kernels at once; where that fails,
        they are started one by one from then on, after a warning
    :ivar failed: whether functions could not be compiled
    """

    def __init__(self, graphs: bool = False) -> None:
        from torch._dynamo import exc  # here, for importing it takes longer than all the rest of this package

        self.failed, self.graphs = False, graphs
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        # The last two: a folder that is gone or full, and a PyTorch without one of the options below.
        self._errors = (exc.TorchDynamoException, exc.FailOnRecompileLimitHit, OSError, AttributeError)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function(*arguments)`` returns.

        :param function: a pure function of tensors and modules
        """
        if self.failed:
            return function(*arguments)
        try:
            return self._captured(function, *arguments) if self.graphs else self._run(function, *arguments)
        except self._errors as error:
            results = function(*arguments)  # an error of the function itself ends here, as what it is
            self.failed = True
            warnings.warn(
                f"compile=True, and the update could not be compiled ({_reason(error)}): it is computed uncompiled, "
                "with the same results up to rounding.",
                stacklevel=2,
            )
            return results

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if function not in self._compiled:
            self._compiled[function] = _compile(function, self.graphs)
        return self._once_more_if_killed(self._compiled[function], *arguments)

    def _captured(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Results of CUDA graphs, copied: the next replay overwrites them, and metrics are read later."""
        try:
            return tree_map_only(Tensor, Tensor.clone, self._run(function, *arguments))
        except self._errors:
            raise
        except RuntimeError as error:  # of CUDA, memory included, or of the capture
            self.graphs = False
            self._compiled.clear()
            warnings.warn(
                f"compile=True, and the update could not be captured as CUDA graphs ({_reason(error)}): its kernels "
                "are started one by one, with the same results.",
                stacklevel=3,
            )
            return self._run(function, *arguments)

    def _once_more_if_killed(self, compiled: Callable[..., Any], *arguments: Any) -> Any:
        """A signal to all processes of a terminal, such as Ctrl-C, ends the C++ compiler too, and means nothing."""
        try:
            return compiled(*arguments)
        except self._errors as error:
            cause = _cause(error)
            if not (isinstance(cause, subprocess.CalledProcessError) and cause.returncode < 0):
                raise
        from torch._inductor.utils import clear_caches

        clear_caches()  # they remember the failure
        return compiled(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        """To copy or pickle it: what was compiled stays here."""
        return {**self.__dict__, "_compiled": {}}


def _compile(function: Callable[..., Any], graphs: bool) -> Callable[..., Any]:
    from torch._dynamo import config as tracing
    from torch._functorch import config as autograd

    mode = "reduce-overhead" if graphs else "default"
    compiled = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
    # The backward pass is compiled with the forward pass: left to its first use, its failure would end the training.
    at_once = autograd.patch(force_non_lazy_backward_lowering=True)
    return at_once(tracing.patch(recompile_limit=RECOMPILE_LIMIT)(compiled))


def _cause(error: BaseException) -> BaseException:
    """What went wrong at the bottom: PyTorch wraps errors in errors of several pages."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """The cause in a line: what the C++ compiler complains of, or else how the error begins."""
    cause = _cause(error)
    output = getattr(cause, "output", None) or ""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    complaints = [line for line in text.splitlines() if "error" in line]
    return f"{type(cause).__name__}: {(complaints or (str(cause).strip() or 'no message').splitlines())[0]}"
