"""Many small multitask runs at once: R runs of a stacked SAC on K point masses each, to measure rules of allocation.

A run costs about a CPU-second, so that rules can be told apart over many seeds. The tasks are those of the point-mass
suite, made unequal: a hard task turns actions by an angle that depends on the place, an unreachable one has a wall
before its target. Shapes: R runs, K tasks, B samples per group, H units per layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STEP_LENGTH, ARENA, START, RADIUS = 0.1, 1.5, 0.25, 0.15  # as in the point-mass suite
HORIZON = 20
WALL = 0.6  # how far from the origin an unreachable task lets a point come
EVALUATIONS = 8  # starts per task
GAMMA, TAU, RATE, CLIP, ALPHA_RATE, UNITS, SAMPLES = 0.9, 0.02, 3e-3, 1.0, 3e-3, 32, 8


@dataclass(frozen=True)
class Tasks:
    """The tasks of R runs; all ``[R, K]``.

    :param twist: 0 is easy; 1 turns actions by ``pi sin(4x + 2.8y)``
    :param speed: of the point, 1 at most
    :param radius: of success
    :param scale: of the rewards
    :param reachable: False puts a wall before the target
    """

    twist: Tensor
    speed: Tensor
    radius: Tensor
    scale: Tensor
    reachable: Tensor

    @property
    def targets(self) -> Tensor:
        """``[R, K, 2]``, on the unit circle."""
        angles = 2 * math.pi * torch.arange(self.twist.shape[1]) / self.twist.shape[1]
        return torch.stack([angles.cos(), angles.sin()], -1).expand(*self.twist.shape, 2)

    @property
    def known_returns(self) -> Tensor:
        """Return of the straight way from the origin at full speed ``[R, K]``: the bound that a suite knows."""
        steps = torch.arange(1, HORIZON + 1).view(-1, 1, 1)
        direction = self.targets.abs().amax(-1)  # a diagonal step is longer
        distances = (1 - steps * STEP_LENGTH * self.speed / direction).clamp(min=0)
        return self.scale * (-distances).exp().sum(0)


class Points:
    """Point masses of R runs, K tasks and C copies of each: positions ``[R, K, C, 2]``."""

    def __init__(self, tasks: Tasks, copies: int, generator: torch.Generator) -> None:
        self.tasks, self.copies, self.generator = tasks, copies, generator
        self.targets, self.wide = tasks.targets.unsqueeze(2), {}
        for name in ("twist", "speed", "radius", "scale", "reachable"):
            self.wide[name] = getattr(tasks, name).unsqueeze(2)
        self.reset()

    def reset(self) -> None:
        """All episodes begin."""
        shape = (*self.tasks.twist.shape, self.copies, 2)
        self.positions = (2 * torch.rand(shape, generator=self.generator) - 1) * START
        self.returns = torch.zeros(shape[:-1])
        self.solved = torch.zeros(shape[:-1], dtype=torch.bool)

    def step(self, actions: Tensor) -> Tensor:
        """Rewards ``[R, K, C]`` of ``actions [R, K, C, 2]``."""
        x, y = self.positions.unbind(-1)
        angle = math.pi * self.wide["twist"] * (4 * x + 2.8 * y).sin()
        a, b = actions.unbind(-1)
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack([cos * a - sin * b, sin * a + cos * b], -1)
        moved = (self.positions + STEP_LENGTH * self.wide["speed"].unsqueeze(-1) * turned).clamp(-ARENA, ARENA)
        inside = moved * (WALL / moved.norm(dim=-1, keepdim=True).clamp(min=WALL))
        self.positions = torch.where(self.wide["reachable"].unsqueeze(-1), moved, inside)
        distances = (self.positions - self.targets).norm(dim=-1)
        rewards = self.wide["scale"] * (-distances).exp()
        self.returns = self.returns + rewards
        self.solved |= distances <= self.wide["radius"]
        return rewards


class Stacked:
    """R networks of two hidden layers as one flat parameter set ``[R, P]``, with its Adam."""

    def __init__(self, runs: int, inputs: int, outputs: int, norm: bool, generator: torch.Generator) -> None:
        self.shapes = [(inputs, UNITS), (1, UNITS), (UNITS, UNITS), (1, UNITS), (UNITS, outputs), (1, outputs)]
        self.sizes = [a * b for a, b in self.shapes]
        parts = []
        for index, (rows, columns) in enumerate(self.shapes):
            bound = 1 / math.sqrt(self.shapes[index - index % 2][0])
            parts.append((2 * torch.rand(runs, rows * columns, generator=generator) - 1) * bound)
        self.flat, self.norm = torch.cat(parts, 1).requires_grad_(), norm
        self.first, self.second, self.steps = torch.zeros_like(self.flat), torch.zeros_like(self.flat), 0

    def __call__(self, inputs: Tensor, flat: Tensor | None = None) -> Tensor:
        """``[R, n, inputs] -> [R, n, outputs]``."""
        flat = self.flat if flat is None else flat
        parts = [p.view(-1, *s) for p, s in zip(flat.split(self.sizes, 1), self.shapes, strict=True)]
        hidden = inputs
        for layer in (0, 2):
            hidden = torch.baddbmm(parts[layer + 1], hidden, parts[layer])
            hidden = torch.nn.functional.layer_norm(hidden, (UNITS,)) if self.norm else hidden
            hidden = hidden.relu()
        return torch.baddbmm(parts[5], hidden, parts[4])

    def descend(self, loss: Tensor, members: int = 1) -> None:
        """One clipped Adam step of all R networks; `members` of them belong to one run and are clipped together."""
        (gradient,) = torch.autograd.grad(loss, self.flat)
        with torch.no_grad():
            norms = gradient.view(-1, members * gradient.shape[1]).norm(dim=1)
            factors = (CLIP / norms.clamp(min=CLIP)).repeat_interleave(members)
            gradient = gradient * factors.unsqueeze(1)
            self.steps += 1
            self.first.lerp_(gradient, 0.1)
            self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = RATE / (1 - 0.9**self.steps)
            root = (self.second / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
            self.flat.addcdiv_(self.first, root, value=-size)


class StackedSAC:
    """SAC of R runs: an actor and twin critics each, on states with a one-hot of the task."""

    def __init__(self, runs: int, num_tasks: int, steps: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.runs, self.num_tasks = runs, num_tasks
        size = 2 + num_tasks
        self.actor = Stacked(runs, size, 4, False, self.generator)
        self.critic = Stacked(2 * runs, size + 2, 1, True, self.generator)
        self.target = self.critic.flat.detach().clone()
        self.log_alpha = torch.full((runs, num_tasks), math.log(0.1))
        self.memory = torch.zeros(runs, num_tasks, steps, 7)  # state, action, reward, next state
        self.stored, self.eye = 0, torch.eye(num_tasks)

    def act(self, positions: Tensor, deterministic: bool = False) -> Tensor:
        """Actions ``[R, K, C, 2]``."""
        runs, tasks, copies, _ = positions.shape
        hot = self.eye.view(1, tasks, 1, tasks).expand(runs, tasks, copies, tasks)
        with torch.no_grad():
            out = self.actor(torch.cat([positions, hot], -1).flatten(1, 2)).view(runs, tasks, copies, 4)
            mean, log_std = out.split(2, -1)
            if deterministic:
                return mean.tanh()
            noise = torch.randn(mean.shape, generator=self.generator)
            return (mean + log_std.clamp(-5, 1).exp() * noise).tanh()

    def store(self, states: Tensor, actions: Tensor, rewards: Tensor, following: Tensor) -> None:
        """One transition of every task."""
        self.memory[:, :, self.stored] = torch.cat([states, actions, rewards.unsqueeze(-1), following], -1)
        self.stored += 1

    def _policy(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(inputs).split(2, -1)
        log_std = log_std.clamp(-5, 1)
        noise = torch.randn(mean.shape, generator=self.generator)
        raw = mean + log_std.exp() * noise
        squash = 2 * (math.log(2) - raw - torch.nn.functional.softplus(-2 * raw))
        log_probability = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - squash).sum(-1)
        return raw.tanh(), log_probability

    def _values(self, inputs: Tensor, actions: Tensor, flat: Tensor | None = None) -> Tensor:
        """``[R, 2, n]``."""
        both = torch.cat([inputs, actions], -1).repeat_interleave(2, 0)
        return self.critic(both, flat).view(self.runs, 2, -1)

    def update(self, weights: Tensor) -> None:
        """One update; the K groups of every run go to tasks in proportion to ``weights [R, K]`` of sum K."""
        runs, tasks = self.runs, self.num_tasks
        task = draw_tasks(weights, self.generator)  # [R, K]
        index = torch.randint(self.stored, (runs, tasks, SAMPLES), generator=self.generator)
        row = torch.arange(runs).view(-1, 1, 1)
        of = task.unsqueeze(-1).expand(runs, tasks, SAMPLES)
        batch = self.memory[row, of, index].flatten(1, 2)  # [R, n, 7]
        hot = self.eye[of.flatten(1)]
        states, following = (torch.cat([part, hot], -1) for part in (batch[..., :2], batch[..., 5:]))
        alpha = self.log_alpha.exp().gather(1, of.flatten(1))
        with torch.no_grad():
            actions, log_probability = self._policy(following)
            value = self._values(following, actions, self.target).amin(1) - alpha * log_probability
            target = batch[..., 4] + GAMMA * value
        errors = self._values(states, batch[..., 2:4]) - target.unsqueeze(1)
        self.critic.descend(errors.square().mean(-1).sum(), members=2)
        actions, log_probability = self._policy(states)
        value = self._values(states, actions, self.critic.flat.detach()).amin(1)
        self.actor.descend((alpha * log_probability - value).mean(-1).sum())
        with torch.no_grad():
            excess = torch.zeros(runs, tasks).scatter_add_(1, of.flatten(1), log_probability.detach() - 2.0)
            self.log_alpha = (self.log_alpha - ALPHA_RATE * (excess / SAMPLES).clamp(-1, 1) * -1.0).clamp(-6, 1)
            self.target.lerp_(self.critic.flat, TAU)

    def evaluate(self, tasks: Tasks, seed: int) -> Tensor:
        """Success of the deterministic policy ``[R, K]``."""
        points = Points(tasks, EVALUATIONS, torch.Generator().manual_seed(seed))
        for _ in range(HORIZON):
            points.step(self.act(points.positions, deterministic=True))
        return points.solved.float().mean(-1)


def draw_tasks(weights: Tensor, generator: torch.Generator) -> Tensor:
    """The task of each of K groups ``[R, K]``, by systematic sampling as in the toolkit."""
    tasks = weights.shape[1]
    ends = weights.cumsum(1)
    ends = ends * (tasks / ends[:, -1:])
    offsets = torch.rand(len(weights), 1, generator=generator)
    points = (torch.arange(tasks) + offsets).contiguous()
    return torch.searchsorted(ends.contiguous(), points).clamp(max=tasks - 1)


@dataclass(frozen=True)
class Window:
    """What a decision is made from; all ``[R, K]``.

    :param success: of the window's own episodes
    :param returns: mean return of the window's own episodes
    :param random: mean return of random actions
    :param known: the bound that the suite knows
    """

    success: Tensor
    returns: Tensor
    random: Tensor
    known: Tensor

    @property
    def gaps(self) -> Tensor:
        """Mean of the return gap and the success gap, each in [0, 1]."""
        gap = ((self.known - self.returns) / (self.known - self.random)).clamp(0, 1)
        return 0.5 * (gap + 1 - self.success)


Rule = Callable[[int, Window, float], Tensor]  # (number of the decision, window, budget used) -> weights [R, K]


def train(tasks: Tasks, rule: Rule, seed: int, steps: int = 2400, hold: int = 120) -> Tensor:
    """Train R runs with a rule of allocation; success ``[n, R, K]`` after each of its n holds.

    :param hold: updates for which a decision is held; a multiple of the horizon is not needed
    """
    runs, num_tasks = tasks.twist.shape
    agent = StackedSAC(runs, num_tasks, steps + 10 * HORIZON, seed)
    points = Points(tasks, 1, torch.Generator().manual_seed(seed + 1))
    known = tasks.known_returns
    # Random actions first: ten episodes of every task.
    sums, wins, count = torch.zeros(runs, num_tasks), torch.zeros(runs, num_tasks), 0
    random, weights, successes = torch.zeros(runs, num_tasks), torch.ones(runs, num_tasks), []
    decisions, since = 0, 0
    for step in range(steps + 10 * HORIZON):
        learning = step >= 10 * HORIZON
        if learning:
            if since % hold == 0:
                window = Window(wins / count, sums / count, random, known)
                weights = rule(decisions, window, (step - 10 * HORIZON) / steps)
                decisions, sums, wins, count = decisions + 1, torch.zeros_like(sums), torch.zeros_like(wins), 0
            since += 1
            actions = agent.act(points.positions)
        else:
            actions = 2 * torch.rand(runs, num_tasks, 1, 2, generator=agent.generator) - 1
        states = points.positions
        rewards = points.step(actions)
        agent.store(*(part.squeeze(2) for part in (states, actions, rewards, points.positions)))
        if (step + 1) % HORIZON == 0:
            sums, wins, count = sums + points.returns.squeeze(2), wins + points.solved.squeeze(2), count + 1
            points.reset()
            if step + 1 == 10 * HORIZON:
                random = sums / count
        if learning:
            agent.update(weights)
            if since % hold == 0:
                successes.append(agent.evaluate(tasks, seed + 2 + since))
    return torch.stack(successes)
