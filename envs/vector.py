"""MultiTaskVecEnv: K tasks x copies environments as one Stable-Baselines3 VecEnv."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from .episodes import GoalSchedule, StepArrays
from .errors import EnvironmentFault, SuiteError, check_seed
from .faults import Fault, RestartBudget, rows_of


class Backend(Protocol):
    """What moves the environments: an :class:`~envs.block.EnvBlock`, a worker pool, or a vectorised simulator."""

    arrays: StepArrays

    @property
    def workers(self) -> int: ...  # processes; 0 where this one simulates

    def reset(self, seed: int | None = None) -> list[Fault]: ...
    def start_step(self) -> None: ...
    def wait_step(self) -> list[Fault]: ...
    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> list[Fault]: ...
    def call(self, method: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]: ...
    def close(self) -> None: ...


class MultiTaskVecEnv(VecEnv):
    """N = K x copies environments; environment i belongs to task ``task_of_env[i] = i % K`` and is copy ``i // K``.

    So ``observations.reshape(copies, K, -1)`` is a view by copy and task. Observations are float32 [N, S + K]: the
    state (zero-padded to S), then the one-hot task; rewards float32 [N]; dones bool [N]. Environments reset by
    themselves. ``infos[i]`` holds ``success`` (this step) and ``TimeLimit.truncated`` at every step, and at the end of
    an episode also ``terminal_observation``, ``is_success`` (success at any step), ``success_at_end``, ``goal`` (its
    number) and ``episode`` as SB3's Monitor writes it (``r`` raw return, ``l`` length in steps, ``t`` seconds since
    construction).

    An environment that fails is built anew as long as `max_restarts` allows, with a fresh stream of goals. The step
    that was lost is reported as one that changed nothing and was cut off: the last state and the last reward again,
    truncated, with the sentence about it as ``infos[i]["fault"]`` and without ``episode`` and ``is_success``, since no
    episode came to its end. So it is bootstrapped through, and no statistic counts it.

    :param task_names: the K task names.
    :param copies: environments per task.
    :param observation_space: float32 Box [S + K].
    :param action_space: float32 Box [A].
    :param horizon: longest episode in steps.
    :param backend: what moves the environments; this object closes it.
    :param render_mode: ``None`` or ``"rgb_array"``.
    :param seed: from which the fresh streams of goals come.
    :param max_restarts: faults to get over before one ends the vector.
    :ivar workers: simulating processes; 0 where this one simulates.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        copies: int,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        horizon: int,
        backend: Backend,
        render_mode: str | None = None,
        seed: int = 0,
        max_restarts: int = 0,
    ) -> None:
        self.task_names = tuple(task_names)
        self.num_tasks = len(self.task_names)
        self.copies = copies
        self.horizon = horizon
        self.task_of_env = np.tile(np.arange(self.num_tasks), copies)
        self._backend, self._arrays = backend, backend.arrays
        self.workers = backend.workers
        self._requested_render_mode = render_mode
        self._pending = self._closed = False
        self._seed = seed
        self._next_seed: int | None = None
        self.restarts = RestartBudget(self.task_names, max_restarts)
        self._fresh = False
        self._left: dict[str, Any] | None = None  # the state to go on from, of a vector that a fault has ended
        self._started = time.time()
        super().__init__(self.num_tasks * copies, observation_space, action_space)
        one_hot = np.eye(self.num_tasks, dtype=np.float32)[self.task_of_env]
        self._arrays.observations[:, -self.num_tasks :] = one_hot
        self._before = (self._arrays.observations.copy(), self._arrays.rewards.copy())

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
        self._seed = self._seed if seed is None else seed
        self._recover(self._guard(self._backend.reset, seed), "reset")
        self._fresh = True
        self.reset_infos = [{"goal": int(goal)} for goal in self._arrays.goals]
        self._reset_seeds()
        self._reset_options()
        return self._arrays.observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step; with workers it runs while the caller goes on.

        :param actions: [N, A] within the action space.
        """
        self._check_open()
        if self._pending:
            raise RuntimeError("step_async was called twice without step_wait in between")
        self._take_actions(np.asarray(actions))
        for kept, now in zip(self._before, (self._arrays.observations, self._arrays.rewards), strict=True):
            kept[:] = now  # a step that is lost will be reported as one that changed nothing
        self._guard(self._backend.start_step)
        self._pending = True

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step: observations [N, S + K], rewards [N], dones [N], infos."""
        self._check_open()
        if not self._pending:
            raise RuntimeError("step_wait was called without step_async")
        faults = self._guard(self._backend.wait_step)
        self._pending = False
        arrays = self._arrays
        lost = self._recover(faults, "step")
        for i in lost:
            self._report_lost_step(i)
        dones = arrays.terminated | arrays.truncated
        self._fresh = bool(dones.all())
        infos = self._infos(dones, lost)
        return arrays.observations.copy(), arrays.rewards.copy(), dones, infos

    def _report_lost_step(self, i: int) -> None:
        arrays, (observations, rewards) = self._arrays, self._before
        arrays.terminal[i], arrays.rewards[i] = observations[i], rewards[i]
        arrays.terminated[i], arrays.truncated[i] = False, True
        arrays.success[i] = arrays.solved[i] = False

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

        Simulators that are not saved begin their episodes anew, so all of them must have just been reset, as all of
        Meta-World's are when their common horizon ends. The point masses are saved whole, and can be at any step.
        """
        return not self.ended_by_fault and (self._fresh or getattr(self._backend, "saved_whole", False))

    @property
    def ended_by_fault(self) -> bool:
        """Whether a fault has ended this vector, and :meth:`state_dict` tells how another one can go on."""
        return self._left is not None

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: goal, episode count and generator of each environment, and the faults so far.

        After the fault that no restart was left for, it is what a restart would have made: the environments concerned
        have new streams of goals, the others begin their episodes again.
        """
        if self._left is not None:
            return self._left
        self._check_idle("state")
        try:
            return self._state(self._backend.call("state", range(self.num_envs)), self.restarts)
        except EnvironmentFault as fault:  # a worker has died since the last step: the next one gets over it
            self._fresh = False
            return self._state_without(fault.rows, self.restarts)

    def _state(self, envs: list[dict[str, Any]], restarts: RestartBudget) -> dict[str, Any]:
        return {"task_names": list(self.task_names), "envs": envs, "restarts": restarts.state_dict()}

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
        for index, saved in enumerate(state["envs"]):
            faults += self._guard(self._backend.call, "load_state", [index], saved)
        self.restarts.load_state_dict(state["restarts"])
        self._recover([fault for fault in faults if fault is not None], "reset")
        self._next_seed = None
        self._fresh = True
        self.reset_infos = [{"goal": int(goal)} for goal in self._arrays.goals]
        return self._arrays.observations.copy()

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

    def _call(self, method: str, rows: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        self._check_idle(method)
        return self._guard(self._backend.call, method, rows, *args, **kwargs)

    def _check_idle(self, method: str) -> None:
        self._check_open()
        if self._pending:
            raise RuntimeError(f"{method} was called between step_async and step_wait; call step_wait first")

    def _guard(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call into the backend; after a fault nothing of it can be trusted, so it is closed."""
        try:
            return function(*args, **kwargs)
        except EnvironmentFault:
            self.close()
            raise

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        return [int(index) for index in self._get_indices(indices)]

    def _drain(self) -> None:
        if self._pending:
            self._pending = False
            self._recover(self._guard(self._backend.wait_step), "step")

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this vector environment is closed; build a new one with make_vec_env")

    def _take_actions(self, actions: np.ndarray) -> None:
        if actions.shape != self._arrays.actions.shape:
            raise SuiteError(f"actions must have shape {self._arrays.actions.shape}, found {actions.shape}")
        self._arrays.actions[:] = actions
        if not np.isfinite(self._arrays.actions).all():
            i = int(np.flatnonzero(~np.isfinite(self._arrays.actions).all(axis=1))[0])
            raise SuiteError(
                f"the action of environment {i} (task {self._task(i)!r}) must be finite, found {actions[i].tolist()}"
            )

    def _recover(self, faults: list[Fault], when: str) -> dict[int, str]:
        """Build anew what failed, until all environments stand at the beginning or within an episode.

        :param faults: those that the backend noticed
        :return: what happened, by row of every environment that was built anew
        :raises EnvironmentFault: when no restart is left
        """
        lost: dict[int, str] = {}
        faults = faults + self._not_finite(when, except_rows=rows_of(faults))
        while faults:
            for fault in faults:
                self._spend(fault, rows_of(faults))
                lost |= dict.fromkeys(fault.rows, fault.sentence)
            rows = rows_of(faults)
            seed = self.restarts.fresh_seed(self._seed)
            faults = self._guard(self._backend.restart, rows, [seed] * len(rows))
            faults += self._not_finite("reset", except_rows=rows_of(faults))
        return lost

    def _spend(self, fault: Fault, failed: Sequence[int]) -> None:
        """Count a fault; where it is one too many, end the vector, and leave what another one can go on from.

        :param failed: the environments that nothing can be asked of now
        """
        try:
            self.restarts.spend(fault)
        except EnvironmentFault:
            if not getattr(self._backend, "saved_whole", False):
                self._left = self._state_without(failed, self.restarts.after(fault))
            self.close()
            raise

    def _state_without(self, failed: Sequence[int], restarts: RestartBudget) -> dict[str, Any]:
        seed = restarts.fresh_seed(self._seed)
        states = [
            GoalSchedule(self._task(i), i // self.num_tasks, self.copies, 0, "random", seed).state()
            for i in range(self.num_envs)
        ]
        healthy = [i for i in range(self.num_envs) if i not in failed]
        # Where one more of them fails now, all begin with new goals.
        with contextlib.suppress(EnvironmentFault):
            for i, known in zip(healthy, self._backend.call("state", healthy), strict=True):
                states[i] = known
        return self._state([{**state, "length": state.get("length", 0)} for state in states], restarts)

    def _not_finite(self, when: str, except_rows: Sequence[int]) -> list[Fault]:
        """One fault for every environment with a number that is not finite."""
        arrays, everywhere = self._arrays, np.arange(self.num_envs)
        parts = [("an observation", arrays.observations, everywhere)]
        if when == "step":
            ended = np.flatnonzero(arrays.terminated | arrays.truncated)
            parts += [("a reward", arrays.rewards, everywhere), ("an observation", arrays.terminal[ended], ended)]
        faults: dict[int, Fault] = {}
        for what, values, rows in parts:
            if np.isfinite(values).all():
                continue
            for place in np.argwhere(~np.isfinite(values)).tolist():
                i, value = int(rows[place[0]]), values[tuple(place)]
                if i in except_rows or i in faults:
                    continue
                entry = f" at entry {place[1]}" if values.ndim > 1 else ""
                who = f"task {self._task(i)!r} (environment {i})"
                sentence = f"{who} returned {what} that is not finite in {when}: {value}{entry}"
                faults[i] = Fault((i,), (self._task(i),), sentence)
        return list(faults.values())

    def _task(self, index: int) -> str:
        return self.task_names[self.task_of_env[index]]
