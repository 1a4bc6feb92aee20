"""Improvable gap balancing in closed form: more weight where more is left to gain. The learned agent is `igb_rl`."""

import torch
from torch import Tensor

from agents.balancers.igb.decided import DecidedWeights, DecisionOptions
from agents.balancers.igb.rule import Situation, shares_of, with_floor
from agents.balancing.balancer import Needs, Weighting
from agents.balancing.options import require_whole
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

    @property
    def cancels_weights(self) -> str:
        return "it works on log losses, whose gradients have no scale"

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses
        gaps = (losses / self.base.mean.to(losses)).clamp(max=torch.finfo(losses.dtype).max)
        importance = torch.where(self.base.ready, self.num_tasks * gaps.softmax(-1), 1.0)
        self.base.observe(losses)
        return importance / losses


@register_balancer(
    "igb_v1_rl",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="budget in proportion to the improvable gap, with patience: the closed form of igb_rl",
)
class ImprovableGapV1RL(DecidedWeights):
    """``weights = (1 - floor) K share + floor``, ``share ~ gap * interest``: the budget goes where the gap is.

    The gap of a task is the mean of how far its returns and its success are from solved, in the training episodes since
    the last decision. Interest falls while budget is spent on a task whose gap stands still, and returns when it moves:
    a task that nothing can solve does not swallow the budget. By default the weights say how much of every batch a task
    gets. Also the control that says what the learned agent of `igb_rl` adds to a fixed rule.
    Differs from the paper: gaps of training episodes instead of loss ratios; shares of the samples instead of weights
    of log losses; proportional to the gap instead of its softmax; held for hundreds of updates.
    """

    Options = DecisionOptions

    def __init__(self, num_tasks: int, options: DecisionOptions, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, "igb_v1_rl", options, generator)

    def decide(self, situation: Situation) -> Tensor:
        return with_floor(shares_of(situation.gaps, situation.interest), self.options.floor)


@register_balancer(
    "igb_rl_random",
    family="loss",
    cost="O(1)",
    paper="arXiv 2111.10603",
    summary="control of igb_rl: the weights of the closed form, dealt to tasks at random",
)
class ImprovableGapRandom(DecidedWeights):
    """The weights of `igb_v1_rl` at every decision, each given to a task drawn at random: equal entropy, no knowledge.

    A gain of `igb_rl` or `igb_v1_rl` over this control is due to which tasks they favour, not to weights that move.
    """

    Options = DecisionOptions

    def __init__(self, num_tasks: int, options: DecisionOptions, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, "igb_rl_random", options, generator)

    def decide(self, situation: Situation) -> Tensor:
        order = torch.randperm(self.num_tasks, generator=self.generator)
        return with_floor(shares_of(situation.gaps, situation.interest), self.options.floor)[order]
