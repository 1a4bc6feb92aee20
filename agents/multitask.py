"""What every multitask off-policy agent has: tasks, a replay ring for each, the loop, logs and files.

The face is Stable-Baselines3's. A subclass says what is learnt: it builds its parts and implements `train`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from typing_extensions import Self

from agents import tags
from agents.balancing.guard import UpdateGuard
from agents.errors import ConfigurationError
from agents.files.agent_file import AgentFileError, read_agent, space_from_json, space_to_json, write_agent
from agents.files.untrusted import load_optimizer, refuse_absurd, refuse_not_finite
from agents.metrics import UpdateMetrics
from agents.policies import ActingPolicy, MultiTaskPolicy
from agents.progress import TaskProgress
from agents.randomness import Generators
from agents.replay import TaskReplayBuffer
from agents.reward_scale import RewardScale
from agents.settings import refuse_unknown
from agents.snapshot import copied, load_log_state, log_state

# Arguments of a constructor that belong to a session, not to the agent.
NOT_SAVED = frozenset(
    {"self", "__class__", "policy", "env", "device", "verbose", "tensorboard_log", "_init_setup_model", "unknown"}
)


# Attributes of SB3 that count, and that `learn` goes on from.
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


class MultiTaskAlgorithm(OffPolicyAlgorithm):
    """An SB3 off-policy algorithm that learns K tasks at once.

    A subclass sets `settings`, `pipeline` and `generators` in its constructor; its `_setup_model` builds `policy`,
    `reward_scale`, `metrics` and `guard`, calls `_setup_memory` where there is an environment, and can be left out of
    the constructor by ``_init_setup_model=False``.
    """

    policy: MultiTaskPolicy
    settings: dict[str, Any]  # constructor arguments that `agent.zip` keeps
    generators: Generators
    pipeline: bool
    reward_scale: RewardScale
    metrics: UpdateMetrics
    guard: UpdateGuard
    _exploration: torch.Generator
    train_freq: int
    replay_buffer: TaskReplayBuffer | None  # type: ignore[assignment]

    # ------------------------------------------------------------------ tasks

    def _refuse_other_tasks(self, env: Any) -> None:
        if getattr(env, "num_tasks", None) is None:
            raise ConfigurationError(
                f"MTSAC needs an environment that names its tasks, found {type(env).__name__}: make one with "
                "mtrl.make_env(...); a single Gymnasium task is make_env('gym', tasks=['Pendulum-v1'])."
            )
        if unwrap_vec_normalize(env) is not None:
            raise ConfigurationError(
                "MTSAC takes no VecNormalize: rewards are scaled per task with reward_scale='std'."
            )
        names = tuple(env.task_names)
        if getattr(self, "task_names", names) != names:
            raise ConfigurationError(
                f"The agent learns the tasks {list(self.task_names)}, the environment has {list(names)}."
            )

    def _adopt_tasks(self, env: Any) -> None:
        self._refuse_other_tasks(env)
        self.task_names: tuple[str, ...] = tuple(env.task_names)
        self.task_of_env: np.ndarray = np.asarray(env.task_of_env)

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.task_names)

    def _setup_memory(self) -> None:
        self.progress = TaskProgress(self.task_of_env, self.num_tasks)
        self.replay_buffer = TaskReplayBuffer(
            self.buffer_size,
            self.policy.state_size,
            self.policy.action_size,
            self.task_of_env,
            self.generators.torch("replay"),
            self.device,
        )

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Continue in another environment of the same tasks; an agent loaded without one can learn from then on.

        :raises ConfigurationError: for other tasks, or another number of copies than the agent learns in
        """
        self._refuse_other_tasks(env)
        found = len(env.task_of_env)  # type: ignore[union-attr]
        if self.env is None:
            self.n_envs = found
        elif found != self.n_envs:
            raise ConfigurationError(
                f"The agent learns in {self.n_envs} environments, found {found}: make it with "
                f"copies={self.n_envs // self.num_tasks}, or save the agent and load it with the new environment."
            )
        BaseAlgorithm.set_env(self, env, force_reset)
        self._adopt_tasks(env)
        if self.replay_buffer is None:
            self._setup_memory()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the environments; the agent's generators are its own, and no global generator is touched."""
        if seed is not None and self.env is not None:
            self.env.seed(seed)

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
        if reset_num_timesteps or self._last_obs is None:
            self.reward_scale.begin()  # as the environments do
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
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
        go_on = callback.on_step() is not False
        for _ in range(int(np.sum(dones))):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        return go_on

    def _note_budget(self) -> None:
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.progress.budget_used = 1.0 - self._current_progress_remaining

    def _sample_action(  # type: ignore[override]
        self, learning_starts: int, action_noise: None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions for the environments and, scaled to [-1, 1], for the replay buffer; both ``[N, A]``."""
        if self.num_timesteps < learning_starts:
            shape = (len(self.task_of_env), self.policy.action_size)
            scaled = torch.rand(shape, generator=self._exploration).mul_(2).sub_(1).numpy()
            return self.policy.unscale_action(scaled), scaled
        assert isinstance(self._last_obs, np.ndarray)
        self.policy.set_training_mode(False)
        with torch.no_grad():
            observations, _ = self.policy.obs_to_tensor(self._last_obs)
            scaled = self.policy(observations).cpu().numpy()
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(self, replay_buffer, buffer_action, new_obs, reward, dones, infos) -> None:  # type: ignore[no-untyped-def]
        self.reward_scale.observe(reward, self.task_of_env, dones, infos)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _train_when_ready(self) -> None:
        # A loaded agent is past its learning starts, and its replay buffer is empty.
        stored = self.replay_buffer is not None and self.replay_buffer.size() > 0
        if stored and self.num_timesteps > self.learning_starts and self.gradient_steps > 0:
            self.train(self.gradient_steps, self.batch_size)

    # ------------------------------------------------------------------ logging

    def dump_logs(self) -> None:
        """Write the log: SB3's tags, one tag per task, and the means of all updates since the last call."""
        self.logger.record(tags.UPDATES, self._n_updates, exclude="tensorboard")
        self.logger.record(tags.SKIPPED_UPDATES, self.guard.state_dict()["skipped"])
        for tag, value in self.metrics.flush(self.task_names).items():
            self.logger.record(tag, value)
        for tag, values in (
            (tags.ROLLOUT_RETURN, self.progress.returns),
            (tags.ROLLOUT_SUCCESS, self.progress.successes),
        ):
            for task, value in zip(self.task_names, values.tolist(), strict=True):
                if not np.isnan(value):
                    self.logger.record(tags.of_task(tag, task), value)
        restarts = getattr(self.env, "restarts", None)
        if restarts is not None:
            self.logger.record(tags.RESTARTS, restarts.total)
            for task in (task for task, count in restarts.by_task.items() if count):
                self.logger.record(tags.of_task(tags.TASK_RESTARTS, task), restarts.by_task[task])
        super().dump_logs()

    # ------------------------------------------------------------------ pausing

    def state(self) -> dict[str, Any]:
        """A copy of all that the following steps of `learn` depend on, save the replay rows and the environments.

        Nested dictionaries and lists of tensors, numbers and text. Exact where nothing is in flight: between two calls
        of `learn`, and in a callback's ``_on_rollout_start``. Then every transition is stored, every update that
        belongs to it made, and every callback heard.
        """
        return {
            "parts": {name: copied(part.state_dict()) for name, part in self._parts().items()},
            "generators": self.generators.state(),
            "metrics": self.metrics.state(),
            "progress": self.progress.state_dict(),
            "episodes": self.reward_scale.episodes_state(),
            "guard": self.guard.state_dict(),
            "log": log_state(self.logger) if self._custom_logger else None,
            "episode_infos": copied(self.ep_info_buffer or ()),
            "episode_successes": [bool(success) for success in self.ep_success_buffer or ()],
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state(self, state: dict[str, Any], observations: np.ndarray) -> None:
        """Undo `state`: ``learn(..., reset_num_timesteps=False)`` then goes on.

        :param observations: of the restored environments ``[N, S + K]``
        :raises ConfigurationError: for the state of another agent
        """
        try:
            refuse_not_finite(state["parts"], "the state of")
            for name, part in self._parts().items():
                if isinstance(part, torch.optim.Optimizer):
                    load_optimizer(part, state["parts"][name])
                else:
                    part.load_state_dict(state["parts"][name])
            self.generators.load_state(state["generators"])
            self.metrics.load_state(state["metrics"], self.device)
            self.progress.load_state_dict(state["progress"])
            self.reward_scale.load_episodes_state(state.get("episodes", {}))
            self.guard.load_state_dict(state["guard"])
            for name in _COUNTERS:
                setattr(self, name, state["counters"][name])
            if self._custom_logger and state["log"] is not None:
                load_log_state(self.logger, state["log"])
            infos, successes = state["episode_infos"], state["episode_successes"]
        except Exception as error:  # whatever a state that contradicts the agent provokes
            reason = " ".join(str(error).split())
            raise ConfigurationError(
                f"The saved state is not of this agent ({type(error).__name__}: {reason:.300})."
            ) from error
        self.ep_info_buffer = deque(infos, maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(successes, maxlen=self._stats_window_size)
        self._last_obs = observations

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path, exclude: Any = None, include: Any = None) -> None:  # type: ignore[override]
        """Write ``agent.zip``: JSON and tensors only.

        :param exclude: ``["optimizers"]`` leaves out what only further training needs; nothing else can be left out
        :param include: nothing can be added to the file
        """
        without_optimizers = "optimizers" in (exclude or ())
        parts = {name for name in self._parts() if not (without_optimizers and name.endswith("_optimizer"))}
        # A schedule is code: the file keeps the rate that it starts with.
        settings = {**self.settings, "learning_rate": float(self.lr_schedule(1.0))}
        data = {
            "algorithm": type(self).__name__,
            "settings": settings,
            "batch_size": self.batch_size,
            "task_names": list(self.task_names),
            "observation_space": space_to_json(self.observation_space),  # type: ignore[arg-type]
            "action_space": space_to_json(self.action_space),  # type: ignore[arg-type]
            "num_timesteps": self.num_timesteps,
            "n_updates": self._n_updates,
        }
        write_agent(path, data, {name: self._parts()[name].state_dict() for name in sorted(parts)})

    @classmethod
    def load(  # type: ignore[override]
        cls, path: str | Path, env: GymEnv | None = None, device: torch.device | str = "auto", **kwargs: Any
    ) -> Self:
        """Build the agent that `save` wrote; nothing is unpickled.

        :param env: environment for further training; without it the agent predicts
        :param kwargs: settings to change
        :raises AgentFileError: if the file is no agent, or its tensors do not fit it and these settings
        """
        refuse_unknown(cls.__name__, kwargs, cls)
        data, tensors = read_agent(path)
        if data.get("algorithm") == ActingPolicy.__name__:
            raise AgentFileError(f"{path} holds a policy without critics, which cannot learn: read it by load_policy.")
        foreign = sorted(NOT_SAVED & data["settings"].keys())
        if foreign:
            raise AgentFileError(f"{path} sets '{foreign[0]}', which belongs to a session and not to an agent.")
        try:
            refuse_absurd(data)
            model = cls(**{**data["settings"], **kwargs, "device": device, "_init_setup_model": False})
            model.task_names = tuple(data["task_names"])
            model.observation_space, model.action_space = (
                space_from_json(data[name]) for name in ("observation_space", "action_space")
            )
            model._refuse_other_shapes(tensors)
            model._setup_model()
            for name, part in model._parts().items():
                if not name.endswith("_optimizer"):
                    part.load_state_dict(tensors[name])
                elif name in tensors:
                    load_optimizer(part, tensors[name])
        except ConfigurationError as error:
            if kwargs:  # what the caller asked for may be the reason
                raise
            reason = str(error).rstrip(".")
            raise AgentFileError(f"{path} describes no agent of this version: {reason}.") from error
        except Exception as error:  # whatever settings and tensors that contradict each other provoke
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            own = data["settings"]
            changed = [f"{name}={value!r:.80}" for name, value in kwargs.items() if repr(value) != repr(own.get(name))]
            instead = f" with {', '.join(changed)} instead of its own" if changed else ""
            raise AgentFileError(f"{path} does not fit the agent it describes{instead} ({reason:.300}).") from error
        if env is not None:
            model.set_env(env)
            model.set_random_seed(model.seed)
        model.num_timesteps, model._n_updates = data["num_timesteps"], data["n_updates"]
        return model

    def _refuse_other_shapes(self, tensors: Mapping[str, Any]) -> None:
        """Compare the policy's tensors with what the settings describe, before that is given any memory.

        :raises ValueError: for the first that differs
        """
        with torch.device("meta"):
            policy = MultiTaskPolicy(
                self.observation_space,  # type: ignore[arg-type]
                self.action_space,  # type: ignore[arg-type]
                num_tasks=self.num_tasks,
                **self.policy_kwargs,
            )
        for name, expected in policy.state_dict().items():
            found = tensors["policy"][name]
            if found.shape != expected.shape:
                raise ValueError(f"'{name}' has shape {list(found.shape)}, its settings say {list(expected.shape)}")

    def save_replay_buffer(self, path: Any) -> None:
        """Refused: SB3 would write a pickle.

        :raises ConfigurationError: always
        """
        raise ConfigurationError(
            "A replay buffer is not saved as a pickle: a paused run keeps its own in its checkpoints."
        )

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Refused: SB3 would read a pickle, which can run code.

        :raises ConfigurationError: always
        """
        raise ConfigurationError(
            "A replay buffer is not read from a pickle: a paused run keeps its own in its checkpoints."
        )

    def _parts(self) -> dict[str, Any]:
        """Everything with a state dictionary, by the name it has in ``agent.zip``."""
        raise NotImplementedError

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return list(self._parts()), []
