"""Tasks whose actions have unequal sizes: a task's own numbers come first, then zeros as padding up to A."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError


class OwnActions(nn.Module):
    """Which of the A numbers of an action are a task's own: 1 for these, 0 for padding.

    What is computed of an action is multiplied by it: where all tasks have A numbers, that changes no bit. It is not
    in a state dictionary: an environment says the sizes, and so does the file of an agent.

    :param sizes: numbers of an action of each of K tasks
    :param action_size: A
    :raises ConfigurationError: for a size that no task can have
    """

    table: Tensor

    def __init__(self, sizes: Sequence[int], action_size: int) -> None:
        super().__init__()
        for size in sizes:
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= action_size:
                raise ConfigurationError(f"The action of a task has from 1 to {action_size} numbers, found {size!r}.")
        self.sizes = tuple(sizes)
        rows = torch.arange(action_size) < torch.tensor(self.sizes)[:, None]
        self.register_buffer("table", rows.to(torch.get_default_dtype()), persistent=False)

    def forward(self, task: Tensor) -> Tensor:
        """``[G] -> [G, 1, A]``."""
        return self.table[task].unsqueeze(-2)
