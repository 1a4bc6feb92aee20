"""Two objectives in the plane whose valleys and conflicts trap methods that follow the larger gradient.

The problem of Liu et al. 2021 (arXiv 2110.14048), also used by Nash-MTL and FAMO. Everything is batched over M starts:
points ``[M, 2]``, losses ``[M, 2]``, Jacobians ``[M, 2, 2]``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.balancers import Balancer, GivenTasks, Needs
from agents.balancing.tasks import UpdateContext
from agents.selection import Selection

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
LOWER = 5e-6
LOWEST = -21.0  # a lower bound of both losses, before the factor s of the first

Points = np.ndarray


def evaluate(points: Points, s: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Losses ``[M, 2]`` and Jacobians ``[M, 2, 2]``.

    :param points: ``[M, 2]``
    :param s: scale of the first objective
    """
    x1, x2 = points.T
    losses, jacobian = np.empty((len(points), 2)), np.empty((len(points), 2, 2))
    half = np.tanh(0.5 * x2)
    slope = 0.5 * (1 - half * half)
    upper, d_upper = np.maximum(half, 0), np.where(x2 >= 0, slope, 0)  # c1
    lower, d_lower = np.maximum(-half, 0), np.where(x2 <= 0, -slope, 0)  # c2
    bend = np.tanh(x2)
    gaps = (0.5 * (-x1 - 7) + bend, 0.5 * (-x1 + 3) - bend + 2)  # h1, h2
    turns = (1 - bend * bend, bend * bend - 1)  # dh/dx2
    for task, (gap, turn, centre, scale) in enumerate(zip(gaps, turns, (7.0, -7.0), (s, 1.0), strict=True)):
        size = np.abs(gap)
        valley = np.log(np.maximum(size, LOWER)) + 6  # f
        d_valley = np.where(size >= LOWER, 1 / np.where(gap == 0, 1.0, gap), 0.0)
        bowl = ((x1 - centre) ** 2 + 0.1 * (x2 + 8) ** 2) / 10 - 20  # q
        losses[:, task] = scale * (upper * valley + lower * bowl)
        jacobian[:, task, 0] = scale * (upper * d_valley * -0.5 + lower * 0.2 * (x1 - centre))
        jacobian[:, task, 1] = scale * (
            d_upper * valley + upper * d_valley * turn + d_lower * bowl + lower * 0.02 * (x2 + 8)
        )
    return losses, jacobian


def _front() -> tuple[np.ndarray, np.ndarray]:
    """The Pareto set, x2 as a function of x1 in [-7, 7], by bisection of the stationarity condition (any s)."""
    x1 = np.linspace(-7, 7, 281)
    low, high = np.full_like(x1, -9.0), np.full_like(x1, -8.0)
    for _ in range(50):
        x2 = 0.5 * (low + high)
        half = np.tanh(x2 / 2)
        bowl = (49 - x1**2 + 0.1 * (x2 + 8) ** 2) / 10 - 20
        excess = 0.02 * (x2 + 8) * -half - 0.5 * (1 - half**2) * bowl
        low, high = np.where(excess < 0, x2, low), np.where(excess < 0, high, x2)
    return x1, 0.5 * (low + high)


FRONT = _front()


def distance_to_front(points: Points) -> np.ndarray:
    """Distance ``[M]`` to the Pareto set, which is all but parallel to the first axis."""
    nearest = np.clip(points[:, 0], -7, 7)
    return np.hypot(points[:, 0] - nearest, points[:, 1] - np.interp(nearest, *FRONT))


@dataclass(frozen=True)
class Descent:
    """What became of M starts."""

    points: Points  # [M, 2], at the end
    arrivals: np.ndarray  # [M], first step within 0.1 of the front, -1 if never
    path: np.ndarray  # [T, M, 2]

    @property
    def reached(self) -> np.ndarray:
        """Whether each start came to the front, ``[M]``."""
        return self.arrivals >= 0


class _Adam:
    """Adam with the step size 0.001 of the published protocol, or `speed` such steps in one, memory included."""

    def __init__(self, shape: tuple[int, ...], speed: float) -> None:
        self.lr, self.beta1, self.beta2 = 1e-3 * speed, 0.9**speed, 0.999**speed
        self.mean, self.square, self.steps = np.zeros(shape), np.zeros(shape), 0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        self.steps += 1
        self.mean += (1 - self.beta1) * (gradient - self.mean)
        self.square += (1 - self.beta2) * (gradient * gradient - self.square)
        root = np.sqrt(self.square / (1 - self.beta2**self.steps)) + 1e-8
        return self.lr / (1 - self.beta1**self.steps) * self.mean / root


def descend(
    balancer: Balancer,
    starts: tuple[tuple[float, float], ...] = STARTS,
    *,
    steps: int = 50_000,
    s: float = 0.1,
    speed: float = 1.0,
    positive: bool = False,
    every: int = 25,
) -> Descent:
    """Follow a balancer's directions from all starts at once.

    :param balancer: made for two tasks; its state is spread over the M starts
    :param steps: of the published length
    :param speed: published steps made in one
    :param positive: feed losses counted from their lower bounds, for methods that take no others
    :param every: steps between two looks at the distance to the front
    """
    spread_state(balancer.double(), len(starts))
    points = np.array(starts)
    adam = _Adam(points.shape, speed)
    lowest = np.array([LOWEST * s, LOWEST]) - 1e-8 if positive else np.zeros(2)
    arrivals, path = np.full(len(starts), -1), [points.copy()]
    losses, jacobian = evaluate(points, s)
    for step in range(1, round(steps / speed) + 1):
        points -= adam.step(_direction(balancer, losses - lowest, jacobian, step - 1))
        losses, jacobian = evaluate(points, s)
        if Needs.SECOND_LOOK in balancer.needs:
            balancer.observe(torch.from_numpy(losses - lowest))
        if step % every == 0:
            arrivals = np.where((arrivals < 0) & (distance_to_front(points) < 0.1), round(step * speed), arrivals)
            path.append(points.copy())
    return Descent(points, arrivals, np.stack(path))


def _direction(balancer: Balancer, losses: np.ndarray, jacobian: np.ndarray, step: int) -> np.ndarray:
    context = UpdateContext(Selection.whole(2), step=step, temperatures=torch.ones(2, dtype=torch.float64))
    tasks = GivenTasks(torch.from_numpy(losses), torch.from_numpy(jacobian), context=context)
    balanced = balancer.balance(tasks)
    if balanced.direction is not None:
        return balanced.direction.numpy()
    return np.asarray((balanced.weights.numpy()[..., None] * jacobian).sum(1) / 2)


def spread_state(balancer: Balancer, starts: int) -> None:
    """Give each of M starts a copy of the balancer's state: buffers ``[..., K]`` become ``[M, ..., K]``."""
    for module in balancer.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if isinstance(buffer, Tensor) and buffer.dim() > 0:
                setattr(module, name, buffer.expand(starts, *buffer.shape).clone())
