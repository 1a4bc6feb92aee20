"""Dynamic weight average: more weight to the tasks whose losses fall slowly."""

import torch
from torch import Tensor

from agents.balancing.balancer import Needs, Weighting
from agents.balancing.options import require_positive, require_whole
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks


@register_balancer(
    "dwa",
    family="loss",
    cost="O(1)",
    paper="arXiv 1803.10704",
    summary="softmax of how fast each loss has fallen between two windows",
)
class DynamicWeightAverage(Weighting):
    """``weights = K softmax(r / T)``, r = mean loss of a window / of the one before (Liu et al. 2019, eq. 7).

    The paper's windows are epochs; ours are consecutive runs of updates. The paper's weights sum to K as ours do, and
    multiply a sum: its direction is K times ours. Ones until both windows are full.
    Differs from the authors' code: windows of 1000 updates, for the noise of temporal-difference losses (published
    iteration variants take 25), and no weighting from a half-filled window.

    :param iteration_window: updates in a window; longer is steadier and later
    :param temperature: T; higher is closer to equal weights
    """

    needs = Needs.POSITIVE_LOSSES
    history: Tensor
    seen: Tensor

    def __init__(
        self,
        num_tasks: int,
        iteration_window: int = 1000,
        temperature: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole("dwa", 1, iteration_window=iteration_window)
        require_positive("dwa", temperature=temperature)
        self.window, self.temperature = iteration_window, temperature
        self.register_buffer("history", torch.zeros(2 * iteration_window, num_tasks))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, tasks: Tasks) -> Tensor:
        newest = tasks.losses.unsqueeze(-2).to(self.history)
        self.history = torch.cat([self.history[..., 1:, :], newest], dim=-2)
        self.seen += 1
        before, last = self.history.split(self.window, dim=-2)
        ratios = last.mean(-2) / before.mean(-2)
        weights = self.num_tasks * (ratios / self.temperature).softmax(-1)
        return torch.where(self.seen >= 2 * self.window, weights, 1.0).to(tasks.losses)
