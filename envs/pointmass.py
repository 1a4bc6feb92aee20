"""A toy suite whose tasks conflict by construction: K points to reach from the same states; only the id says which.

A point in the plane starts near the origin and moves by ``0.1 * speed[k] * action`` per step. The target of task k
lies on the unit circle at angle ``2 pi k / K``: tasks k and k + K/2 ask for opposite actions in every state between
them. The reward is ``scale[k] * exp(-distance)``, with scales spread by a factor of 100, so the plain mean of the
losses hears one task only. Vectorised over all N environments: a vector step costs tens of microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from gymnasium import spaces

from .backend import LocalBackend
from .checks import check_horizon, check_integer, check_number
from .episodes import StepArrays, goal_generator
from .faults import Fault
from .simulation import Simulation
from .suite import TaskSuite, observation_box

STEP_LENGTH = 0.1  # units per step at full action
ARENA = 1.5  # the point stays within [-1.5, 1.5] on both axes
START = 0.25  # episodes start uniformly within [-0.25, 0.25] on both axes
RADIUS = 0.15  # of success around the target of an easy task
IMAGE_SIZE = 96


class PointMasses(LocalBackend):
    """N point masses in one process; the backend of the suite's vector environment. Its state can be saved at any step.

    :param suite: the K tasks.
    :param simulation: how many points, from which seed, for how many steps.
    """

    saved_whole = True

    def __init__(self, suite: PointMassSuite, simulation: Simulation) -> None:
        self.schedules, self.seed = suite.schedules(simulation), simulation.seed
        self.horizon, self.stop_at_success = suite.horizons_of_tasks(simulation.horizon)[0], simulation.stop_at_success
        num_envs, num_tasks = len(self.schedules), suite.num_tasks
        self.arrays = StepArrays(num_envs, 2 + num_tasks, 2)
        self.arrays.judged[:] = True
        task = np.arange(num_envs) % num_tasks  # of each environment
        self.targets, self.scales = suite.targets[task], suite.scales[task]  # [N, 2], [N]
        self.step_lengths, self.radii = STEP_LENGTH * suite.speeds[task, None], suite.radii[task]  # [N, 1], [N]
        self.positions = np.zeros((num_envs, 2))  # [N, 2]
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._solved = np.zeros(num_envs, np.bool_)

    def reset(self, seed: int | None = None) -> list[Fault]:
        """Begin an episode everywhere; ``seed`` restarts the goal streams first."""
        for schedule in self.schedules:
            if seed is not None:
                schedule.reseed(seed)
            schedule.restart()
        self._begin(range(len(self.schedules)))
        return []

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> list[Fault]:
        """Begin an episode of a new stream of goals in some environments."""
        for row, seed in zip(rows, seeds, strict=True):
            self.schedules[row].reseed(seed)
        self._begin(rows)
        return []

    def _begin(self, rows: Sequence[int]) -> None:
        for i in rows:
            self._place(i, self.schedules[i].advance())

    def _place(self, i: int, goal: int) -> None:
        generator = goal_generator(self.seed, self.schedules[i].task, goal)
        self.positions[i] = generator.uniform(-START, START, 2)
        self.arrays.observations[i, :2] = self.positions[i]
        self.arrays.goals[i] = goal
        self._returns[i], self._lengths[i], self._solved[i] = 0.0, 0, False

    def wait_step(self) -> list[Fault]:
        """One step of all environments; nothing can go wrong with a point."""
        arrays = self.arrays
        self.positions += self.step_lengths * np.clip(arrays.actions, -1.0, 1.0)
        np.clip(self.positions, -ARENA, ARENA, out=self.positions)
        distances = np.linalg.norm(self.positions - self.targets, axis=1)  # [N]
        arrays.observations[:, :2] = self.positions
        arrays.rewards[:] = self.scales * np.exp(-distances)
        arrays.success[:] = distances <= self.radii
        self._solved |= arrays.success
        arrays.solved[:] = self._solved
        self._returns += arrays.rewards
        self._lengths += 1
        arrays.truncated[:] = self._lengths >= self.horizon
        if self.stop_at_success:
            arrays.truncated |= arrays.success
        if arrays.truncated.any():
            self._finish(np.flatnonzero(arrays.truncated))
        return []

    def _finish(self, rows: np.ndarray) -> None:
        arrays = self.arrays
        arrays.terminal[rows] = arrays.observations[rows]
        arrays.returns[rows], arrays.lengths[rows] = self._returns[rows], self._lengths[rows]
        arrays.ended_goals[rows] = arrays.goals[rows]
        self._begin(rows.tolist())

    def simulator(self, row: int) -> PointMasses:
        """This object: its attributes are shared by all N."""
        return self

    def do_state(self, row: int) -> dict[str, Any]:
        """The state of a point and of its episode, and which goals come."""
        return {
            **self.schedules[row].state(),
            "length": int(self._lengths[row]),
            "position": self.positions[row].tolist(),
            "return": float(self._returns[row]),
            "solved": bool(self._solved[row]),
        }

    def do_load_state(self, row: int, state: dict[str, Any]) -> None:
        """Continue the saved episode where it was."""
        self.schedules[row].load_state(state)
        self._place(row, self.schedules[row].resumed())
        self.positions[row] = self.arrays.observations[row, :2] = state["position"]
        self._returns[row], self._lengths[row], self._solved[row] = state["return"], state["length"], state["solved"]

    def do_render(self, row: int) -> np.ndarray:
        """The arena from above: the target green, the point blue."""
        image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 255, np.uint8)
        axis = np.linspace(-ARENA, ARENA, IMAGE_SIZE)
        x, y = np.meshgrid(axis, -axis)
        for centre, radius, colour in (
            (self.targets[row], max(self.radii[row], 0.05), (60, 160, 60)),
            (self.positions[row], 0.06, (40, 40, 200)),
        ):
            image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2] = colour
        return image


class PointMassSuite(TaskSuite):
    """The suite; see the module's docstring and :func:`make_pointmass`."""

    def __init__(
        self, num_tasks: int, horizon: int, reward_scale_spread: float, difficulty: float, num_goals: int
    ) -> None:
        angles = 2.0 * np.pi * np.arange(num_tasks) / num_tasks
        self.targets = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [K, 2]
        rank = np.linspace(0.0, 1.0, num_tasks) if num_tasks > 1 else np.array([0.5])
        self.scales = float(reward_scale_spread) ** (rank - 0.5)  # [K], geometric mean 1
        # The hardest task is the one with the smallest rewards: only balancing brings it out.
        self.speeds = 1.0 - 0.6 * difficulty * (1.0 - rank)
        self.radii = RADIUS * (1.0 - 0.6 * difficulty * (1.0 - rank))
        names = tuple(f"point-{k}" for k in range(num_tasks))
        bound = np.full(2, ARENA)
        super().__init__(
            name="pointmass",
            task_names=names,
            observation_space=observation_box(-bound, bound, num_tasks),
            action_space=spaces.Box(-1.0, 1.0, (2,), np.float32),
            horizon=horizon,
            protocol={
                "suite": "pointmass",
                "tasks": list(names),
                "horizon": horizon,
                "reward_scale_spread": float(reward_scale_spread),
                "difficulty": float(difficulty),
                "goals": f"{num_goals} starts per task, fixed by the seed" if num_goals else "fresh starts",
                "num_goals": num_goals,
                "success": "within the radius of the target at any step of the episode",
                "versions": {"numpy": version("numpy")},
            },
            num_goals=num_goals,
            solved_returns=self._straight_returns,
        )

    def _straight_returns(self, horizons: Sequence[int]) -> list[float]:
        """Returns of the straight way from the origin to the target at full speed."""
        # Each axis has its own limit, so that a diagonal step is longer.
        lengths = STEP_LENGTH * self.speeds / np.abs(self.targets).max(1)
        ways = [np.arange(1, horizon + 1) * length for horizon, length in zip(horizons, lengths, strict=True)]
        rewards = [np.exp(-np.maximum(1.0 - way, 0.0)).sum() for way in ways]
        return [float(scale * reward) for scale, reward in zip(self.scales, rewards, strict=True)]

    def make_backend(self, simulation: Simulation) -> PointMasses:
        """All points at once. A process more would cost more than all the steps: `workers` is accepted and not used."""
        return PointMasses(self, simulation)


def make_pointmass(
    num_tasks: int = 4,
    horizon: int = 50,
    reward_scale_spread: float = 100.0,
    difficulty: float = 0.0,
    num_goals: int = 50,
) -> PointMassSuite:
    """The point-mass suite.

    :param num_tasks: K, at least 1; an even number gives every task an exact opponent.
    :param horizon: steps per episode; 10 suffice to reach a target of an easy task.
    :param reward_scale_spread: largest over smallest reward scale, at least 1.
    :param difficulty: 0 makes all tasks equally hard; towards 1, the tasks with small rewards get slower (0.4 of the
        speed) and their targets smaller (0.4 of the radius).
    :param num_goals: start positions per task; 0 for fresh ones without end.
    :raises SuiteError: for an option out of range.
    """
    check_integer("num_tasks", num_tasks, least=1)
    check_horizon(horizon, None, "pointmass")
    check_integer("num_goals", num_goals, least=0)
    check_number("reward_scale_spread", reward_scale_spread, least=1)
    check_number("difficulty", difficulty, least=0, most=1)
    return PointMassSuite(num_tasks, horizon, reward_scale_spread, difficulty, num_goals)
