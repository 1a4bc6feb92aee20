"""What every multitask algorithm has that learns from old transitions: a replay ring for each task, and the loop.

A subclass says what is learnt: it builds its parts and implements `train`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from typing_extensions import Self

from agents.errors import ConfigurationError
from agents.learn_checks import refuse_pickled_replay, require_env, warn_of_no_update
from agents.multitask import MultiTaskAlgorithm
from agents.replay import TaskReplayBuffer
from agents.reward_scale import RewardScale

_OF_SB3 = ("buffer_size", "learning_starts", "tau", "gamma", "train_freq", "gradient_steps")


class MultiTaskOffPolicy(MultiTaskAlgorithm, OffPolicyAlgorithm):
    """An SB3 off-policy algorithm that learns K tasks at once, each from its own ring.

    A subclass's `_setup_model` also builds `reward_scale` and `_exploration`, and its settings have `pipeline`
    among their attributes.
    """

    pipeline: bool
    reward_scale: RewardScale
    _exploration: torch.Generator
    train_freq: int
    replay_buffer: TaskReplayBuffer | None  # type: ignore[assignment]

    def _face(self) -> dict[str, Any]:
        sizes = {name: getattr(self.settings, name) for name in _OF_SB3}
        # Without a batch size it is chosen when the number of tasks is known.
        batch_size = getattr(self.settings, "batch_size", None) or 0
        return {**super()._face(), **sizes, "batch_size": batch_size, "sde_support": False}

    def _setup_tasks(self) -> None:
        super()._setup_tasks()
        own = np.arange(self.policy.action_size) < np.array(self.action_sizes)[self.task_of_env, None]
        self._own_actions = own.astype(np.float32)  # [N, A]
        self.replay_buffer = TaskReplayBuffer(
            self.buffer_size,
            self.policy.state_size,
            self.policy.action_size,
            self.task_of_env,
            self.generators.torch("replay"),
            self.device,
        )

    def begin_episodes(self) -> None:
        self.reward_scale.begin()

    # ------------------------------------------------------------------ the loop

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for `total_timesteps` transitions; simulation and learning overlap unless ``pipeline=False``.

        :param log_interval: episodes between two log entries; None leaves logging to callbacks (`dump_logs`)
        """
        require_env(self.env)
        refuse_pickled_replay(callback)
        if reset_num_timesteps or self._last_obs is None:
            self.begin_episodes()  # as the environments do
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        warn_of_no_update(self.num_timesteps, total_timesteps, self.learning_starts)
        self._note_budget()  # an agent that learns on may have more of it than it had
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()  # nothing is in flight here: `state` taken at this point is exact
            for step in range(self.train_freq):
                train = self._train_when_ready if self.pipeline and step == 0 else None
                if not self._vector_step(callback, train, log_interval):
                    callback.on_training_end()
                    return self
            callback.on_rollout_end()
            if not self.pipeline:
                self._train_when_ready()
        callback.on_training_end()
        return self

    def _vector_step(
        self, callback: BaseCallback, meanwhile: Callable[[], None] | None, log_interval: int | None
    ) -> bool:
        """One step of all N environments; False if a callback stops the training.

        :param meanwhile: work for the time in which the environments simulate
        """
        assert self.env is not None and self._last_obs is not None
        actions, scaled_actions = self._sample_action(self.learning_starts)
        self.env.step_async(actions)
        try:
            if meanwhile is not None:
                meanwhile()
            new_obs, rewards, dones, infos = self.env.step_wait()
        except BaseException:
            self._last_obs = None  # the step in flight is lost: the next `learn` begins with a reset
            raise
        self.num_timesteps += self.env.num_envs
        self._store_transition(self.replay_buffer, scaled_actions, new_obs, rewards, dones, infos)
        self._update_info_buffer(infos, dones)
        self.progress.observe(dones, infos, self.num_timesteps - self.env.num_envs < self.learning_starts)
        self._note_budget()
        callback.update_locals(locals())
        continues = callback.on_step() is not False
        for _ in range(int(np.sum(dones))):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        return continues

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions for the environments and, scaled to [-1, 1], for the replay buffer; both ``[N, A]``."""
        if self.num_timesteps < learning_starts:
            shape = (len(self.task_of_env), self.policy.action_size)
            drawn = torch.rand(shape, generator=self._exploration).mul_(2).sub_(1).numpy()
            scaled = drawn * self._own_actions
            return self.policy.unscale_action(scaled), scaled
        assert isinstance(self._last_obs, np.ndarray)
        self.policy.set_training_mode(False)
        with torch.no_grad():
            observations, _ = self.policy.obs_to_tensor(self._last_obs)
            scaled = self.policy(observations).cpu().numpy()
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        assert isinstance(self._last_obs, np.ndarray)
        self.policy.observe(self._last_obs[:, : self.policy.state_size])
        self.reward_scale.observe(reward, self.task_of_env, dones, infos)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _train_when_ready(self) -> None:
        # A loaded agent is past its learning starts, and its replay buffer is empty.
        stored = self.replay_buffer is not None and self.replay_buffer.size() > 0
        if stored and self.num_timesteps > self.learning_starts and self.gradient_steps > 0:
            self.train(self.gradient_steps, self.batch_size)

    # ------------------------------------------------------------------ the state of a run

    def state(self) -> dict[str, Any]:
        return {**super().state(), "episodes": self.reward_scale.episodes_state()}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self.reward_scale.load_episodes_state(state.get("episodes", {}))

    def save_replay_buffer(self, path: Any) -> None:
        """Refused: SB3 would write a pickle.

        :raises ConfigurationError: always
        """
        raise ConfigurationError(
            "A replay buffer is not saved as a pickle: save_state(folder) keeps it together with the agent."
        )

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Refused: SB3 would read a pickle, which can run code.

        :raises ConfigurationError: always
        """
        raise ConfigurationError(
            "A replay buffer is not read from a pickle: load_state(folder) reads what save_state(folder) wrote."
        )
