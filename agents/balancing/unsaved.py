"""State of a balancer that no checkpoint would hold: what changes while it balances, and is no buffer."""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.balancing.balancer import Balancer
from agents.errors import ConfigurationError

_STEPS = 10  # that are watched: what a method remembers it begins to remember soon
_OF_TORCH = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type(None), list, tuple, dict, set, frozenset, deque)


class UnsavedState:
    """Watches a balancer through its first steps.

    :param balancer: as it was built
    """

    def __init__(self, balancer: Balancer) -> None:
        own = any(type(module).get_extra_state is not nn.Module.get_extra_state for module in balancer.modules())
        # A method with `get_extra_state` looks after its state itself.
        self._watched = [] if own else [module for module in balancer.modules() if isinstance(module, Balancer)]
        self._before = [_attributes(module) for module in self._watched]
        self._left = _STEPS

    def refuse(self) -> None:
        """Look after a step.

        :raises ConfigurationError: naming the first attribute that has changed and would be lost
        """
        if not self._watched or not self._left:
            return
        self._left -= 1
        for module, before in zip(self._watched, self._before, strict=True):
            for name, value in _attributes(module).items():
                if name not in before or before[name] != value:
                    raise ConfigurationError(
                        f"{type(module).__name__} remembers '{name}' outside its buffers, so a checkpoint would lose "
                        f"it: self.register_buffer('{name}', torch....) in the constructor keeps it, and "
                        f"scratch = frozenset({{'{name}'}}) in the class says that it need not be kept."
                    )


def _attributes(module: Balancer) -> dict[str, Any]:
    """What a module holds beside parameters, buffers and modules, as values that can be compared later."""
    return {
        name: _comparable(value)
        for name, value in vars(module).items()
        if name not in _OF_TORCH and name not in module.scratch and not isinstance(value, torch.Generator)
    }


def _comparable(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    return repr(value) if isinstance(value, _PLAIN) else id(value)
