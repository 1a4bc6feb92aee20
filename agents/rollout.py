"""Rollouts of many tasks: T steps of N environments, their advantages, and minibatches stratified by task.

Shapes: K tasks with C copies of the environment each, so N = K C; M = T C transitions per task.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.errors import ConfigurationError, unknown_name
from agents.selection import Selection

NORMALISATIONS = ("per_task", "all", "none")


class RolloutSample(NamedTuple):
    """B transitions of each of K tasks; row k belongs to task k."""

    states: Tensor  # [K, B, S]
    actions: Tensor  # [K, B, A], as the policy drew them: not clipped to the box
    log_probabilities: Tensor  # [K, B], of the actions under the policy that drew them
    values: Tensor  # [K, B], of the critic before this iteration
    advantages: Tensor  # [K, B]
    returns: Tensor  # [K, B], targets of the critic


class StateValue(Protocol):
    """What a critic of states offers."""

    def __call__(self, states: Tensor, task: Tensor) -> Tensor:
        """Values ``[G, B]`` of ``states [G, B, S]``, group g belonging to ``task[g]``."""


class TaskRollout:
    """T vector steps, stored as they come and handed out by task.

    :param num_steps: T
    :param state_size: S, without the task's one-hot
    :param action_size: A
    :param task_of_env: task of each of the N environments ``[N]``
    :param device: where values are computed and samples are handed out
    :raises ConfigurationError: if some tasks have more environments than others
    """

    def __init__(
        self, num_steps: int, state_size: int, action_size: int, task_of_env: np.ndarray, device: torch.device | str
    ) -> None:
        if num_steps < 1:
            raise ConfigurationError(f"A rollout needs at least one step, found num_steps={num_steps}.")
        copies = np.bincount(task_of_env)
        if (copies != copies[0]).any():
            raise ConfigurationError(
                f"A rollout needs equally many environments of every task, found between {copies.min()} and "
                f"{copies.max()}."
            )
        self.num_steps, self.num_tasks, self.copies = num_steps, len(copies), int(copies[0])
        self.device = torch.device(device)
        self.task = torch.arange(self.num_tasks, device=self.device)
        # Environments by task: row k lists those of task k.
        order = np.argsort(task_of_env, kind="stable").reshape(self.num_tasks, self.copies)
        self._envs_of_task, self._task_of_env = torch.from_numpy(order), np.asarray(task_of_env)
        self._place_of_env = self._envs_of_task.flatten().argsort()
        envs = len(task_of_env)
        self.states = torch.zeros(num_steps, envs, state_size)
        self.actions = torch.zeros(num_steps, envs, action_size)
        self.log_probabilities, self.rewards = torch.zeros(num_steps, envs), torch.zeros(num_steps, envs)
        self.ends = torch.zeros(num_steps, envs, dtype=torch.bool)  # the episode ended with this step
        self.terminals = torch.zeros(num_steps, envs, dtype=torch.bool)  # and that in a terminal state
        self.restart()

    def restart(self) -> None:
        """Forget all steps."""
        self.position = 0
        self._cuts: list[tuple[int, int]] = []  # step and environment of every time-out
        self._cut_states: list[np.ndarray] = []  # the last states of their episodes

    @property
    def full(self) -> bool:
        """Whether all T steps are stored."""
        return self.position == self.num_steps

    def add(
        self,
        observations: np.ndarray,
        actions: Tensor,
        log_probabilities: Tensor,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: Sequence[dict[str, Any]],
    ) -> None:
        """Store one vector step.

        :param observations: before the step ``[N, S + K]``; the one-hot is dropped
        :param actions: as the policy drew them ``[N, A]``
        :param log_probabilities: of these actions ``[N]``
        :param rewards: ``[N]``
        :param dones: whether the episode ended, for whatever reason ``[N]``
        :param infos: where an episode ended, SB3's ``terminal_observation`` and ``TimeLimit.truncated``
        """
        step, size = self.position, self.states.shape[-1]
        self.states[step] = torch.from_numpy(observations[:, :size])
        self.actions[step], self.log_probabilities[step] = actions, log_probabilities
        self.rewards[step] = torch.from_numpy(np.asarray(rewards))
        self.ends[step] = torch.from_numpy(np.asarray(dones, dtype=bool))
        self.terminals[step] = self.ends[step]
        for env in np.flatnonzero(dones).tolist():
            if infos[env].get("TimeLimit.truncated", False):
                self.terminals[step, env] = False
                self._cuts.append((step, env))
                self._cut_states.append(infos[env]["terminal_observation"][:size])
        self.position += 1

    @torch.no_grad()
    def evaluate(self, value: StateValue, observations: np.ndarray, gamma: float, gae_lambda: float) -> RolloutSample:
        """The whole rollout by task, with values, advantages and returns; copy after copy, each in order of time.

        A time-out is bootstrapped with the value of the last state of its episode, not of the reset one.

        :param value: the critic
        :param observations: after the last step ``[N, S + K]``
        :param gamma: discount factor
        :param gae_lambda: lambda of the advantages
        """
        size = self.states.shape[-1]
        states, last = self._by_task(self.states), self.grouped(torch.from_numpy(observations[:, :size]))
        values = value(states, self.task)  # [K, M]
        by_step = values.unflatten(1, (self.copies, -1)).movedim(2, 0)  # [T, K, C]
        after_last = value(last.to(self.device), self.task)  # [K, C]
        following = torch.cat((by_step[1:], after_last[None]))
        self._put_cut_values(value, following)
        rewards, ends, terminals = (self._by_step(part) for part in (self.rewards, self.ends, self.terminals))
        advantages = generalised_advantages(rewards, by_step, following, ends, terminals, gamma, gae_lambda)
        advantages = advantages.movedim(0, 2).flatten(1)
        actions, log_probabilities = self._by_task(self.actions), self._by_task(self.log_probabilities)
        return RolloutSample(states, actions, log_probabilities, values, advantages, advantages + values)

    def grouped(self, of_envs: Tensor) -> Tensor:
        """Of every environment as of every task: ``[N, ...] -> [K, C, ...]``."""
        return of_envs[self._envs_of_task]

    def ungrouped(self, of_tasks: Tensor) -> Tensor:
        """Undo `grouped`, on the host: ``[K, C, ...] -> [N, ...]``."""
        return of_tasks.flatten(0, 1).cpu()[self._place_of_env]

    def _put_cut_values(self, value: StateValue, following: Tensor) -> None:
        """Replace the value after each time-out, in ``following [T, K, C]``, by that of the episode's last state."""
        if not self._cuts:
            return
        steps, envs = torch.tensor(self._cuts).T
        states = torch.from_numpy(np.stack(self._cut_states)).to(self.states.dtype)
        tasks = torch.from_numpy(self._task_of_env)[envs].to(self.device)
        copies = self._place_of_env[envs] % self.copies
        values = value(states[:, None].to(self.device), tasks).squeeze(1)
        following[steps.to(self.device), tasks, copies.to(self.device)] = values

    def _by_step(self, part: Tensor) -> Tensor:
        """``[T, N] -> [T, K, C]``."""
        return part[:, self._envs_of_task].to(self.device)

    def _by_task(self, part: Tensor) -> Tensor:
        """``[T, N, ...] -> [K, C T, ...]``."""
        return part[:, self._envs_of_task].movedim(0, 2).flatten(1, 2).to(self.device)


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ends: Tensor,
    terminals: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Advantages ``A_t = delta_t + gamma lambda (1 - end_t) A_{t+1}``, all ``[T, ...]``.

    ``delta_t = r_t + gamma (1 - terminal_t) V(s_{t+1}) - V(s_t)``. Source: Schulman et al. 2016, arXiv 1506.02438.

    :param next_values: of the state that the step led to, also where the episode ended there
    :param ends: whether the episode ended with the step, for whatever reason
    :param terminals: whether it ended in a terminal state
    :param gamma: discount factor
    :param gae_lambda: lambda
    """
    deltas = torch.where(terminals, rewards, rewards + gamma * next_values) - values
    carry = torch.where(ends, 0.0, gamma * gae_lambda).to(deltas.dtype)
    advantages = torch.empty_like(deltas)
    advantage = torch.zeros_like(deltas[0])
    for step in range(len(deltas) - 1, -1, -1):
        advantage = torch.addcmul(deltas[step], carry[step], advantage)
        advantages[step] = advantage
    return advantages


def normalised(advantages: Tensor, how: str = "per_task") -> Tensor:
    """Advantages ``[K, B]`` of mean zero and variance one.

    :param how: within every task, ``per_task``; over ``all`` tasks; or ``none``
    """
    if how not in NORMALISATIONS:
        raise unknown_name("advantage normalisation", how, NORMALISATIONS)
    if how == "none":
        return advantages
    dims = (1,) if how == "per_task" else (0, 1)
    centred = advantages - advantages.mean(dims, keepdim=True)
    return centred / (advantages.std(dims, keepdim=True) + 1e-8)


def permutations(num_tasks: int, samples: int, generator: torch.Generator) -> Tensor:
    """An independent permutation of ``samples`` numbers for every task, ``[K, samples]``."""
    # Double precision: with as many float32 numbers, ties would favour the original order.
    uniform = torch.rand(num_tasks, samples, generator=generator, dtype=torch.float64, device=generator.device)
    return uniform.argsort(1)


def minibatch(
    sample: RolloutSample, order: Tensor, first: int, size: int, selection: Selection | None = None
) -> RolloutSample:
    """B transitions of a rollout ``[K, M]`` for each group of a selection ``[G, B]``; fewer where the order ends.

    A task with several groups gets the transitions that follow in its order, from the start again after the last.

    :param order: of every task's transitions ``[K, M]``, a permutation
    :param first: place in the order of the first transition
    :param size: B
    :param selection: which task each group is of; None for all K, in order
    """
    tasks, samples = order.shape
    selection = selection or Selection.whole(tasks)
    task = selection.on(order.device)[:, None]
    size = min(size, samples - first)
    start = first + size * selection.places.to(order.device)[:, None]
    places = (start + torch.arange(size, device=order.device)) % samples
    rows = (order[task, places] + task * samples).to(sample.returns.device)
    chosen = rows.flatten()
    return RolloutSample(*(part.flatten(0, 1).index_select(0, chosen).unflatten(0, rows.shape) for part in sample))


def minibatches(sample: RolloutSample, order: Tensor, size: int) -> Iterator[RolloutSample]:
    """Cut a rollout ``[K, M]`` into minibatches ``[K, size]`` of all tasks; the last one may be smaller.

    :param order: of every task's transitions ``[K, M]``, a permutation
    :param size: transitions per task
    """
    for first in range(0, order.shape[1], size):
        yield minibatch(sample, order, first, size)


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """``1 - Var[returns - values] / Var[returns]`` of every task ``[K]``; NaN where returns are constant.

    :param values: ``[K, B]``
    :param returns: ``[K, B]``
    """
    variance = returns.var(1, correction=0)
    ratio = (returns - values).var(1, correction=0) / variance
    return torch.where(variance > 0, 1 - ratio, torch.nan)
