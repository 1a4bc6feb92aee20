"""What the gradient-space methods have in common: weights from the K x K Gramian, checked input, counted fallbacks."""

import torch
from torch import Tensor

from agents.balancing.balancer import Needs, Weighting
from agents.balancing.solvers import diagonal
from agents.balancing.tasks import Tasks


class GramianWeighting(Weighting):
    """A method whose task weights depend on the gradients through their inner products alone.

    A subclass implements `weigh`. The K x K problem is solved on the host in float64, whatever the agent's device and
    precision: it is too small for an accelerator. One task leaves nothing to balance and always has weight 1. Where a
    degenerate Gramian has no solution, the update falls back to unitary weights and `diagnostics` counts it. It works
    on any subset of the tasks; a subclass with state for each task names it in `task_buffers`.
    """

    needs = Needs.GRAMIAN
    fallbacks: Tensor
    conflicts: Tensor

    def __init__(self, num_tasks: int, generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        self.register_buffer("fallbacks", torch.zeros((), dtype=torch.int64))
        self.register_buffer("conflicts", torch.zeros(()))  # of the Gramian seen last

    def forward(self, tasks: Tasks) -> Tensor:
        gramian = self.inspect(tasks)
        if gramian.shape[-1] == 1:
            return torch.ones_like(tasks.losses)
        weights = self.weigh(gramian, torch.finfo(tasks.gramian.dtype).eps)
        usable = weights.isfinite().all(-1, keepdim=True)
        self.fallbacks += (~usable).sum().to(self.fallbacks)
        return torch.where(usable, weights, torch.ones_like(weights)).to(tasks.losses)

    def weigh(self, gramian: Tensor, precision: float) -> Tensor:
        """Task weights ``[..., K]`` on the scale of a mean; not finite where the method has no answer.

        :param gramian: ``[..., K, K]`` in float64 on the host, finite
        :param precision: relative accuracy with which its entries are known
        """
        raise NotImplementedError

    def inspect(self, tasks: Tasks) -> Tensor:
        """The Gramian in float64 on the host.

        :raises BalancerError: for a gradient that is not finite
        """
        gramian = tasks.gramian.detach().to("cpu").to(torch.float64)
        norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
        bad = ~norms.isfinite()
        if not bool(bad.any()):
            bad = ~gramian.isfinite().all(-1)
        self.refuse(bad, norms, "needs finite gradients", tasks)
        self.conflicts = conflict_share(gramian).to(self.conflicts)
        return gramian

    def diagnostics(self) -> dict[str, Tensor]:
        """Beside the weights: updates that fell back to unitary weights, and the share of task pairs in conflict."""
        return {**super().diagnostics(), "fallbacks": self.fallbacks, "conflict_share": self.conflicts}


def conflict_share(gramian: Tensor) -> Tensor:
    """Part of the task pairs whose gradients have a negative inner product; 0 without pairs."""
    if gramian.shape[-1] == 1:
        return torch.zeros(())
    size = gramian.shape[-1]
    return (gramian < 0).double().mean() * size / (size - 1)


def per_unit_gradient(weights: Tensor, gramian: Tensor) -> Tensor:
    """Weights of unit gradients as weights of the gradients themselves; a zero gradient keeps its weight.

    :param weights: ``[..., K]``
    """
    norms = diagonal(gramian).sqrt()
    return torch.where(norms > 0, weights / norms, weights)
