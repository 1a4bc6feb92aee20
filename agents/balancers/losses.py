"""Weights that need no gradients and no history: unitary scalarization, static weights, random weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.balancers.base import Balancer, Tasks, register_balancer
from agents.errors import ConfigurationError, unknown_name


@register_balancer(
    "unitary", family="loss", cost="O(1)", paper="arXiv 2201.04122", summary="plain average of the task losses"
)
class Unitary(Balancer):
    """``weights = 1``: minimise the mean of the task losses (Kurin et al. 2022, equation 1).

    The paper minimises the sum; under Adam the factor K does not matter.
    """

    def forward(self, tasks: Tasks) -> Tensor:
        return torch.ones_like(tasks.losses)


@register_balancer("static", family="loss", cost="O(1)", paper="arXiv 2310.08910", summary="fixed weights, given by you")
class Static(Balancer):
    """Fixed weights, put on the scale of a mean: ``K * given / sum(given)`` (Royer et al. 2023, scalarization).

    :param weights: K numbers, not negative, not all zero; only their ratios matter
    """

    fixed: Tensor

    def __init__(self, num_tasks: int, weights: Sequence[float], generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        given = torch.as_tensor(list(weights), dtype=torch.float32)
        if len(given) != num_tasks:
            raise ConfigurationError(f"static needs {num_tasks} weights, one for each task, found {len(given)}.")
        if not bool(torch.isfinite(given).all()) or bool((given < 0).any()) or not bool(given.sum() > 0):
            raise ConfigurationError(
                f"static weights must be finite, not negative and not all zero, found {given.tolist()}."
            )
        self.register_buffer("fixed", given * num_tasks / given.sum())

    def forward(self, tasks: Tasks) -> Tensor:
        return self.fixed.to(tasks.losses)


@register_balancer(
    "rlw", family="loss", cost="O(1)", paper="arXiv 2111.10603", summary="random weights, drawn anew at every update"
)
class RandomLossWeighting(Balancer):
    """Weights ``K * softmax(z), z ~ N(0, I)``, or ``K * Dirichlet(1)`` (Lin et al. 2022, section 3).

    The paper's weights sum to one; these sum to K.

    :param distribution: ``normal`` or ``dirichlet``
    """

    def __init__(
        self, num_tasks: int, distribution: str = "normal", generator: torch.Generator | None = None
    ) -> None:
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
        return self.num_tasks * shares.to(tasks.losses)
