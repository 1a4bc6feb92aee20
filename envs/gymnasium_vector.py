"""A Gymnasium ``VectorEnv`` as a Stable-Baselines3 ``VecEnv``: every step is one transition of each environment.

Gymnasium knows three ways of what follows the end of an episode. ``SAME_STEP`` returns the next episode's first
observation at once, as SB3 does, and the last one beside it. After ``NEXT_STEP`` and ``DISABLED`` the observation is
the last one, and the environments that have ended are reset here, so that ``NEXT_STEP``'s step without an action, which
would be learnt as a transition, never happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from .checks import check_seed
from .errors import SuiteError
from .success import SUCCESS_KEYS


class GymnasiumVector(VecEnv):
    """N environments of a Gymnasium ``VectorEnv``.

    ``infos[i]`` holds ``TimeLimit.truncated``, what the environment says of its success, and at the end of an episode
    ``terminal_observation``.

    :param vector: in any mode of resetting; this object closes it
    :raises SuiteError: for a vector that cannot reset some environments alone and does not reset them in the same step
    """

    def __init__(self, vector: VectorEnv[Any, Any, Any]) -> None:
        self.vector = vector
        self._mode = _mode_of(vector)
        self._actions: Any = None
        self._seed: int | None = None
        # A wrapper around it has no such methods, and hands on those of the vector inside, past itself.
        self._asynchronous = vector if isinstance(vector, AsyncVectorEnv) else None
        super().__init__(vector.num_envs, vector.single_observation_space, vector.single_action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments at the next reset: environment i with ``seed + i``, as Gymnasium does."""
        if seed is not None:
            self._seed = check_seed(seed)
        return [None if seed is None else seed + i for i in range(self.num_envs)]

    def reset(self) -> np.ndarray:
        """Begin an episode everywhere and return the observations [N, D]."""
        seed, self._seed = self._seed, None
        observations, _ = self.vector.reset(seed=seed)
        self._reset_seeds()
        self._reset_options()
        return np.array(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step where the vector can, and keep the actions until `step_wait` where it cannot."""
        self._actions = actions
        if self._asynchronous is not None:
            self._asynchronous.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step: observations [N, D], rewards [N], dones [N], infos."""
        if self._asynchronous is not None:
            found = self._asynchronous.step_wait()
        else:
            found = self.vector.step(self._actions)
        observations, rewards, terminated, truncated, told = found
        observations = np.array(observations)  # some vectors write the next step into the same memory
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        dones = terminated | truncated
        infos = self._infos(told, dones)
        for i, cut in enumerate((truncated & ~terminated).tolist()):
            infos[i]["TimeLimit.truncated"] = cut
        if dones.any():
            self._keep_last(observations, told, dones, infos)
            observations = self._begin(observations, dones)
        return observations, np.array(rewards, np.float32), dones, infos

    def _infos(self, told: Mapping[str, Any], dones: np.ndarray) -> list[dict[str, Any]]:
        """What each environment says of its success; in SAME_STEP, what is told of an ended episode is apart."""
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        _take(told, infos, dones if self._mode is AutoresetMode.SAME_STEP else ~np.ones_like(dones))
        if self._mode is AutoresetMode.SAME_STEP and "final_info" in told:
            _take(told["final_info"], infos, ~dones)
        return infos

    def _keep_last(
        self, observations: np.ndarray, told: Mapping[str, Any], dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        last = told["final_obs"] if self._mode is AutoresetMode.SAME_STEP else observations
        for i in np.flatnonzero(dones).tolist():
            infos[i]["terminal_observation"] = np.array(last[i])

    def _begin(self, observations: np.ndarray, dones: np.ndarray) -> np.ndarray:
        """The observations with those of new episodes where one has ended."""
        if self._mode is AutoresetMode.SAME_STEP:
            return observations
        first, _ = self.vector.reset(options={"reset_mask": dones.copy()})
        return np.where(dones[:, None], np.array(first), observations)

    def close(self) -> None:
        """Close the vector."""
        self.vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Attribute of the environments where the vector gives it, otherwise of the vector."""
        rows = [int(i) for i in self._get_indices(indices)]
        if attr_name == "render_mode":  # asked for by VecEnv before anything is set up
            return [getattr(self.vector, "render_mode", None)] * len(rows)
        if isinstance(self.vector.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            values = self.vector.unwrapped.get_attr(attr_name)
            return [values[i] for i in rows]
        return [getattr(self.vector, attr_name)] * len(rows)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """:raises SuiteError: where the vector has no environments to set it of"""
        inner = self._separate("set_attr")
        values = list(inner.get_attr(attr_name))
        for i in self._get_indices(indices):
            values[int(i)] = value
        inner.set_attr(attr_name, values)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of the environments."""
        values = self._separate(method_name).call(method_name, *args, **kwargs)
        return [values[int(i)] for i in self._get_indices(indices)]

    def _separate(self, what: str) -> Any:
        if not isinstance(self.vector.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            raise SuiteError(f"{what} needs a vector of separate environments, found {self.vector!r:.80}")
        return self.vector.unwrapped

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Never: what SB3 asks for are wrappers of its own."""
        return [False] * len(list(self._get_indices(indices)))


def _mode_of(vector: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = (vector.metadata or {}).get("autoreset_mode")
    if mode is None:
        raise SuiteError(
            f"{vector!r:.80} does not say in its metadata how it resets; set metadata['autoreset_mode'], for example "
            "to gymnasium.vector.AutoresetMode.SAME_STEP"
        )
    mode = AutoresetMode(mode)
    if mode is AutoresetMode.NEXT_STEP and not isinstance(vector.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
        raise SuiteError(
            f"{vector!r:.80} resets in a step of its own (NEXT_STEP) and not by a mask, so that this step would be "
            "learnt; make it with autoreset_mode SAME_STEP or DISABLED"
        )
    return mode


def _take(told: Mapping[str, Any], infos: list[dict[str, Any]], but: np.ndarray) -> None:
    """Copy what is told of success to the infos of all rows that are not marked in ``but [N]``."""
    for key in SUCCESS_KEYS:
        if key not in told:
            continue
        present = np.asarray(told.get(f"_{key}", np.ones(len(infos), bool))) & ~but
        for i in np.flatnonzero(present).tolist():
            infos[i][key] = told[key][i]
