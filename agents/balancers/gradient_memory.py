"""Task gradients that a method remembers, as state of the module."""

from typing import Any

import torch
from torch import Tensor, nn

from agents.balancers.base import Balancer, Tasks


class GradientMemory(nn.Module):
    """Moving averages of the K task gradients ``rows [K, P]``; empty until the first update tells P.

    :param num_tasks: K
    """

    rows: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(num_tasks, 0))

        self.updates = 0

    def gradients_of(self, balancer: Balancer, tasks: Tasks) -> Tensor:
        """The task gradients ``[K, P]`` of this update.

        :raises BalancerError: for a gradient that is not finite
        """
        gradients = tasks.jacobian.detach()
        norms = gradients.norm(dim=-1)
        balancer.refuse(~norms.isfinite(), norms, "needs finite gradients", getattr(tasks, "task_names", ()))
        return gradients

    @torch.no_grad()
    def blend(self, gradients: Tensor, share: float) -> Tensor:
        """Move the memory towards ``gradients [K, P]`` by a share of the way, from zero at the start; returns it."""
        if self.rows.shape[-1] == 0:
            self.rows = torch.zeros_like(gradients)
        return self.rows.lerp_(gradients.to(self.rows), share).to(gradients)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None:
            self.rows = self.rows.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
