"""FAMO: fast adaptive multitask optimization."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.balancing.balancer import Needs, Weighting
from agents.balancing.buffer_adam import BufferAdam
from agents.balancing.options import require_not_negative, require_positive
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Tasks
from agents.errors import ConfigurationError

EPSILON = 1e-8


@register_balancer(
    "famo",
    family="loss",
    cost="O(1) + one forward pass",
    paper="arXiv 2306.03792",
    summary="equal relative improvement of all tasks, from a second look at the losses",
)
class FAMO(Weighting):
    """Improve all log losses at the same rate (Liu et al. 2023, algorithm 1).

    ``z = softmax(xi)``, ``weights_k = K c z_k / l_k`` with ``c = 1 / sum_k (z_k / l_k)``; after the step, Adam moves xi
    against ``(dz/dxi)^T (log l - log l') + gamma xi``: a task that improved more than the average loses weight.
    The paper's weights sum to one and multiply a sum, ours sum to K and multiply a mean: the same direction.
    The second look uses the same batch and the same targets.
    Differs from the authors' code: their RL program *multiplies* by ``sum_k (z_k / l_k)``, which makes the step scale
    like ``1 / l^2``; here it divides, as in the paper and their other programs. Defaults are those of their RL command.

    :param gamma: decay of xi; without it xi drifts
    :param lr: step size of xi
    :param min_losses: known lower bounds ``[K]`` of the losses; zero if not given
    """

    needs = Needs.POSITIVE_LOSSES | Needs.SECOND_LOOK
    logits: Tensor
    lowest: Tensor
    log_before: Tensor

    def __init__(
        self,
        num_tasks: int,
        gamma: float = 0.01,
        lr: float = 0.025,
        min_losses: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        require_not_negative("famo", gamma=gamma)
        require_positive("famo", lr=lr)
        lowest = torch.zeros(num_tasks) if min_losses is None else torch.tensor(list(min_losses), dtype=torch.float32)
        if len(lowest) != num_tasks:
            raise ConfigurationError(f"famo: min_losses needs {num_tasks} numbers, one per task, found {len(lowest)}.")
        self.register_buffer("lowest", lowest, persistent=False)
        self.register_buffer("logits", torch.zeros(num_tasks))
        self.register_buffer("log_before", torch.zeros(num_tasks))
        self.adam = BufferAdam(num_tasks, lr, weight_decay=gamma)

    def check(self, tasks: Tasks) -> None:
        self.refuse_unusable(tasks.losses - self.lowest, tasks)

    @property
    def cancels_weights(self) -> str:
        return "it works on log losses, whose gradients have no scale"

    def forward(self, tasks: Tasks) -> Tensor:
        self.log_before = (tasks.losses - self.lowest + EPSILON).log()
        # c z_k / l_k = softmax(xi - log l)_k: positive, and the sum is one
        return self.num_tasks * (self.logits - self.log_before).softmax(-1).to(tasks.losses)

    def observe(self, losses: Tensor) -> None:
        self.refuse_unusable(losses - self.lowest)
        improvement = self.log_before - (losses - self.lowest + EPSILON).log()
        shares = self.logits.softmax(-1)
        centred = improvement - (shares * improvement).sum(-1, keepdim=True)
        self.adam.step(self.logits, shares * centred)
