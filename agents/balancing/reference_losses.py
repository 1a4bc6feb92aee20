"""Reference losses: what a task's loss was over a stretch of early updates, for the methods that measure against it."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class ReferenceLosses(nn.Module):
    """Mean loss of every task over `window` of its updates, the first of which follows `start` others.

    :param num_tasks: K
    :param start: updates that do not count, while losses pass through their first transient
    :param window: updates that count
    """

    task_buffers: ClassVar[dict[str, int]] = {"total": 1, "seen": 1}
    total: Tensor
    seen: Tensor

    def __init__(self, num_tasks: int, start: int, window: int) -> None:
        super().__init__()
        self.start, self.window = start, window
        self.register_buffer("total", torch.zeros(num_tasks))
        self.register_buffer("seen", torch.zeros(num_tasks))  # updates

    def observe(self, losses: Tensor) -> None:
        """Take note of the losses ``[K]`` of one update."""
        counts = (self.seen >= self.start) & ~self.ready
        self.total += torch.where(counts, losses, 0.0).to(self.total)
        self.seen += 1

    @property
    def ready(self) -> Tensor:
        """Whether a task's window is full ``[K]``, as a tensor: asking does not make a device wait."""
        return self.seen >= self.start + self.window

    @property
    def mean(self) -> Tensor:
        """Reference losses ``[K]``; meaningless before `ready`."""
        return self.total / self.window
