"""Improvable gap balancing in closed form: more weight where more is left to gain. The learned agent is `igb_rl`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.balancers.igb.decided import DecidedWeights, DecisionOptions
from agents.balancers.igb.gaps import GapOptions, ImprovableGaps
from agents.balancing.balancer import Needs, Weighting
from agents.balancing.options import require_positive, require_whole
from agents.balancing.reference_losses import ReferenceLosses
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks


@register_balancer(
    "igb_v1",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="softmax of loss / early loss, on log losses",
)
class ImprovableGapV1(Weighting):
    """``lambda = K softmax(l / l_base)``, objective ``sum_k lambda_k log l_k`` (Dai et al. 2024, eq. 3, algorithm 1).

    ``weights_k = lambda_k / l_k``; lambda is one until the base losses are known. The paper's direction (a sum) is K
    times ours. With gaps in [0, 1] no two lambdas differ by more than a factor e; but a critic's loss may grow far
    above its base loss while learning succeeds, and then the softmax follows one task alone.
    Differs from the authors' code: base losses are means over a stretch of updates instead of the second epoch.

    :param base_start: updates before the base losses are measured (the first epoch)
    :param base_window: updates over which they are averaged (the second epoch)
    """

    needs = Needs.POSITIVE_LOSSES

    def __init__(
        self,
        num_tasks: int,
        base_start: int = 1000,
        base_window: int = 1000,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole("igb_v1", 0, base_start=base_start)
        require_whole("igb_v1", 1, base_window=base_window)
        self.base = ReferenceLosses(num_tasks, base_start, base_window)

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses
        gaps = (losses / self.base.mean.to(losses)).clamp(max=torch.finfo(losses.dtype).max)
        importance = torch.where(self.base.ready, self.num_tasks * gaps.softmax(-1), 1.0)
        self.base.observe(losses)
        return importance / losses


@dataclass(frozen=True, kw_only=True)
class ImprovableGapV1RLOptions(GapOptions, DecisionOptions):
    """What a user can set of `ImprovableGapV1RL`.

    :param temperature: T; higher is closer to equal weights
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        require_positive("igb_v1_rl", temperature=self.temperature)


@register_balancer(
    "igb_v1_rl",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="softmax of the improvable gaps that igb_rl is rewarded for closing: its closed form",
)
class ImprovableGapV1RL(DecidedWeights):
    """``weights = K softmax(gap / T)``, decided once per window, on plain losses.

    `igb_v1` with the gaps of `igb_rl`: of returns and success instead of losses, bounded, so that no two weights differ
    by more than a factor ``exp(1 / T)`` and no softmax follows one task alone. Also the control that says what the
    agent of `igb_rl` adds to a fixed rule.
    Differs from the paper: gaps of training episodes; weights multiply losses, not their logarithms; decided once
    per window.
    """

    Options = ImprovableGapV1RLOptions
    options: ImprovableGapV1RLOptions

    def __init__(
        self, num_tasks: int, options: ImprovableGapV1RLOptions, generator: torch.Generator | None = None
    ) -> None:
        gaps = ImprovableGaps("igb_v1_rl", num_tasks, options.gap_source, options.target_returns)
        super().__init__(num_tasks, "igb_v1_rl", options, gaps.episodic, generator)
        self.gaps = gaps
        self.register_buffer("last_gaps", torch.ones(num_tasks))

    def watch(self, tasks: Tasks) -> None:
        self.gaps.watch(tasks)

    def decide(self, tasks: Tasks) -> Tensor:
        self.last_gaps = self.gaps.read(tasks).gaps
        return self.num_tasks * (self.last_gaps / self.options.temperature).softmax(-1)

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights: the gap of every task."""
        return {**super().diagnostics(), "gaps": self.last_gaps}
