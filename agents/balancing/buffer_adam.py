"""Adam whose state lies in buffers, for the few numbers that a balancer learns.

A balancer's `state_dict` then holds all there is, and a restored balancer continues identically.
"""

import torch
from torch import Tensor, nn


class BufferAdam(nn.Module):
    """Adam on one tensor (Kingma & Ba 2015, algorithm 1), with L2 inside the gradient as in `torch.optim.Adam`.

    :param size: numbers learned
    :param lr: step size
    :param weight_decay: L2 coefficient, not decoupled
    :param per_task: there is one number for every task, and it counts its own steps, since a task may rest
    """

    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(
        self,
        size: int,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        per_task: bool = False,
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay, self.betas, self.epsilon = lr, weight_decay, betas, 1e-8
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.zeros(size))
        self.register_buffer("steps", torch.zeros(size if per_task else ()))
        self.task_buffers = dict.fromkeys(("mean", "square", "steps"), 1) if per_task else {}

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor) -> None:
        """Move `values` in place, one step against `gradient`; both ``[size]``."""
        gradient = (gradient + self.weight_decay * values).to(values)
        beta1, beta2 = self.betas
        self.steps += 1
        # Replaced, not changed in place: whoever kept the old ones can put them back.
        self.mean = torch.lerp(self.mean, gradient, 1 - beta1)
        self.square = torch.lerp(self.square, gradient.square(), 1 - beta2)
        mean = self.mean / (1 - beta1**self.steps)
        root = (self.square / (1 - beta2**self.steps)).sqrt()
        values -= self.lr * mean / (root + self.epsilon)
