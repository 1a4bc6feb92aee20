"""The functions of an update compiled by TorchInductor, and the same functions as they are where that cannot be had."""

import subprocess
import warnings
from collections.abc import Callable
from typing import Any

import torch

RECOMPILE_LIMIT = 64  # kinds of agents in one process, each in a few variants; PyTorch's own 8 are for one model


class Compiler:
    """Calls functions compiled; each is compiled when it is first called, for the shapes that it then meets.

    If one cannot be compiled (there is no C++ compiler, or the temporary folder is full) all are called as they are
    from then on, after a warning: the same results up to rounding, more slowly.

    :ivar failed: whether that has happened
    """

    def __init__(self) -> None:
        from torch._dynamo import exc  # here, for importing it takes longer than all the rest of this package

        self.failed = False
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
            if function not in self._compiled:
                self._compiled[function] = _compile(function)
            return self._once_more_if_killed(self._compiled[function], *arguments)
        except self._errors as error:
            results = function(*arguments)  # an error of the function itself ends here, as what it is
            self.failed = True
            warnings.warn(
                f"compile=True, and the update could not be compiled ({_reason(error)}): it is computed uncompiled, "
                "with the same results up to rounding.",
                stacklevel=2,
            )
            return results

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


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo import config as tracing
    from torch._functorch import config as autograd

    compiled = torch.compile(function, fullgraph=True, dynamic=False)
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
