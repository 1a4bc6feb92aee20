"""Replay for many tasks: one ring per task, stratified samples.

A transition is one packed row (state, action, reward, next state, terminal), so that sampling is one gather of whole
rows and MT50 with 200 000 transitions per task takes 3.4 GB.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor

from agents.errors import ConfigurationError
from agents.selection import Selection


class ReplaySample(NamedTuple):
    """B transitions of each of K tasks; row k belongs to task k."""

    states: Tensor  # [K, B, S]
    actions: Tensor  # [K, B, A], scaled to [-1, 1]
    rewards: Tensor  # [K, B], raw
    next_states: Tensor  # [K, B, S]
    terminals: Tensor  # [K, B], 1 where the episode really ended: a time-out is 0


class TaskReplayBuffer:
    """One ring of transitions per task.

    :param buffer_size: transitions over all tasks; every task gets ``buffer_size // K``
    :param state_size: S, without the task's one-hot
    :param action_size: A
    :param task_of_env: task of each of the N environments ``[N]``
    :param generator: draws the samples; lives on the CPU
    :param device: where the rows live
    :raises ConfigurationError: if the rows would not fit into the free memory
    """

    def __init__(
        self,
        buffer_size: int,
        state_size: int,
        action_size: int,
        task_of_env: np.ndarray,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.task_of_env = np.asarray(task_of_env)
        self.num_tasks = int(self.task_of_env.max()) + 1
        self.copies = np.bincount(self.task_of_env, minlength=self.num_tasks)
        self.capacity = buffer_size // self.num_tasks
        if self.capacity < self.copies.max():
            raise ConfigurationError(
                f"buffer_size={buffer_size} leaves {self.capacity} transitions for each of {self.num_tasks} tasks: "
                f"it must hold at least {int(self.copies.max())} per task, one for each copy of the environment."
            )
        self.sizes = (state_size, action_size, 1, state_size, 1)
        self.generator = generator
        self.device = torch.device(device)
        _refuse_if_too_large(buffer_size, self.num_tasks * self.capacity * sum(self.sizes) * 4, self.device)
        self.rows = torch.empty(self.num_tasks, self.capacity, sum(self.sizes), device=self.device)
        self.position = np.zeros(self.num_tasks, dtype=np.int64)
        self.filled = np.zeros(self.num_tasks, dtype=np.int64)
        self.stored = np.zeros(self.num_tasks, dtype=np.int64)  # transitions ever stored, the overwritten ones included
        # The rank of an environment among the copies of its task: its place in the ring after `position`.
        self._rank = np.array([np.sum(self.task_of_env[:i] == task) for i, task in enumerate(self.task_of_env)])
        self._first_row = torch.arange(self.num_tasks)[:, None] * self.capacity

    def size(self) -> int:
        """Transitions stored for the task that has the fewest."""
        return int(self.filled.min())

    def add(
        self,
        observations: np.ndarray,
        next_observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: Sequence[dict[str, Any]],
    ) -> None:
        """Store one vector step, with SB3's arguments.

        :param observations: ``[N, S + K]``; the one-hot is dropped, the ring is the task
        :param next_observations: ``[N, S + K]``, with the last observation of an ended episode in its place
        :param actions: ``[N, A]`` scaled to [-1, 1]
        :param rewards: raw ``[N]``
        :param dones: ``[N]`` episode ended, for whatever reason
        :param infos: ``TimeLimit.truncated`` marks an end that is not a terminal state
        """
        timeouts = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        terminals = np.asarray(dones, dtype=bool) & ~timeouts
        state_size = self.sizes[0]
        rows = np.concatenate(
            (
                observations[:, :state_size],
                actions,
                np.asarray(rewards)[:, None],
                next_observations[:, :state_size],
                terminals[:, None],
            ),
            axis=1,
            dtype=np.float32,
        )
        slots = (self.position[self.task_of_env] + self._rank) % self.capacity
        index = torch.from_numpy(self.task_of_env * self.capacity + slots).to(self.device)
        self.rows.view(-1, self.rows.shape[-1])[index] = torch.from_numpy(rows).to(self.device)
        self.position = (self.position + self.copies) % self.capacity
        self.filled = np.minimum(self.filled + self.copies, self.capacity)
        self.stored += self.copies

    def sample(self, batch_size: int, selection: Selection | None = None) -> ReplaySample:
        """Draw ``B = batch_size / K`` transitions of every task, independently and with replacement.

        :param batch_size: transitions over all tasks
        :param selection: the tasks to draw, None for all; B stays as it is
        :raises ConfigurationError: if it is not a multiple of K, or if a task has no transition yet
        """
        samples = samples_per_task(batch_size, self.num_tasks)
        if self.size() == 0:
            raise ConfigurationError(f"Task {int(self.filled.argmin())} has no transition to sample: store some first.")
        filled, first_row = torch.from_numpy(self.filled)[:, None], self._first_row
        if selection is not None and not selection.is_whole:
            filled, first_row = filled[selection.task], first_row[selection.task]
        uniform = torch.rand(len(filled), samples, generator=self.generator, dtype=torch.float64)
        slots = (uniform * filled).long()
        index = (slots + first_row).view(-1).to(self.device, non_blocking=True)
        rows = self.rows.view(-1, self.rows.shape[-1]).index_select(0, index).view(len(filled), samples, -1)
        states, actions, rewards, next_states, terminals = rows.split(self.sizes, dim=-1)
        return ReplaySample(states, actions, rewards.squeeze(-1), next_states, terminals.squeeze(-1))

    def rows_between(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """A copy of the transitions number ``first[k]`` to ``last[k] - 1`` of every task, in the order of storing.

        :param first: of each task ``[K]``, counted from 0 as `stored` does; not overwritten yet
        :param last: the number after the last one ``[K]``
        :return: packed rows, task after task ``[sum(last - first), 2 S + A + 2]``
        """
        rows = self.rows.view(-1, self.rows.shape[-1])
        return rows.index_select(0, self._places(first, last)).cpu().numpy()

    def put_back(self, first: np.ndarray, last: np.ndarray, rows: np.ndarray) -> None:
        """Put what `rows_between` gave where `add` would have put it; older transitions first.

        :raises ConfigurationError: for rows of another size
        """
        if rows.dtype != np.float32 or rows.shape != (int((last - first).sum()), self.rows.shape[-1]):
            raise ConfigurationError(
                f"{int((last - first).sum())} transitions of {self.rows.shape[-1]} float32 numbers each were expected, "
                f"found {rows.dtype} {list(rows.shape)}."
            )
        newest = np.maximum(first, last - self.capacity)  # a smaller ring keeps the newest ones
        kept = np.concatenate([np.arange(a, b) >= c for a, b, c in zip(first, last, newest, strict=True)])
        source = torch.from_numpy(rows if kept.all() else rows[kept])
        self.rows.view(-1, self.rows.shape[-1])[self._places(newest, last)] = source.to(self.device)

    def resume(self, stored: np.ndarray, capacity: int) -> None:
        """Continue after `put_back`, as if the transitions had been stored here.

        :param stored: transitions ever stored of each task ``[K]``
        :param capacity: of the ring that they were stored in
        :raises ConfigurationError: for a larger ring than one that had overwritten transitions
        """
        if self.capacity > capacity and (stored > capacity).any():
            raise ConfigurationError(
                f"A full ring of {capacity} transitions per task cannot continue as one of {self.capacity}."
            )
        self.stored = stored.astype(np.int64)
        self.position = self.stored % self.capacity
        self.filled = np.minimum(self.stored, self.capacity)

    def _places(self, first: np.ndarray, last: np.ndarray) -> Tensor:
        """Rows of the flat ring that hold the transitions number ``first[k]`` to ``last[k] - 1``."""
        slots = [
            k * self.capacity + np.arange(a, b) % self.capacity
            for k, (a, b) in enumerate(zip(first, last, strict=True))
        ]
        return torch.from_numpy(np.concatenate(slots)).to(self.device)


def samples_per_task(batch_size: int, num_tasks: int) -> int:
    """``B = batch_size / K``.

    :raises ConfigurationError: if `batch_size` is not a positive multiple of K
    """
    if batch_size <= 0 or batch_size % num_tasks:
        near = max(1, round(batch_size / num_tasks)) * num_tasks
        raise ConfigurationError(
            f"batch_size={batch_size} counts the transitions of all {num_tasks} tasks and must be a positive "
            f"multiple of {num_tasks}, such as {near}."
        )
    return batch_size // num_tasks


def _refuse_if_too_large(buffer_size: int, needed: int, device: torch.device) -> None:
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        raise ConfigurationError(
            f"A replay buffer of {buffer_size:,} transitions needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB of "
            f"memory are free on {device}: choose buffer_size of at most {int(buffer_size * 0.8 * free / needed):,}."
        )
