"""The state of a balancer, kept aside for the case that its update must not count."""

from typing import Any

import torch
from torch import Tensor, nn

_LARGE = 10_000  # numbers; larger buffers are not copied: losses of a window, memories of gradients or decisions


class KeptState:
    """What a balancer remembers: parameters, buffers, extra state, and where its generators stand.

    The modules are walked once; keeping their state costs about a microsecond for each tensor.

    A module whose state is large says how one update is undone, by ``mark()`` and ``return_to(mark)``; of the others
    the extra state is kept. A buffer of more than ten thousand numbers is kept without a copy: what replaces it can be
    undone, and what changes it in place must not do so before its gradients were found finite.

    :param balancer: any module
    """

    def __init__(self, balancer: nn.Module) -> None:
        modules = list(balancer.modules())
        self._places = [(module._buffers, name) for module in modules for name in module._buffers]
        self._parameters = [parameter.detach() for parameter in balancer.parameters()]
        self._with_marks: list[Any] = [module for module in modules if hasattr(module, "mark")]
        self._with_extra = [
            module
            for module in modules
            if type(module).get_extra_state is not nn.Module.get_extra_state and module not in self._with_marks
        ]
        generators = {getattr(module, "generator", None): None for module in modules}
        self._generators = [generator for generator in generators if generator is not None]
        self._learned: list[Tensor] = []
        self._buffers: list[Tensor | None] = []
        self._extra: list[Tensor] = []
        self._marks: list[Any] = []
        self._drawn: list[Tensor] = []

    def keep(self) -> None:
        """Copy the state as it is now."""
        buffers = [buffers[name] for buffers, name in self._places]
        self._buffers = [b if b is None or b.numel() > _LARGE else b.clone() for b in buffers]
        self._learned = [parameter.clone() for parameter in self._parameters]
        self._extra = [module.get_extra_state() for module in self._with_extra]
        self._marks = [module.mark() for module in self._with_marks]
        self._drawn = [generator.get_state() for generator in self._generators]

    def restore(self) -> None:
        """Put everything back."""
        for parameter, learned in zip(self._parameters, self._learned, strict=True):
            parameter.copy_(learned)
        for (buffers, name), kept in zip(self._places, self._buffers, strict=True):
            if kept is not None:
                buffers[name] = kept
        for module, state in zip(self._with_extra, self._extra, strict=True):
            module.set_extra_state(state)
        for module, mark in zip(self._with_marks, self._marks, strict=True):
            module.return_to(mark)
        for generator, drawn in zip(self._generators, self._drawn, strict=True):
            generator.set_state(drawn)

    def restore_where(self, condition: Tensor) -> None:
        """Put parameters and buffers back where a scalar of their device is not zero; nothing waits for it."""
        for parameter, learned in zip(self._parameters, self._learned, strict=True):
            parameter.copy_(torch.where(condition > 0, learned, parameter))
        for (buffers, name), kept in zip(self._places, self._buffers, strict=True):
            now = buffers[name]
            if kept is not None and now is not None and kept is not now:
                buffers[name] = torch.where(condition > 0, kept, now)
