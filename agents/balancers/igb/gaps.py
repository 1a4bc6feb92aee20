"""Improvable gaps: how far every task still is from solved, read from the training episodes of a window alone.

Gaps lie in [0, 1], whatever the scale of rewards and losses: 1 is nothing learnt, 0 nothing left to learn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agents.balancing.balancer import BalancerError
from agents.balancing.tasks import Progress
from agents.errors import ConfigurationError, unknown_name

BEST = "best"  # as target returns: the best so far


class Window(NamedTuple):
    """What the episodes of a window have shown; both ``[K]``, on the host."""

    gaps: Tensor
    success: Tensor  # share of successful episodes; 0 for a task without a rule of success


class TargetReturns:
    """R*, the return that counts as solved: fixed, so that a gap falls only where a task gets better.

    :param method: name in errors
    :param given: one number, or one per task; ``best`` takes the best return so far, a target that moves. None takes
        what the suite knows, and success alone for a task of which it knows nothing
    """

    def __init__(self, method: str, num_tasks: int, given: float | Sequence[float] | str | None) -> None:
        if isinstance(given, str) and given != BEST:
            raise unknown_name(f"target_returns of {method}", given, (BEST,))
        self.moves = given == BEST
        self.numbers: Tensor | None = None
        if given is not None and not isinstance(given, str):
            self.numbers = torch.as_tensor(given, dtype=torch.float64)
            if self.numbers.ndim and len(self.numbers) != num_tasks:
                raise ConfigurationError(
                    f"{method}: target_returns needs {num_tasks} numbers, found {len(self.numbers)}."
                )
            if not bool(self.numbers.isfinite().all()):
                raise ConfigurationError(f"{method}: target_returns must be finite, found {given!r}.")

    def of(self, progress: Progress) -> Tensor:
        """R* of every task ``[K]``; NaN where none is known."""
        if self.moves:
            return progress.best_returns.double()
        known = progress.target_returns.double()
        return known if self.numbers is None else self.numbers.expand_as(known)


def read_window(progress: Progress, before: Tensor, targets: TargetReturns, method: str) -> Window:
    """The gap of every task: the mean of ``(R* - R) / (R* - R_random)`` and ``1 - success``, as far as they are known.

    Returns are raw: no reward scale touches them.

    :param before: the totals of `progress` when the window began ``[4, K]``
    :raises BalancerError: for a task that has neither a target return nor a rule of success
    """
    returned, return_sum, judged, successes = progress.totals - before
    success = successes / judged  # NaN where no episode was judged
    goal, random = targets.of(progress), progress.random_returns.double()
    gap = ((goal - return_sum / returned) / (goal - random)).clamp(0.0, 1.0)
    gap = torch.where(goal <= random, 0.0, gap)  # random actions reach the target
    both = torch.stack([gap, 1.0 - success])
    if bool(both.isnan().all(0).any()):
        task = int(both.isnan().all(0).int().argmax())
        raise BalancerError(
            f"{method}: nothing says how far task {task} is from solved, for it has neither a rule of success nor a "
            "known return: give target_returns."
        )
    return Window(both.nanmean(0).float(), success.nan_to_num(0.0).float())
