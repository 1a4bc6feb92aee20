"""What every multitask algorithm has: tasks, settings, logs, ``agent.zip``, and a state that a run is resumed from.

The face is Stable-Baselines3's. A subclass says what is learnt, and from what: from a replay buffer
(`agents.off_policy`), or from fresh rollouts.
"""

import dataclasses
import inspect
import sys
import time
import warnings
from collections import deque
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import get_system_info, safe_mean
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from typing_extensions import Self

from agents import tags
from agents.algorithms import acting_types, list_algorithms
from agents.arguments import (
    SESSION,
    AgentArguments,
    documentation_of,
    refuse_bad_arguments,
    refuse_unknown,
    require_device,
    signature_of,
)
from agents.errors import ConfigurationError
from agents.files.agent_file import (
    AgentFileError,
    read_agent,
    sizes_from_file,
    space_from_json,
    space_to_json,
    write_agent,
)
from agents.files.origins import recorded_origins, refuse_unregistered
from agents.files.state_folder import fill, read_state, write_state
from agents.files.untrusted import load_optimizer, refuse_absurd, refuse_not_finite
from agents.learn_checks import dump, fit_columns, require_env
from agents.learning_rate import describe, from_description
from agents.metrics import UpdateMetrics
from agents.policies import MultiTaskPolicy
from agents.progress import TaskProgress
from agents.randomness import Generators
from agents.replay import TaskReplayBuffer
from agents.settings import hints
from agents.snapshot import copied, load_log_state, log_state
from agents.task_names import refuse_other_tasks

# Attributes of SB3 that count, and that `learn` continues from.
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


class MultiTaskAlgorithm(BaseAlgorithm):
    """An SB3 algorithm that learns K tasks at once.

    A subclass names its settings in `arguments`, from which the constructor takes its signature, checks and
    documentation. Its `_setup_model` builds `policy` and `metrics`, and calls `_setup_tasks` where there is an
    environment. Its `_parts` are what ``agent.zip`` holds. Its `learn` calls ``callback.on_rollout_start()`` where
    nothing is in flight: `state` taken there must be exact.
    """

    __signature__: ClassVar[inspect.Signature | None] = None  # of the constructor, for `inspect` and `help`

    arguments: ClassVar[type[AgentArguments]] = AgentArguments
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiTaskPolicy": MultiTaskPolicy}
    policy_type: ClassVar[type[MultiTaskPolicy]] = MultiTaskPolicy
    alternating: ClassVar[bool] = False  # whether it learns only while nothing is simulated

    policy: MultiTaskPolicy
    observation_space: spaces.Box
    action_space: spaces.Box
    action_sizes: tuple[int, ...]  # numbers of an action of each of the K tasks; the rest of A is padding
    settings: AgentArguments  # as the constructor was given them; `current_settings` are those of now
    generators: Generators
    metrics: UpdateMetrics
    progress: TaskProgress
    replay_buffer: TaskReplayBuffer | None = None  # of an algorithm that learns from old transitions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__signature__ = None
        elif "arguments" in cls.__dict__:
            cls.__signature__ = signature_of(cls.arguments)
            cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{documentation_of(cls.arguments)}\n"

    def __init__(
        self,
        policy: str | type[MultiTaskPolicy] = "MultiTaskPolicy",
        env: GymEnv | None = None,
        *given: Any,
        **named: Any,
    ) -> None:
        owner, signature = type(self).__name__, signature_of(self.arguments)
        refuse_unknown(owner, named, signature)
        bound = signature.bind(policy, env, *given, **named)
        bound.apply_defaults()
        session = {name: bound.arguments.pop(name) for name in SESSION}
        settings = self.arguments(**bound.arguments)
        refuse_unknown("policy_kwargs", settings.policy_kwargs or {}, inspect.signature(self.policy_type))
        refuse_bad_arguments(settings)
        require_device(session["device"])
        self.settings = settings
        super().__init__(
            policy,
            env,
            settings.learning_rate,
            policy_kwargs=dict(settings.policy_kwargs or {}),
            stats_window_size=settings.stats_window_size,
            tensorboard_log=session["tensorboard_log"],
            verbose=session["verbose"],
            device=session["device"],
            monitor_wrapper=False,
            seed=settings.seed,
            supported_action_spaces=(spaces.Box,),
            **self._face(),
        )
        for name in self.arguments.ATTRIBUTES:
            setattr(self, name, getattr(settings, name))
        # So far only plain attributes have been made: those that are settings may be changed while the agent learns.
        attributes = {*vars(self), *self.arguments.ATTRIBUTES}
        self._changeable = tuple(name for name in hints(self.arguments) if name in attributes)
        self.generators = Generators(settings.seed)
        if env is not None:
            self._adopt_tasks(self.env)
            if session["_init_setup_model"]:
                self._setup_model()

    def _face(self) -> dict[str, Any]:
        """Further arguments of the SB3 class whose face this is."""
        return {"support_multi_env": True}

    def current_settings(self) -> AgentArguments:
        """The settings as they are now: attributes such as `gamma` may have been changed since the agent was made."""
        now = {name: getattr(self, name) for name in self._changeable}
        return dataclasses.replace(self.settings, **{**now, "learning_rate": self.lr_schedule})

    def _described_rate(self) -> Any:
        """The learning rate as a file holds it, with a warning where a schedule is code."""
        described = describe(self.lr_schedule)
        if described is None:
            described = float(self.lr_schedule(1.0))
            warnings.warn(
                f"The learning-rate schedule {self.lr_schedule} is code, which an agent file does not hold: the file "
                f"gets the rate that it starts with, {described:g}. Use SB3's LinearSchedule or "
                "ConstantSchedule, or load the agent with learning_rate=... to resume the schedule.",
                stacklevel=3,
            )
        return described

    @property
    def runtime(self) -> dict[str, Any]:
        """Choices made from the machine, for the record of a run."""
        return {"device": str(self.device), "torch_threads": torch.get_num_threads()}

    # ------------------------------------------------------------------ tasks

    def _refuse_other_tasks(self, env: Any) -> None:
        owner = type(self).__name__
        if getattr(env, "num_tasks", None) is None:
            raise ConfigurationError(
                f"{owner} needs an environment that names its tasks, found {type(env).__name__}: make one with "
                "mtrl.make_env(...), which also takes a vector; a single Gymnasium task is "
                "make_env('gym', tasks=['Pendulum-v1'])."
            )
        if unwrap_vec_normalize(env) is not None:
            raise ConfigurationError(
                f"{owner} takes no VecNormalize: rewards are scaled per task with reward_scale='std'."
            )
        refuse_other_tasks(getattr(self, "task_names", env.task_names), env.task_names)
        found = _action_sizes(env)
        if getattr(self, "action_sizes", found) != found:
            raise ConfigurationError(
                f"The agent's tasks have actions of {list(self.action_sizes)} numbers, those of the environment "
                f"{list(found)}: build it with the agent's tasks."
            )

    def _adopt_tasks(self, env: Any) -> None:
        self._refuse_other_tasks(env)
        self.task_names: tuple[str, ...] = tuple(env.task_names)
        self.task_of_env: np.ndarray = np.asarray(env.task_of_env)
        self.action_sizes = _action_sizes(env)

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.task_names)

    def _setup_tasks(self) -> None:
        """Build what belongs to the tasks and environments."""
        self.progress = TaskProgress(self.task_of_env, self.num_tasks)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Continue in another environment of the same tasks; an agent loaded without one can learn from then on.

        :raises ConfigurationError: for other tasks, or another number of copies than the agent learns in
        """
        self._refuse_other_tasks(env)
        self._require_policy()
        found, had_none = len(env.task_of_env), self.env is None
        if had_none:
            self.n_envs = found
        elif found != self.n_envs:
            raise ConfigurationError(
                f"The agent learns in {self.n_envs} environments, found {found}: make it with "
                f"copies={self.n_envs // self.num_tasks}, or save the agent and load it with the new environment."
            )
        BaseAlgorithm.set_env(self, env, force_reset)
        self._adopt_tasks(env)
        if had_none:
            self._setup_tasks()

    def _require_policy(self) -> None:
        """:raises ConfigurationError: for an agent that was neither given an environment nor loaded from a file"""
        if getattr(self, "policy", None) is None:
            name = type(self).__name__
            raise ConfigurationError(
                f"The agent knows no tasks and has no policy yet: make it with its environment, "
                f"{name}('MultiTaskPolicy', env), or load it, {name}.load(path)."
            )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        task: str | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Actions for observations; see `MultiTaskPolicy.predict`."""
        self._require_policy()
        return self.policy.predict(observation, state, episode_start, deterministic, task)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the environments; the agent's generators are its own, and no global generator is touched."""
        if seed is not None and self.env is not None:
            self.env.seed(seed)

    def begin_episodes(self) -> None:
        """All environments start new episodes."""

    def _note_budget(self) -> None:
        if self._total_timesteps:  # `learn(0)` uses no budget
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.progress.budget_used = 1.0 - self._current_progress_remaining

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        require_env(self.env)
        found = super()._setup_learn(total_timesteps, callback, *args, **kwargs)
        fit_columns(self.logger, self.task_names)
        return found

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for `total_timesteps` transitions.

        :param log_interval: between two log entries; None leaves logging to callbacks (`dump_logs`)
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ logging

    def dump_logs(self) -> None:
        """Write the log: SB3's tags, one tag per task, and the means of all updates since the last call."""
        self.logger.record(tags.UPDATES, self._n_updates, exclude="tensorboard")
        for tag, value in self.metrics.flush(self.task_names).items():
            self.logger.record(tag, value)
        self._record_tasks()
        self._record_episodes()
        dump(self.logger, self.num_timesteps)

    def _record_tasks(self) -> None:
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

    def _record_episodes(self) -> None:
        """What SB3's off-policy algorithms log."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))

    # ------------------------------------------------------------------ the state of a run

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
            "log": log_state(self.logger) if self._custom_logger else None,
            "episode_infos": copied(self.ep_info_buffer or ()),
            "episode_successes": [bool(success) for success in self.ep_success_buffer or ()],
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def save_state(self, folder: str | Path) -> None:
        """Write all that learning depends on into a folder: agent, replay buffer, environments.

        Call it between two calls of `learn`, or in a callback's ``_on_rollout_start``. Environments that are not saved
        whole begin their episodes again.
        """
        env = require_env(self.env)
        _require_saved(env)
        write_state(Path(folder), self.state(), self.replay_buffer, env.state_dict())

    def load_state(self, state: dict[str, Any] | str | Path, observations: np.ndarray | None = None) -> None:
        """Undo `state` or `save_state`: ``learn(..., reset_num_timesteps=False)`` then continues.

        :param state: what `state` gave, or the folder of `save_state`
        :param observations: of the restored environments ``[N, S + K]``; a folder restores the environments itself
        :raises ConfigurationError: for the state of another agent
        :raises AgentFileError: for a folder that cannot be read
        """
        if not isinstance(state, dict):
            self._load_folder(Path(state))
            return
        try:
            refuse_not_finite(state["parts"], "the state of")
            self._restore(state)
        except Exception as error:  # whatever a state that contradicts the agent provokes
            reason = " ".join(str(error).split())
            raise ConfigurationError(
                f"The saved state is not of this agent ({type(error).__name__}: {reason:.300})."
            ) from error
        self._last_obs = observations

    def _load_folder(self, folder: Path) -> None:
        env = require_env(self.env)
        _require_saved(env)
        state, rest = read_state(folder)
        observations, exact = env.load_state_dict(rest["environments"]), env.restorable
        if self.replay_buffer is not None and rest["replay"] is not None:
            fill(self.replay_buffer, folder, rest["replay"])
        self.load_state(state, observations)
        if not exact:
            self.begin_episodes()

    def _restore(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            if isinstance(part, torch.optim.Optimizer):
                load_optimizer(part, state["parts"][name])
            else:
                part.load_state_dict(state["parts"][name])
        self.generators.load_state(state["generators"])
        self.metrics.load_state(state["metrics"], self.device)
        self.progress.load_state_dict(state["progress"])
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        if self._custom_logger and state["log"] is not None:
            load_log_state(self.logger, state["log"])
        self.ep_info_buffer = deque(state["episode_infos"], maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(state["episode_successes"], maxlen=self._stats_window_size)

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path | BufferedIOBase, exclude: Any = None, include: Any = None) -> None:
        """Write ``agent.zip``: JSON and tensors only.

        :param path: a file's name, or an open file that takes bytes
        :param exclude: ``["optimizers"]`` leaves out what only further training needs; nothing else can be left out
        :param include: nothing can be added to the file
        """
        without_optimizers = "optimizers" in (exclude or ())
        parts = {name for name in self._parts() if not (without_optimizers and name.endswith("_optimizer"))}
        settings = self.current_settings()
        data: dict[str, Any] = {
            "algorithm": type(self).__name__,
            "settings": {
                **{name: getattr(settings, name) for name in hints(self.arguments)},
                "learning_rate": self._described_rate(),
            },
            "task_names": list(self.task_names),
            "action_sizes": list(self.action_sizes),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "num_timesteps": self.num_timesteps,
            "n_updates": self._n_updates,
        }
        data |= recorded_origins(data["settings"])
        write_agent(path, data, {name: self._parts()[name].state_dict() for name in sorted(parts)})

    @classmethod
    def load(
        cls,
        path: str | Path | BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: Mapping[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Build the agent that `save` wrote; nothing is unpickled.

        :param path: a file's name, or an open file
        :param env: environment for further training; without it the agent predicts
        :param custom_objects: settings to change, as `kwargs` are: the file holds no objects
        :param print_system_info: print the versions of this machine
        :param force_reset: begin new episodes in the environment
        :param kwargs: settings to change
        :raises AgentFileError: if the file is no agent, or its tensors do not fit it and these settings
        """
        kwargs = {**(custom_objects or {}), **kwargs}
        refuse_unknown(cls.__name__, kwargs, signature_of(cls.arguments))
        if print_system_info:
            get_system_info()
        data, tensors = read_agent(path)
        if data.get("algorithm") in acting_types():
            raise AgentFileError(f"{path} holds a policy without critics, which cannot learn: read it by load_policy.")
        others = {record.agent.__name__ for record in list_algorithms() if not issubclass(cls, record.agent)}
        if data.get("algorithm") in others:
            name = data["algorithm"]
            raise AgentFileError(f"{path} holds an agent of {name} and not of {cls.__name__}: read it by {name}.load.")
        foreign = sorted(SESSION & data["settings"].keys())
        if foreign:
            raise AgentFileError(f"{path} sets '{foreign[0]}', which belongs to a session and not to an agent.")
        refuse_unregistered(path, data)
        try:
            refuse_absurd(data)
            rate = from_description(data["settings"]["learning_rate"])
            settings = {**data["settings"], "learning_rate": rate, **kwargs}
            model = cls(**{**settings, "device": device, "_init_setup_model": False})
            model.task_names = tuple(data["task_names"])
            model.observation_space, model.action_space = (
                space_from_json(data[name]) for name in ("observation_space", "action_space")
            )
            model.action_sizes = sizes_from_file(data)
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
            model.set_env(env, force_reset)
            model.set_random_seed(model.seed)
        model.num_timesteps, model._n_updates = data["num_timesteps"], data["n_updates"]
        return model

    def _refuse_other_shapes(self, tensors: Mapping[str, Any]) -> None:
        """Compare the policy's tensors with what the settings describe, before that is given any memory.

        :raises ValueError: for the first that differs
        """
        with torch.device("meta"):
            policy = self._make_policy()
        for name, expected in policy.state_dict().items():
            found = tensors["policy"][name]
            if found.shape != expected.shape:
                raise ValueError(f"'{name}' has shape {list(found.shape)}, its settings say {list(expected.shape)}")

    def _make_policy(self, generator: torch.Generator | None = None) -> MultiTaskPolicy:
        """The policy that the settings describe.

        :param generator: draws its first weights and its exploration
        """
        policy = self.policy_type(
            self.observation_space,
            self.action_space,
            num_tasks=self.num_tasks,
            generator=generator,
            action_sizes=self.action_sizes,
            **self.policy_kwargs,
        )
        policy.task_names = tuple(self.task_names)
        return policy

    def _parts(self) -> dict[str, Any]:
        """Everything with a state dictionary, by the name it has in ``agent.zip``."""
        raise NotImplementedError

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return list(self._parts()), []


def _action_sizes(env: Any) -> tuple[int, ...]:
    """Numbers of an action of each of the K tasks: all A where the environment does not say."""
    sizes = getattr(env, "action_sizes", None)
    return tuple(map(int, sizes)) if sizes is not None else (env.action_space.shape[0],) * env.num_tasks


def _require_saved(env: Any) -> None:
    """:raises ConfigurationError: for a vector that has no state"""
    if getattr(env, "state_dict", None) is None:
        raise ConfigurationError(
            f"The state of a {type(env).__name__} cannot be saved, so a run in it cannot be resumed: save(path) keeps "
            "the agent alone."
        )
