"""Weights without a memory: unitary, random, scale-invariant, geometric mean, temperatures."""

import torch
from torch import Tensor

from agents.balancing.balancer import BalancerError, Needs, Weighting
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks
from agents.errors import unknown_name


@register_balancer(
    "unitary", family="loss", cost="O(1)", paper="arXiv 2201.04122", summary="plain average of the task losses"
)
class Unitary(Weighting):
    """``weights = 1``: minimise the mean of the task losses (Kurin et al. 2022, equation 1).

    The paper minimises the sum; under Adam the factor K does not matter.
    """

    def forward(self, tasks: Tasks) -> Tensor:
        return torch.ones_like(tasks.losses)


@register_balancer(
    "rlw", family="loss", cost="O(1)", paper="arXiv 2111.10603", summary="new random weights at every update"
)
class RandomLossWeighting(Weighting):
    """Weights ``K * softmax(z), z ~ N(0, I)``, or ``K * Dirichlet(1)`` (Lin et al. 2022, section 3).

    The paper's weights sum to one; these sum to K.

    :param distribution: ``normal`` or ``dirichlet``
    """

    def __init__(self, num_tasks: int, distribution: str = "normal", generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        if distribution not in ("normal", "dirichlet"):
            raise unknown_name("rlw distribution", distribution, ("normal", "dirichlet"))
        self.distribution = distribution

    def forward(self, tasks: Tasks) -> Tensor:
        if self.distribution == "normal":
            shares = torch.randn(self.num_tasks, generator=self.generator).softmax(0)
        else:
            # Independent Exp(1) variables, divided by their sum, are uniform on the simplex.
            waits = torch.empty(self.num_tasks).exponential_(generator=self.generator)
            shares = waits / waits.sum()
        return self.num_tasks * shares.to(tasks.losses, non_blocking=True)


@register_balancer(
    "scale_invariant",
    family="loss",
    cost="O(1)",
    paper="arXiv 2202.01017",
    summary="log losses: weights 1 / loss cancel the scale of every task",
)
class ScaleInvariant(Weighting):
    """Minimise ``sum_k log l_k``: ``weights = 1 / l`` (baseline of Navon et al. 2022).

    The published direction (a sum) is K times ours. Multiplying a loss by a constant changes nothing.
    Differs from the authors' code: losses that are not positive are refused, so there is no epsilon.
    """

    needs = Needs.POSITIVE_LOSSES

    @property
    def cancels_weights(self) -> str:
        return "the gradient of a log loss has no scale"

    def forward(self, tasks: Tasks) -> Tensor:
        return 1 / tasks.losses


@register_balancer(
    "gls",
    family="loss",
    cost="O(1)",
    paper="arXiv 1904.08492",
    summary="geometric mean of the losses",
)
class GeometricLoss(Weighting):
    """Minimise ``L = (prod_k l_k)^(1/K)``: ``weights = L / l`` (Chennupati et al. 2019).

    Exactly the paper's scale. The direction of `scale_invariant`, with a length that shrinks as any one loss vanishes.
    """

    needs = Needs.POSITIVE_LOSSES

    @property
    def cancels_weights(self) -> str:
        return "the geometric mean weighs every loss by its inverse"

    def forward(self, tasks: Tasks) -> Tensor:
        logs = tasks.losses.log()
        return (logs.mean(-1, keepdim=True) - logs).exp()


@register_balancer(
    "temperature",
    family="loss",
    cost="O(1)",
    paper="arXiv 2003.13661",
    summary="more weight to tasks whose entropy temperature has fallen",
)
class TemperatureWeights(Weighting):
    """``weights = K softmax(-log alpha)`` of SAC's task temperatures (Yang et al. 2020).

    Exactly the paper's scale. A shared temperature gives equal weights.
    Differs from the authors' code: they weigh samples inside the losses, which is the same for a stratified batch.
    """

    def forward(self, tasks: Tasks) -> Tensor:
        temperatures = tasks.context.temperatures
        if temperatures is None:
            raise BalancerError("temperature weighs tasks by their entropy temperatures, and this agent has none.")
        return self.num_tasks * (-temperatures.log()).softmax(-1).to(tasks.losses)
