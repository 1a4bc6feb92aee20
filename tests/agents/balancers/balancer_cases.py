"""Multitask problems for tests: losses and gradients as a balancer sees them."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def tasks_of(losses, jacobian=None, **extra):
    """What a balancer sees, with a Gramian and temperatures that fit."""
    losses = torch.as_tensor(losses)
    if jacobian is None:
        jacobian = torch.eye(len(losses), dtype=losses.dtype)
    return SimpleNamespace(
        losses=losses,
        jacobian=jacobian,
        gramian=jacobian @ jacobian.T,
        num_tasks=len(losses),
        temperatures=torch.linspace(0.1, 1.0, len(losses)).to(losses),
        step=0,
        **extra,
    )


def direction_of(balancer, tasks):
    """The update direction ``[P]`` of any balancer, on the scale of a mean over tasks."""
    if balancer.composes_direction:
        balancer.check(tasks)
        return balancer.direction(tasks)
    return balancer(tasks) @ tasks.jacobian / balancer.num_tasks


def random_tasks(num_tasks, num_parameters, seed, *, rank=None, scale=1.0, dtype=torch.float64, conflict=0.0):
    """Random positive losses and random gradients of a given rank and scale."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(num_tasks, num_parameters) if rank is None else rank
    left = torch.randn(num_tasks, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, num_parameters, generator=generator, dtype=torch.float64)
    losses = torch.randn(num_tasks, generator=generator, dtype=torch.float64).exp()
    return tasks_of(losses.to(dtype), (scale * (left @ right) / max(rank, 1) ** 0.5).to(dtype))
