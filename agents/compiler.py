"""The functions of an update compiled by TorchInductor, and the same functions as they are where that cannot be had."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

RECOMPILE_LIMIT = 256  # kinds of agents in one process, each of a few variants; PyTorch's own 8 are for one model


class Compiler:
    """Calls functions compiled; each is compiled when it is first called, for the shapes that it then meets.

    If one cannot be compiled (there is no C++ compiler, or the temporary folder is full) all are called as they are
    from then on, after a warning: the same results up to rounding, more slowly.
    """

    def __init__(self) -> None:
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._failed = False
        self._errors: tuple[type[Exception], ...] = ()
        try:  # here, because importing it takes seconds that an agent without a compiler need not wait
            from torch._dynamo import exc
        except OSError as error:  # it makes the folder of its cache when it is imported
            self._give_up(error)
        else:
            self._errors = (exc.TorchDynamoException, exc.FailOnRecompileLimitHit)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function(*arguments)`` returns.

        :param function: a pure function of tensors and modules
        """
        if self._failed:
            return function(*arguments)
        if function not in self._compiled:
            compiled = torch.compile(function, fullgraph=True, dynamic=False, recompile_limit=RECOMPILE_LIMIT)  # type: ignore[call-overload]
            self._compiled[function] = compiled
        try:
            return self._compiled[function](*arguments)
        except self._errors as error:
            results = function(*arguments)  # an error of the function itself ends here, as what it is
            self._give_up(error)
            return results

    def _give_up(self, error: BaseException) -> None:
        self._failed = True
        warnings.warn(
            f"compile=True, and the update could not be compiled ({_cause(error)}): it is computed uncompiled, with "
            "the same results up to rounding.",
            stacklevel=3,
        )


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom: PyTorch wraps errors in errors of several pages."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
