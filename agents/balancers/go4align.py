"""GO4Align: tasks of similar weight move in groups."""

import torch
from torch import Tensor

from agents.balancing.balancer import Needs, Weighting
from agents.balancing.options import require_positive, require_whole
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks


@register_balancer(
    "go4align",
    family="loss",
    cost="O(1)",
    paper="arXiv 2404.06486",
    summary="scale-free weights with a risk memory, averaged within groups of tasks",
)
class Go4Align(Weighting):
    """``w_k = (sum_j l_j / l_k) p_k``, averaged in groups of tasks; ``p_k <- p_k exp(-step l_k)`` (Shen et al. 2024).

    p is normalised after every update. Groups are the clusters of k-means on w. With equal losses all weights are one;
    the authors' direction (a sum) is K times ours.
    Differs from the authors' code: k-means starts from quantiles instead of at random, so that it is deterministic,
    and p is kept as a logarithm.

    :param num_groups: clusters, at most K; one gives all tasks the mean weight
    :param robust_step_size: how fast p forgets tasks of large loss
    """

    needs = Needs.POSITIVE_LOSSES
    log_risks: Tensor

    def __init__(
        self,
        num_tasks: int,
        num_groups: int = 2,
        robust_step_size: float = 1e-4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_whole("go4align", 1, num_groups=num_groups)
        require_positive("go4align", robust_step_size=robust_step_size)
        self.num_groups = min(num_groups, num_tasks)
        self.step_size = robust_step_size
        self.register_buffer("log_risks", torch.zeros(num_tasks).log_softmax(0))

    def forward(self, tasks: Tasks) -> Tensor:
        losses = tasks.losses
        self.log_risks = (self.log_risks - self.step_size * losses).log_softmax(-1).to(self.log_risks)
        indicators = losses.sum(-1, keepdim=True) / losses * self.log_risks.exp()
        return group_means(indicators, self.num_groups).to(losses)


def group_means(values: Tensor, groups: int, iterations: int = 10) -> Tensor:
    """Every number of ``values [..., K]`` replaced by the mean of its cluster (Lloyd's k-means, from quantiles)."""
    quantiles = ((torch.arange(groups, device=values.device) + 0.5) / groups * values.shape[-1]).long()
    centres = values.sort(-1).values[..., quantiles]  # [..., G]
    for _ in range(iterations):
        nearest = (values.unsqueeze(-1) - centres.unsqueeze(-2)).abs().argmin(-1)
        members = torch.nn.functional.one_hot(nearest, groups).to(values)  # [..., K, G]
        sizes = members.sum(-2)
        means = (values.unsqueeze(-1) * members).sum(-2) / sizes.clamp(min=1)
        centres = torch.where(sizes > 0, means, centres)
    return centres.gather(-1, nearest)
