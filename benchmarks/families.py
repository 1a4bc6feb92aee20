"""Families of point masses: what makes the tasks of a run unequal, drawn anew for every run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.stacked import RADIUS, Tasks

Family = Callable[[int, torch.Generator], Tasks]


def _tasks(twist: Tensor, speed: Tensor | None = None, scale: Tensor | None = None, blocked: int = 0) -> Tasks:
    """Tasks of given difficulty in random places; the last `blocked` of them before the dealing cannot be reached."""
    ones = torch.ones_like(twist)
    reachable = ones.bool()
    if blocked:
        reachable[:, -blocked:] = False
    return Tasks(twist, ones if speed is None else speed, RADIUS * ones, ones if scale is None else scale, reachable)


def _dealt(tasks: Tasks, generator: torch.Generator) -> Tasks:
    """The same tasks in an order of its own for every run."""
    order = torch.rand(tasks.twist.shape, generator=generator).argsort(1)
    return Tasks(
        *(getattr(tasks, name).gather(1, order) for name in ("twist", "speed", "radius", "scale", "reachable"))
    )


def _hard(runs: int, num_tasks: int, hard: int, twist: float = 1.0) -> Tensor:
    difficulty = torch.zeros(runs, num_tasks)
    difficulty[:, :hard] = twist
    return difficulty


def equal(runs: int, generator: torch.Generator) -> Tasks:
    """Four easy tasks."""
    return _tasks(_hard(runs, 4, 0))


def one_hard(runs: int, generator: torch.Generator) -> Tasks:
    """Three easy tasks and a hard one."""
    return _dealt(_tasks(_hard(runs, 4, 1)), generator)


def blocked(runs: int, generator: torch.Generator) -> Tasks:
    """Three easy tasks, a hard one, and one that nothing can solve."""
    return _dealt(_tasks(_hard(runs, 5, 1), blocked=1), generator)


def mixed(runs: int, generator: torch.Generator) -> Tasks:
    """Six tasks of any difficulty and speed, with rewards spread threefold around one."""
    twist, speed, scale = torch.rand(3, runs, 6, generator=generator)
    return _tasks(1.1 * twist, 0.7 + 0.3 * speed, 3.0 ** (2 * scale - 1))


def mixed_blocked(runs: int, generator: torch.Generator) -> Tasks:
    """Five tasks of any difficulty and speed, one of which nothing can solve."""
    twist, speed = torch.rand(2, runs, 5, generator=generator)
    return _dealt(_tasks(1.1 * twist, 0.7 + 0.3 * speed, blocked=1), generator)


def two_hard(runs: int, generator: torch.Generator) -> Tasks:
    """Held out: six easy tasks and two hard ones."""
    return _dealt(_tasks(_hard(runs, 8, 2)), generator)


def loud(runs: int, generator: torch.Generator) -> Tasks:
    """Held out: two easy tasks, and a hard one whose rewards are a third of theirs."""
    scale = torch.ones(runs, 3)
    scale[:, 0] = 1 / 3
    return _dealt(_tasks(_hard(runs, 3, 1, 0.9), scale=scale), generator)


def hard_and_blocked(runs: int, generator: torch.Generator) -> Tasks:
    """Held out: three easy tasks, two hard ones of unequal speed, and one that nothing can solve."""
    speed = torch.ones(runs, 6)
    speed[:, 1] = 0.8
    return _dealt(_tasks(_hard(runs, 6, 2, 0.9), speed=speed, blocked=1), generator)


TRAINED: dict[str, Family] = {f.__name__: f for f in (equal, one_hard, blocked, mixed, mixed_blocked)}
HELD_OUT: dict[str, Family] = {f.__name__: f for f in (two_hard, loud, hard_and_blocked)}
