"""MultiTaskVecEnv: K tasks x copies environments as one Stable-Baselines3 VecEnv."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from .backend import Backend, Request
from .checks import check_seed
from .errors import EnvironmentFault, SuiteError
from .faults import Fault
from .recovery import Recovery
from .simulation import Simulation

if TYPE_CHECKING:
    from .suite import TaskSuite


class MultiTaskVecEnv(VecEnv):
    """N = K x copies environments; environment i belongs to task ``task_of_env[i] = i % K`` and is copy ``i // K``.

    So ``observations.reshape(copies, K, -1)`` is a view by copy and task. Observations are float32 [N, S + K]: the
    state (zero-padded to S), then the one-hot task; rewards float32 [N]; dones bool [N]. Environments reset by
    themselves. ``infos[i]`` holds ``success`` (this step) and ``TimeLimit.truncated`` at every step, and at the end of
    an episode also ``terminal_observation``, ``is_success`` (success at any step), ``success_at_end``,
    ``success_is_judged`` (False where the environment has never said whether it succeeds), ``goal`` (its number) and
    ``episode`` as SB3's Monitor writes it (``r`` raw return, ``l`` length in steps, ``t`` seconds since construction).

    An environment that fails is rebuilt as long as `max_restarts` allows, with a fresh stream of goals. The step that
    was lost is reported as one that changed nothing and was cut off: the last state and the last reward again,
    truncated, with the sentence about it as ``infos[i]["fault"]`` and without ``episode`` and ``is_success``, since no
    episode came to its end. So it is bootstrapped through, and no statistic counts it.

    :param suite: the K tasks and their spaces.
    :param simulation: how many environments, from which seed, with how many restarts.
    :param backend: what moves the environments; this object closes it.
    :ivar task_names: the K task names.
    :ivar task_of_env: int [N], the task of each environment.
    :ivar action_sizes: numbers of an action of each task; those that follow in the A are padding.
    :ivar horizon: longest episode in steps.
    :ivar workers: simulating processes; 0 where this one simulates.
    :ivar restarts: the faults so far (``total``, and ``by_task``), a :class:`~envs.faults.RestartBudget`.
    """

    def __init__(self, suite: TaskSuite, simulation: Simulation, backend: Backend) -> None:
        self.task_names, self.num_tasks = tuple(suite.task_names), suite.num_tasks
        self.action_sizes = suite.sizes_of_actions()
        self.copies = simulation.copies
        self.horizon = max(suite.horizons_of_tasks(simulation.horizon))
        self.task_of_env = np.tile(np.arange(self.num_tasks), self.copies)
        self._backend, self._arrays = backend, backend.arrays
        self.workers = backend.workers
        self._requested_render_mode = simulation.render_mode
        self._pending = self._closed = False
        self._next_seed: int | None = None
        self._fresh = False  # all episodes have just begun
        self._started = time.time()
        super().__init__(self.num_tasks * self.copies, suite.observation_space, suite.action_space)
        one_hot = np.eye(self.num_tasks, dtype=np.float32)[self.task_of_env]
        self._arrays.observations[:, -self.num_tasks :] = one_hot
        self._recovery = Recovery(self.task_names, backend, simulation.seed, simulation.max_restarts)
        self.restarts = self._recovery.restarts

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Restart, at the next reset, every environment's stream of goals from ``seed``; ``None`` changes nothing.

        What the goals of a task *are* stays fixed by the seed given to ``make_vec_env``, so that an agent's seed (SB3
        passes it on to its environment) does not change the task.

        :return: one entry per environment: the seed.
        """
        if seed is not None:
            self._next_seed = check_seed(seed)
        return [seed] * self.num_envs

    def reset(self) -> np.ndarray:
        """Begin an episode everywhere (a sweep starts again) and return the observations [N, S + K]."""
        self._check_open()
        self._drain()
        seed, self._next_seed = self._next_seed, None
        if seed is not None:
            self._recovery.seed = seed
        with self._closed_by_a_fault():
            self._recovery.after_reset(self._backend.reset(seed))
        observations = self._begun()
        self._reset_seeds()
        self._reset_options()
        return observations

    def _begun(self) -> np.ndarray:
        self._fresh = True
        self.reset_infos = [{"goal": int(goal)} for goal in self._arrays.goals]
        return self._arrays.observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step; with workers it runs while the caller does something else.

        :param actions: [N, A] within the action space.
        """
        self._check_open()
        if self._pending:
            raise RuntimeError("step_async was called twice without step_wait in between")
        self._take_actions(np.asarray(actions))
        self._recovery.remember()
        with self._closed_by_a_fault():
            self._backend.start_step()
        self._pending = True

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step: observations [N, S + K], rewards [N], dones [N], infos."""
        self._check_open()
        if not self._pending:
            raise RuntimeError("step_wait was called without step_async")
        lost = self._finish_step()
        arrays = self._arrays
        dones = arrays.terminated | arrays.truncated
        self._fresh = bool(dones.all())
        infos = self._infos(dones, lost)
        return arrays.observations.copy(), arrays.rewards.copy(), dones, infos

    def _finish_step(self) -> dict[int, str]:
        """Wait for the step; returns what happened, by row of every environment whose step was lost."""
        self._pending = False
        with self._closed_by_a_fault():
            return self._recovery.after_step(self._backend.wait_step())

    def _infos(self, dones: np.ndarray, lost: Mapping[int, str]) -> list[dict[str, Any]]:
        arrays = self._arrays
        infos: list[dict[str, Any]] = [
            {"success": success, "TimeLimit.truncated": truncated}
            for success, truncated in zip(arrays.success.tolist(), arrays.truncated.tolist(), strict=True)
        ]
        for i in np.flatnonzero(dones).tolist():
            info = infos[i]
            info["terminal_observation"] = arrays.terminal[i].copy()
            self.reset_infos[i] = {"goal": int(arrays.goals[i])}
            if i in lost:
                info["fault"] = lost[i]
                continue
            info["is_success"] = bool(arrays.solved[i])
            info["success_at_end"] = info["success"]
            info["success_is_judged"] = bool(arrays.judged[i])
            info["goal"] = int(arrays.ended_goals[i])
            info["episode"] = {
                "r": round(float(arrays.returns[i]), 6),
                "l": int(arrays.lengths[i]),
                "t": round(time.time() - self._started, 6),
            }
        return infos

    @property
    def restorable(self) -> bool:
        """Whether :meth:`load_state_dict` would bring back exactly this moment.

        Simulators that are not saved whole begin their episodes again, so all of them must have just been reset, as all
        of Meta-World's are when their common horizon ends. The point masses can be restored at any step.
        """
        return not self.ended_by_fault and (self._fresh or self._backend.saved_whole)

    @property
    def ended_by_fault(self) -> bool:
        """Whether a fault has ended this vector, and :meth:`state_dict` is what another one can resume from."""
        return self._recovery.left is not None

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: goal, episode count and generator of each environment, and the faults so far.

        If a fault exhausted the restart budget, this is the state a restart would have produced: the environments
        concerned have new streams of goals, the others begin their episodes again.
        """
        if self._recovery.left is not None:
            return self._recovery.left
        self._check_idle("state")
        try:
            return self._recovery.state()
        except EnvironmentFault as fault:  # a worker has died since the last step: the next one gets over it
            self._fresh = False
            return self._recovery.state_without(fault.rows)

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Undo :meth:`state_dict`: every environment begins the episode of its saved goal.

        :return: the observations [N, S + K].
        :raises SuiteError: when the state is of other environments.
        """
        self._check_open()
        self._drain()
        if list(self.task_names) != list(state["task_names"]) or len(state["envs"]) != self.num_envs:
            raise SuiteError(
                f"the saved state is of {len(state['envs'])} environments of {state['task_names']}, "
                f"this vector has {self.num_envs} of {list(self.task_names)}"
            )
        faults: list[Fault | None] = []
        with self._closed_by_a_fault():
            for index, saved in enumerate(state["envs"]):
                faults += self._backend.call("load_state", [index], saved)
            self.restarts.load_state_dict(state["restarts"])
            self._recovery.after_reset([fault for fault in faults if fault is not None])
        self._next_seed = None
        return self._begun()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Attribute of the simulators themselves; see ``VecEnv``."""
        rows = self._rows(indices)
        if attr_name == "render_mode":  # asked for by VecEnv before anything is set up
            return [self._requested_render_mode] * len(rows)
        return self._call("get_attr", rows, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the simulators themselves; see ``VecEnv``."""
        self._call("set_attr", self._rows(indices), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the simulators themselves; see ``VecEnv``."""
        return self._call("env_method", self._rows(indices), method_name, *method_args, **kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Whether the environments are wrapped. True for SB3's Monitor, whose records are in the infos already."""
        rows = self._rows(indices)
        if issubclass(wrapper_class, Monitor):
            return [True] * len(rows)
        return self._call("is_wrapped", rows, wrapper_class)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One RGB image [H, W, 3] per environment; needs ``render_mode="rgb_array"``."""
        if self._requested_render_mode != "rgb_array":
            raise SuiteError(
                f"images need render_mode='rgb_array' in make_vec_env, found {self._requested_render_mode!r}"
            )
        return self._call("render", list(range(self.num_envs)))

    def close(self) -> None:
        """End the workers and free the simulators; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._backend.close()

    def _call(self, request: Request, rows: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        self._check_idle(request)
        with self._closed_by_a_fault():
            return self._backend.call(request, rows, *args, **kwargs)

    def _check_idle(self, method: str) -> None:
        self._check_open()
        if self._pending:
            raise RuntimeError(f"{method} was called between step_async and step_wait; call step_wait first")

    @contextlib.contextmanager
    def _closed_by_a_fault(self) -> Iterator[None]:
        """After a fault that nothing got over, the backend cannot be trusted, so it is closed."""
        try:
            yield
        except EnvironmentFault:
            self.close()
            raise

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        return [int(index) for index in self._get_indices(indices)]

    def _drain(self) -> None:
        if self._pending:
            self._finish_step()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this vector environment is closed; build a new one with make_vec_env")

    def _take_actions(self, actions: np.ndarray) -> None:
        if actions.shape != self._arrays.actions.shape:
            raise SuiteError(f"actions must have shape {self._arrays.actions.shape}, found {actions.shape}")
        self._arrays.actions[:] = actions
        if not np.isfinite(self._arrays.actions).all():
            i = int(np.flatnonzero(~np.isfinite(self._arrays.actions).all(axis=1))[0])
            task = self.task_names[self.task_of_env[i]]
            raise SuiteError(
                f"the action of environment {i} (task {task!r}) must be finite, found {actions[i].tolist()}"
            )
