"""Improvable gaps: how far every task still is from what it could be, read from training alone.

Gaps lie in [0, 1], whatever the scale of rewards and losses: 1 is nothing learnt, 0 nothing left to learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.balancing.balancer import BalancerError
from agents.balancing.tasks import Progress, Tasks
from agents.errors import ConfigurationError, unknown_name

GAP_SOURCES = ("critic", "td_norm", "return", "success", "mixed")
TINY = 1e-12
SLOW = 0.1  # share of a new window in the slow average of the losses
RATIO_RANGE = 3.0  # log ratios of losses are clipped here


class Reading(NamedTuple):
    """What a window of updates has shown; all ``[K]``."""

    gaps: Tensor  # of the chosen source
    success: Tensor  # smooth success of training episodes, 0 before the first
    returns: Tensor  # smooth return: 0 is random actions, 1 the target
    loss_ratio: Tensor  # log of the window's loss over its slow average, scaled to [-1, 1]


@dataclass(frozen=True, kw_only=True)
class GapOptions:
    """Where gaps come from.

    :param gap_source: ``critic``, ``td_norm``, ``return``, ``success`` or ``mixed``
    :param target_returns: return that counts as solved, one number or one per task; None takes the best so far
    """

    gap_source: str = "mixed"
    target_returns: float | Sequence[float] | None = None


class ImprovableGaps(nn.Module):
    """The gap of every task, from one of five sources (Dai et al. 2023, arXiv 2307.15429, carried over to RL).

    * ``critic``: ``l / (l + l_base)``, the paper's ratio to an early loss, bounded. A critic's loss grows with its
      values while learning succeeds, so this gap may rise then: for comparison, not for use.
    * ``td_norm``: ``n / (1 + n)`` of the critic's loss n in units of the variance of its targets; where that loss is a
      cross-entropy, of half its squared TD error.
    * ``return``: ``(R* - R) / (R* - R_random)``, R the smooth return of training episodes.
    * ``success``: ``1 -`` smooth success of training episodes; silent until a first success.
    * ``mixed``: the mean of ``return`` and ``success``.

    Returns are raw: no reward scale touches them. R* is `target_returns`, or the highest 95th percentile of recent
    returns so far.

    :param method: name in errors
    :param source: one of the five
    :param target_returns: as in `GapOptions`
    """

    loss_sum: Tensor
    variance_sum: Tensor
    base: Tensor
    slow: Tensor

    def __init__(
        self, method: str, num_tasks: int, source: str, target_returns: float | Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if source not in GAP_SOURCES:
            raise unknown_name(f"gap_source of {method}", source, GAP_SOURCES)
        targets = torch.as_tensor(float("nan") if target_returns is None else target_returns, dtype=torch.float32)
        if targets.ndim and len(targets) != num_tasks:
            raise ConfigurationError(f"{method}: target_returns needs {num_tasks} numbers, found {len(targets)}.")
        self.method, self.source = method, source
        self.episodic = source in ("return", "success", "mixed")
        self.targets = targets.expand(num_tasks)  # stays on the host, like the progress that it is compared with
        for name in ("loss_sum", "variance_sum", "base", "slow"):
            self.register_buffer(name, torch.zeros(num_tasks))
        self._updates, self._windows = 0, 0  # in the running window, and windows that are over

    def watch(self, tasks: Tasks) -> None:
        """Take note of one update: two small operations, and nothing waits for a device."""
        losses = tasks.losses
        if self.source == "td_norm":
            metrics = tasks.metrics
            if "target_variance" not in metrics:
                raise BalancerError(
                    f"{self.method}: gap_source='td_norm' needs a critic's targets; these losses have none."
                )
            losses = metrics.get("squared_error", losses)
            self.variance_sum += metrics["target_variance"].to(self.variance_sum)
        self.loss_sum += losses.abs().to(self.loss_sum)
        self._updates += 1

    def read(self, tasks: Tasks) -> Reading:
        """End the window and read it."""
        losses = self.loss_sum / max(self._updates, 1)
        variances = self.variance_sum / max(self._updates, 1)
        if self._windows < 2:
            # The first window holds the initial transient; the second one is the base, as in the paper.
            self.base = losses
        self.slow = losses if self._windows == 0 else self.slow.lerp(losses, SLOW)
        ratio = ((losses + TINY) / (self.slow + TINY)).log().clamp(-RATIO_RANGE, RATIO_RANGE) / RATIO_RANGE
        progress = self._progress(tasks)
        success, return_gap = (values.to(losses) for values in self._from_episodes(progress))
        gaps = {
            "critic": losses / (losses + self.base).clamp(min=TINY),
            "td_norm": losses / (losses + variances).clamp(min=TINY),
            "return": return_gap,
            "success": 1.0 - success,
            "mixed": torch.stack([1.0 - success, return_gap]).nanmean(0),
        }[self.source]
        self.loss_sum, self.variance_sum = torch.zeros_like(losses), torch.zeros_like(losses)
        self._updates, self._windows = 0, self._windows + 1
        return Reading(gaps.nan_to_num(1.0), success.nan_to_num(0.0), 1.0 - return_gap.nan_to_num(1.0), ratio)

    def _progress(self, tasks: Tasks) -> Progress | None:
        progress = tasks.context.progress
        if progress is None and self.episodic:
            raise BalancerError(
                f"{self.method} reads how far every task has come (gap_source='{self.source}'), and this agent does "
                "not say: use gap_source='critic'."
            )
        return progress

    def _from_episodes(self, progress: Progress | None) -> tuple[Tensor, Tensor]:
        """Success and return gap ``[K]`` on the host; NaN before a task's first episode."""
        if progress is None:
            unknown = torch.full((len(self.base),), float("nan"))
            return unknown, unknown
        targets = torch.where(self.targets.isnan(), progress.best_returns.to(self.targets), self.targets)
        span = targets - progress.random_returns.to(targets)
        gap = ((targets - progress.smooth_returns.to(targets)) / span).clamp(0.0, 1.0)
        # No return above that of random actions is known: nothing has been learnt.
        gap = torch.where(span > 0, gap, torch.where(span.isnan(), float("nan"), 1.0))
        return progress.smooth_successes, gap

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self._updates, self._windows])

    def set_extra_state(self, state: Tensor) -> None:
        self._updates, self._windows = (int(number) for number in state)
