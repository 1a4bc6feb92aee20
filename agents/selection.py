"""Which tasks an update is for."""

from functools import cached_property, lru_cache

import torch
from torch import Tensor


class Selection:
    """Which task each of the G groups of a batch is of: all K in order, some of them, or some of them several times.

    A task with at least one group is active; the others are idle, and nothing is computed for them.

    :param num_tasks: K
    :param task: task of each group ``[G]``, on the host, rising
    """

    def __init__(self, num_tasks: int, task: Tensor) -> None:
        self.num_tasks = num_tasks
        self.task = task
        self.active = torch.zeros(num_tasks, dtype=torch.bool).index_fill(0, task, True)  # [K], on the host
        self.is_whole = len(task) == num_tasks and bool(self.active.all())
        self._on_device: dict[torch.device, Tensor] = {}

    @classmethod
    def whole(cls, num_tasks: int) -> "Selection":
        """All K tasks, one group each."""
        return _whole(num_tasks)

    @classmethod
    def of(cls, active: Tensor) -> "Selection":
        """The tasks that are marked in ``active [K]``, boolean on the host, one group each."""
        num_tasks = len(active)
        return _whole(num_tasks) if bool(active.all()) else cls(num_tasks, active.nonzero().squeeze(-1))

    @classmethod
    def repeated(cls, counts: Tensor) -> "Selection":
        """As many groups of every task as ``counts [K]`` says, whole numbers on the host."""
        if bool((counts == 1).all()):
            return _whole(len(counts))
        return cls(len(counts), torch.arange(len(counts)).repeat_interleave(counts))

    @property
    def repeats(self) -> bool:
        """Whether a task has several groups: then there are no task gradients, and its loss is the mean over them."""
        return len(self.task) > self.size

    @cached_property
    def size(self) -> int:
        """How many tasks are active."""
        return int(self.active.sum())

    @cached_property
    def places(self) -> Tensor:
        """How many groups of its task stand before each group ``[G]``: zeros where no task has several."""
        first = torch.searchsorted(self.task, self.task)
        return torch.arange(len(self.task)) - first

    def on(self, device: torch.device) -> Tensor:
        """Task of each group ``[G]``, on a device."""
        if device not in self._on_device:
            self._on_device[device] = self.task.to(device, non_blocking=True)
        return self._on_device[device]

    def pick(self, values: Tensor) -> Tensor:
        """``values [K, ...]`` of the tasks as values of the groups ``[G, ...]``."""
        return values if self.is_whole else values[self.on(values.device)]

    def among(self, drawn: "Selection", *tensors: Tensor) -> tuple[Tensor, ...]:
        """Of ``tensors [G, ...]`` whose groups were drawn for another selection, the groups of active tasks."""
        if self is drawn or torch.equal(self.task, drawn.task):
            return tensors
        kept = self.active[drawn.task]
        return tuple(tensor[kept.to(tensor.device)] for tensor in tensors)

    def spread(self, values: Tensor, idle: float = 0.0) -> Tensor:
        """Values of the active tasks ``[n, ...]`` as values of all ``[K, ...]``.

        :param idle: the value of tasks that are not active
        """
        if self.is_whole:
            return values
        rows = self.active.nonzero().squeeze(-1).to(values.device)
        return values.new_full((self.num_tasks, *values.shape[1:]), idle).index_copy_(0, rows, values)

    def active_only(self, values: Tensor) -> Tensor:
        """``values [K]`` with zeros for idle tasks, whose own mean nothing."""
        return values if self.is_whole else torch.where(self.active.to(values.device), values, 0.0)

    def mean_by_task(self, values: Tensor) -> Tensor:
        """Means over the groups of every active task: ``[G, ...] -> [n, ...]``."""
        if not self.repeats:
            return values
        _, place, count = self.task.unique(return_inverse=True, return_counts=True)
        sums = values.new_zeros(len(count), *values.shape[1:]).index_add(0, place.to(values.device), values)
        return sums / count.to(values).view(-1, *(1 for _ in values.shape[1:]))


@lru_cache(maxsize=64)
def _whole(num_tasks: int) -> Selection:
    return Selection(num_tasks, torch.arange(num_tasks))
