"""What the methods share that decide weights now and then, from the gaps of the episodes since the last decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.balancers.igb.gaps import TargetReturns, read_window
from agents.balancers.igb.rule import Course, Situation
from agents.balancing.allocation import ShareWeighting
from agents.balancing.balancer import BalancerError
from agents.balancing.options import require_share, require_whole
from agents.balancing.tasks import Progress
from agents.errors import ConfigurationError
from agents.progress import TOTALS

_MARKS = 3  # numbers at the head of the state: budget used at the last decision, updates since, executed updates


@dataclass(frozen=True, kw_only=True)
class DecisionOptions:
    """When weights are decided, from what, and where they act.

    :param weights_on: ``sampling`` draws each task's samples in proportion; ``loss`` multiplies the losses
    :param hold: updates that a decision is held for at least
    :param hold_episodes: episodes that every task must have ended before the next decision
    :param hold_share: share of the training budget that a decision is held for, instead of both; then one episode of
        every task is waited for
    :param floor: least weight of a task, of 1 on average; 1 leaves no choice: every weight is one
    :param target_returns: return that counts as solved, one number or one per task; None takes what the suite knows,
        or success alone; ``best`` the best so far
    """

    weights_on: str = "sampling"
    hold: int = 500
    hold_episodes: int = 25
    hold_share: float | None = None
    floor: float = 0.2
    target_returns: float | Sequence[float] | str | None = None

    def check(self, method: str) -> None:
        """:raises ConfigurationError: for a number out of range, in the name of `method`"""
        require_whole(method, 1, hold=self.hold, hold_episodes=self.hold_episodes)
        require_share(method, floor=self.floor)
        if self.hold_share is not None:
            require_share(method, hold_share=self.hold_share)
            if self.hold_share in (0, 1):
                raise ConfigurationError(
                    f"{method}: hold_share must leave room for decisions, between 0 and 1, found {self.hold_share!r}."
                )


class Record(nn.Module):
    """What was decided: a row for every decision, on the host.

    :ivar rows: share of the budget, weights, gaps, interest, reference ``[n, 1 + 4K]``
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.rows = torch.empty(0, 1 + 4 * num_tasks, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, used: float, weights: Tensor, course: Course) -> None:
        """Write down one decision, and what is remembered after it."""
        row = torch.cat([torch.tensor([used]), weights, *course]).double()
        self.rows = torch.cat([self.rows, row.unsqueeze(0)])

    @property
    def course(self) -> Course | None:
        """What the latest decision left; None before the first."""
        if len(self) == 0:
            return None
        return Course(*self.rows[-1, 1 + self.num_tasks :].float().view(3, self.num_tasks))

    def get_extra_state(self) -> Tensor:
        return self.rows

    def set_extra_state(self, state: Tensor) -> None:
        if state.ndim != 2 or state.shape[1] != self.rows.shape[1]:
            raise ValueError(f"it records decisions of {list(state.shape)[1:]} numbers, not {self.rows.shape[1]}")
        self.rows = state.cpu().double()


class DecidedWeights(ShareWeighting):
    """Weights that are held until enough episodes of every task have ended. A subclass implements `decide`.

    Until every task has ended an episode all weights are one. One decision serves critic and actor. It is made from
    the progress of the tasks alone: behind another method it does not see losses that this has weighted.

    :param method: name in errors
    """

    def __init__(
        self, num_tasks: int, method: str, options: DecisionOptions, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_tasks, method, options.weights_on, generator)
        options.check(method)
        self.method, self.options = method, options
        self.targets = TargetReturns(method, num_tasks, options.target_returns)
        self.record = Record(num_tasks)
        self._used, self._since = 0.0, 0
        self._totals = torch.zeros(len(TOTALS), num_tasks, dtype=torch.float64)  # of the progress, at the decision
        self._executed = torch.zeros(num_tasks, dtype=torch.float64)  # sum of what a scheduler made of the weights
        self._executions = 0

    def decide(self, situation: Situation) -> Tensor:
        """New weights ``[K]``, of mean one."""
        raise NotImplementedError

    @property
    def decisions(self) -> int:
        """How many have been made."""
        return len(self.record)

    def shares_now(self, progress: Progress | None) -> Tensor:
        if progress is None:
            raise BalancerError(f"{self.method} reads how far every task has come, and this agent does not say.")
        if self._due(progress):
            self._decide(progress)
        self._since += 1
        return self.latest

    def executed(self, weights: Tensor) -> None:
        self._executed = self._executed.to(weights.device) + weights
        self._executions += 1

    def _due(self, progress: Progress) -> bool:
        self._used = min(self._used, progress.budget_used)  # a budget that was extended is used less
        ended = (progress.totals - self._totals)[[0, 2]].amax(0)
        if self.decisions == 0:
            return bool((ended >= 1).all())
        share = self.options.hold_share
        if share is not None:
            return progress.budget_used - self._used >= share and bool((ended >= 1).all())
        return self._since >= self.options.hold and bool((ended >= self.options.hold_episodes).all())

    def _decide(self, progress: Progress) -> None:
        window = read_window(progress, self._totals, self.targets, self.method)
        before, weights = self.record.course, self._weights_in_window()
        course = Course.beginning(window.gaps) if before is None else before.after(window.gaps, weights)
        falls = torch.zeros_like(window.gaps) if before is None else before.gaps - window.gaps
        used = torch.full_like(window.gaps, progress.budget_used)
        situation = Situation(window.gaps, falls, window.success, course.interest, weights, used)
        with torch.no_grad():
            self.latest = self.decide(situation).float().cpu()
        self.record.add(progress.budget_used, self.latest, course)
        self._used, self._since, self._totals = progress.budget_used, 0, progress.totals
        self._executed, self._executions = torch.zeros_like(self._executed), 0

    def _weights_in_window(self) -> Tensor:
        """The weights of the window that ends ``[K]``: those that were decided, or what a scheduler made of them."""
        if self._executions == 0:
            return self.latest
        mean = self._executed.float().cpu() / self._executions
        return mean / mean.mean().clamp(min=1e-12)

    def remarks(self) -> list[str]:
        if self.decisions > 1:
            return []
        made = "one decision" if self.decisions else "no decision"
        return [
            f"{self.method} made {made} in this run, since each is held for {self._hold()}: choose a smaller hold, or "
            "hold_share=0.05 for twenty decisions."
        ]

    def _hold(self) -> str:
        options = self.options
        if options.hold_share is not None:
            return f"{options.hold_share:g} of the budget"
        return f"{options.hold:,} updates and {options.hold_episodes} episodes of every task"

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights: how many decisions there were, and gap and interest of every task at the latest."""
        course = self.record.course or Course.beginning(torch.ones(self.num_tasks))
        own = {"gaps": course.gaps, "interest": course.interest, "decisions": torch.tensor(float(self.decisions))}
        return {**super().diagnostics(), **own}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "variance" in state_dict:
            raise ConfigurationError(
                f"This file holds {self.method} in its first formulation, which decided from other numbers and cannot "
                "be continued: train again, or use the release that wrote it."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def get_extra_state(self) -> Tensor:
        head = torch.tensor([self._used, float(self._since), float(self._executions)], dtype=torch.float64)
        parts = (head, self.latest, self._executed.cpu(), self._totals.flatten())
        return torch.cat([part.double() for part in parts])

    def set_extra_state(self, state: Tensor) -> None:
        tasks = self.num_tasks
        sizes = [_MARKS, tasks, tasks, len(TOTALS) * tasks]
        if state.shape != (sum(sizes),):
            raise ValueError(f"it holds {state.numel()} numbers, and {sum(sizes)} tell where {tasks} tasks are")
        marks, latest, executed, totals = state.cpu().double().split(sizes)
        self._used, self._since, self._executions = float(marks[0]), int(marks[1]), int(marks[2])
        self.latest, self._executed = latest.float(), executed.clone()
        self._totals = totals.view(len(TOTALS), tasks)
