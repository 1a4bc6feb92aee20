"""Multitask soft actor-critic: shared actor and critics, K losses, and a balancer that turns them into one update.

The face is Stable-Baselines3's; `update` reads like the paper (Haarnoja et al. 2018, arXiv 1812.05905).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from torch import Tensor, nn
from typing_extensions import Self

from agents.agent_file import AgentFileError, read_agent, space_from_json, space_to_json, write_agent
from agents.balancers import Balancer, make_balancer
from agents.errors import ConfigurationError
from agents.layers import takes_grouped_parameters
from agents.metrics import UpdateMetrics, with_prefix
from agents.normalize import RewardScale
from agents.objective import TaskObjective
from agents.policies import Actor, Critic, MultiTaskPolicy
from agents.precision import autocast, fastest_exact_float32, float32_products, resolve_precision
from agents.progress import TaskProgress
from agents.randomness import Generators
from agents.replay import ReplaySample, TaskReplayBuffer, samples_per_task
from agents.settings import refuse_bad_settings, refuse_unknown
from agents.temperature import Temperature
from agents.updates import actor_losses, critic_losses, critic_target

SAMPLES_PER_TASK = 32  # B where batch_size is not given

# Arguments of the constructor that belong to a session, not to the agent.
_NOT_SAVED = frozenset(
    {"self", "__class__", "policy", "env", "device", "verbose", "tensorboard_log", "_init_setup_model", "unknown"}
)


class MTSAC(OffPolicyAlgorithm):
    """Multitask SAC with pluggable balancers.

    Time counts as in SB3: `total_timesteps`, `learning_starts` and `buffer_size` are transitions over all tasks,
    `train_freq` is in vector steps, `gradient_steps` in updates.

    :param policy: ``MultiTaskPolicy``
    :param env: a vectorised environment of K tasks (`mtrl.make_env`), or None to load an agent for prediction
    :param learning_rate: of actor, critics and temperatures; a number or SB3's schedule
    :param buffer_size: transitions kept, over all tasks
    :param learning_starts: transitions taken with uniform actions before the first update
    :param batch_size: transitions of one update over all tasks, a multiple of K; None takes 32 per task
    :param tau: Polyak coefficient of the target critics; higher follows faster
    :param gamma: discount
    :param train_freq: vector steps between two calls of `train`
    :param gradient_steps: updates at each call of `train`
    :param ent_coef: temperature: ``auto``, ``auto_<initial value>`` (learned) or a fixed number
    :param temperature: ``per_task`` or ``shared``
    :param target_entropy: in nats; ``auto`` is ``-A``
    :param reward_scale: ``none``; ``std`` to divide sampled rewards by their task's standard deviation; or a fixed number
        that multiplies them: critics fit values of order 100 sooner than values of order 1000
    :param balancer: method that balances the critic's task losses, such as ``famo`` or ``igb_v1+cagrad``
    :param balancer_kwargs: its options
    :param actor_balancer: method for the actor's task losses; None takes the critic's, or ``unitary`` where that
        method needs positive losses, which an actor's are not
    :param actor_balancer_kwargs: its options
    :param max_grad_norm: clip the norm of actor and critic gradients; None does not clip
    :param actor_weight_decay: coupled L2 on the actor alone (arXiv 2201.04122)
    :param adam_epsilon: epsilon of every Adam (Meta-World+ uses 1e-5)
    :param precision: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 where the processor has it)
    :param pipeline: simulate and learn at the same time; False alternates in SB3's order
    :param policy_kwargs: arguments of `MultiTaskPolicy`
    :param stats_window_size: episodes in SB3's rollout statistics
    :param tensorboard_log: folder of event files
    :param verbose: 0 silent, 1 prints the log
    :param seed: fixes every generator, those of the environments included
    :param device: ``auto``, ``cpu``, ``cuda``
    :raises ConfigurationError: for a setting that cannot work
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiTaskPolicy": MultiTaskPolicy}
    policy: MultiTaskPolicy
    actor: Actor
    critic: Critic
    critic_target: Critic
    train_freq: int  # type: ignore[assignment]
    replay_buffer: TaskReplayBuffer | None  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[MultiTaskPolicy] = "MultiTaskPolicy",
        env: GymEnv | None = None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 5_000,
        batch_size: int | None = None,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int = 1,
        gradient_steps: int = 1,
        *,
        ent_coef: str | float = "auto",
        temperature: str = "per_task",
        target_entropy: str | float = "auto",
        reward_scale: str | float = "none",
        balancer: str = "unitary",
        balancer_kwargs: dict[str, Any] | None = None,
        actor_balancer: str | None = None,
        actor_balancer_kwargs: dict[str, Any] | None = None,
        max_grad_norm: float | None = 1.0,
        actor_weight_decay: float = 0.0,
        adam_epsilon: float = 1e-5,
        precision: str = "float32",
        pipeline: bool = True,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        **unknown: Any,
    ) -> None:
        # What `agent.zip` keeps, so that `load` can build the same agent.
        settings = {name: value for name, value in locals().items() if name not in _NOT_SAVED}
        refuse_unknown("MTSAC", unknown, MTSAC)
        refuse_unknown("policy_kwargs", policy_kwargs or {}, MultiTaskPolicy)
        refuse_bad_settings(settings)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size or 0,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            policy_kwargs=dict(policy_kwargs or {}),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            monitor_wrapper=False,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        self.settings = settings
        self.pipeline = pipeline
        self.max_grad_norm = max_grad_norm
        self.generators = Generators(seed)
        if env is not None:
            self._adopt_tasks(self.env)
        if env is not None and _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ building

    def _adopt_tasks(self, env: Any) -> None:
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
        self.task_names: tuple[str, ...] = names
        self.task_of_env: np.ndarray = np.asarray(env.task_of_env)

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.task_names)

    def _setup_model(self) -> None:
        settings = self.settings
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.batch_size = self.batch_size or SAMPLES_PER_TASK * self.num_tasks
        samples_per_task(self.batch_size, self.num_tasks)
        self.precision = resolve_precision(settings["precision"], self.device)
        self.float32_mode = fastest_exact_float32()
        self.policy = MultiTaskPolicy(
            self.observation_space,  # type: ignore[arg-type]
            self.action_space,  # type: ignore[arg-type]
            num_tasks=self.num_tasks,
            generator=self.generators.torch("policy"),
            **self.policy_kwargs,
        ).to(self.device)
        self.actor, self.critic, self.critic_target = self.policy.actor, self.policy.critic, self.policy.critic_target
        self.reward_scale = RewardScale(self.num_tasks, settings["reward_scale"]).to(self.device)
        target_entropy = settings["target_entropy"]
        self.temperature = Temperature(
            self.num_tasks,
            settings["ent_coef"],
            settings["temperature"],
            -float(self.policy.action_size) if target_entropy == "auto" else float(target_entropy),
        ).to(self.device)
        self._setup_balancers()
        self._setup_optimizers()
        self._exploration = self.generators.torch("exploration")
        self._update_noise = self.generators.torch("update noise", self.device)
        self._task = torch.arange(self.num_tasks, device=self.device)
        self.metrics = UpdateMetrics()
        self.replay_buffer = None
        if self.env is not None:
            self._setup_memory()

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

    def _setup_balancers(self) -> None:
        settings = self.settings
        name, options = settings["balancer"], dict(settings["balancer_kwargs"] or {})
        self.critic_balancer = self._make_balancer(name, "critic balancer", options)
        actor_name, actor_options = settings["actor_balancer"], dict(settings["actor_balancer_kwargs"] or {})
        if actor_name is None:
            actor_name, actor_options = ("unitary", {}) if self.critic_balancer.needs_positive_losses else (name, options)
        self.actor_balancer = self._make_balancer(actor_name, "actor balancer", actor_options)
        if self.actor_balancer.needs_positive_losses:
            raise ConfigurationError(
                f"actor_balancer='{actor_name}' takes logarithms or ratios of the losses, and actor losses may be "
                "negative: use it for the critic, with actor_balancer='unitary'."
            )

    def _make_balancer(self, name: str, stream: str, options: dict[str, Any]) -> Balancer:
        generator = self.generators.torch(stream)
        return make_balancer(name, num_tasks=self.num_tasks, generator=generator, **options).to(self.device)

    def _setup_optimizers(self) -> None:
        adam = partial(
            torch.optim.Adam, lr=self.lr_schedule(1), eps=self.settings["adam_epsilon"], fused=True
        )
        self.actor_optimizer = adam(self.actor.parameters(), weight_decay=self.settings["actor_weight_decay"])
        self.critic_optimizer = adam(self.critic.parameters())
        self.temperature_optimizer = adam(self.temperature.parameters())

    @property
    def runtime(self) -> dict[str, Any]:
        """Choices made from the machine, for the record of a run."""
        return {
            "device": str(self.device),
            "precision": self.precision,
            "float32_matmul_precision": self.float32_mode,
            "torch_threads": torch.get_num_threads(),
            "pipeline": self.pipeline,
        }

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
        tb_log_name: str = "MTSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for `total_timesteps` transitions; simulation and learning overlap unless ``pipeline=False``.

        :param log_interval: episodes between two log entries; None leaves logging to callbacks (`dump_logs`)
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()
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
        self._store_transition(self.replay_buffer, scaled_actions, new_obs, rewards, dones, infos)  # type: ignore[arg-type]
        self._update_info_buffer(infos, dones)
        self.progress.observe(dones, infos)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.update_locals(locals())
        go_on = callback.on_step() is not False
        for _ in range(int(np.sum(dones))):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        return go_on

    def _sample_action(  # type: ignore[override]
        self, learning_starts: int, action_noise: None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions for the environments and, scaled to [-1, 1], for the replay buffer; both ``[N, A]``."""
        if self.num_timesteps < learning_starts:
            shape = (len(self.task_of_env), self.policy.action_size)
            scaled = torch.rand(shape, generator=self._exploration).mul_(2).sub_(1).numpy()
            return self.policy.unscale_action(scaled), scaled
        actions, _ = self.predict(self._last_obs, deterministic=False)  # type: ignore[arg-type]
        return actions, self.policy.scale_action(actions)

    def _store_transition(self, replay_buffer, buffer_action, new_obs, reward, dones, infos) -> None:  # type: ignore[no-untyped-def, override]
        self.reward_scale.observe(
            torch.as_tensor(reward, device=self.device), torch.as_tensor(self.task_of_env, device=self.device)
        )
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _train_when_ready(self) -> None:
        # A loaded agent is past its learning starts, and its replay buffer is empty.
        stored = self.replay_buffer is not None and self.replay_buffer.size() > 0
        if stored and self.num_timesteps > self.learning_starts and self.gradient_steps > 0:
            self.train(self.gradient_steps, self.batch_size)

    # ------------------------------------------------------------------ learning

    def train(self, gradient_steps: int, batch_size: int = 0) -> None:
        """Make updates on stratified batches.

        :param gradient_steps: updates
        :param batch_size: transitions of one update over all tasks; 0 takes the agent's own
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor_optimizer, self.critic_optimizer, self.temperature_optimizer])
        with float32_products(self.float32_mode):
            for _ in range(gradient_steps):
                sample = self.replay_buffer.sample(batch_size or self.batch_size)
                shape = (2, *sample.actions.shape)
                noise = torch.randn(shape, generator=self._update_noise, device=self.device)
                self.metrics.add(self.update(sample, noise))
                self._n_updates += 1

    def update(self, sample: ReplaySample, noise: Tensor) -> dict[str, Tensor]:
        """One update: critic, actor, temperatures, target critics.

        :param sample: B transitions of each of K tasks
        :param noise: standard normal ``[2, K, B, A]``: for the next action and for the current one
        :return: metrics of this update, each a scalar or ``[K]``, on the device
        """
        rewards = self.reward_scale.scaled(sample.rewards)
        discounts = self.gamma * (1.0 - sample.terminals)
        temperatures = self.temperature.value()
        with self._autocast():
            target = critic_target(
                self.actor, self.critic_target, sample.next_states, rewards, discounts, noise[0], temperatures, self._task
            )

        critic = self._objective(
            self._critic_losses, self.critic, (sample.states, sample.actions, target, self._task)
        )
        critic_norm = self._descend(critic, self.critic_balancer, self.critic_optimizer)

        actor = self._objective(self._actor_losses, self.actor, (sample.states, noise[1], temperatures, self._task))
        actor_norm = self._descend(actor, self.actor_balancer, self.actor_optimizer)

        log_probabilities = actor.metrics["log_probability"]
        temperature_losses = self._descend_temperature(log_probabilities)

        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.critic_target.parameters()), list(self.critic.parameters()), self.tau
            )
        return {
            "critic_loss": critic.losses,
            "actor_loss": actor.losses,
            "temperature": temperatures,
            "temperature_loss": temperature_losses,
            "q_value": critic.metrics["q_value"],
            "entropy": -log_probabilities,
            "critic_gradient_norm": critic_norm,
            "actor_gradient_norm": actor_norm,
            **with_prefix("critic_balancer", self.critic_balancer.diagnostics()),
            **with_prefix("actor_balancer", self.actor_balancer.diagnostics()),
        }

    def _autocast(self) -> Any:
        return autocast(self.precision, self.device)

    # Autocast covers the forward passes alone: the gradients follow in the precision each product was made in.

    def _critic_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            return critic_losses(self.critic, parameters, *batch)

    def _actor_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            return actor_losses(self.actor, self.critic, parameters, *batch)

    def _objective(self, losses: Any, module: nn.Module, batch: Sequence[Tensor]) -> TaskObjective:
        return TaskObjective(
            losses,
            dict(module.named_parameters()),
            batch,
            grouped=takes_grouped_parameters(module),
            step=self._n_updates,
            progress=self.progress,
            temperatures=self.temperature.value(),
            task_names=self.task_names,
        )

    def _descend(self, objective: TaskObjective, balancer: Balancer, optimizer: torch.optim.Optimizer) -> Tensor:
        """One balanced step of one optimizer; returns the norm of the balanced gradient before clipping."""
        balancer.backward(objective)
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        norm = nn.utils.clip_grad_norm_(list(objective.parameters.values()), limit, foreach=True)
        optimizer.step()
        if balancer.wants_after:
            balancer.observe(objective.losses_now())
        return norm

    def _descend_temperature(self, log_probabilities: Tensor) -> Tensor:
        """One step of the temperatures; each task's own, or the shared one for the mean task. Returns losses ``[K]``."""
        losses = self.temperature.losses(log_probabilities)
        if self.temperature.learned:
            self.temperature_optimizer.zero_grad()
            (losses.sum() * len(self.temperature.log_alpha) / self.num_tasks).backward()
            self.temperature_optimizer.step()
        return losses.detach()

    # ------------------------------------------------------------------ logging

    def dump_logs(self) -> None:
        """Write the log: SB3's tags, one tag per task, and the means of all updates since the last call."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for tag, value in self.metrics.flush(self.task_names).items():
            self.logger.record(tag, value)
        for tag, values in (
            ("rollout_return", self.progress.returns),
            ("rollout_success", self.progress.successes),
        ):
            for task, value in zip(self.task_names, values.tolist(), strict=True):
                if not np.isnan(value):
                    self.logger.record(f"{tag}/{task}", value)
        super().dump_logs()

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
            "algorithm": "MTSAC",
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
        :raises AgentFileError: if the file is no agent, or its tensors do not fit
        """
        data, tensors = read_agent(path, device)
        foreign = sorted(_NOT_SAVED & data["settings"].keys())
        if foreign:
            raise AgentFileError(f"{path} sets '{foreign[0]}', which belongs to a session and not to an agent.")
        model = cls(device=device, **{**data["settings"], **kwargs}, _init_setup_model=False)
        model.task_names = tuple(data["task_names"])
        model.observation_space, model.action_space = (
            space_from_json(data[name]) for name in ("observation_space", "action_space")
        )
        model._setup_model()
        if env is not None:
            model.set_env(env)
            model.set_random_seed(model.seed)
        try:
            for name, part in model._parts().items():
                if not name.endswith("_optimizer"):
                    part.load_state_dict(tensors[name])
                elif name in tensors:
                    # Moments come from the file, rates and the like from the settings that the caller may have changed.
                    groups = part.state_dict()["param_groups"]
                    part.load_state_dict({**tensors[name], "param_groups": groups})
        except (RuntimeError, ValueError, KeyError) as error:
            raise AgentFileError(f"{path} does not fit the agent it describes: {error}") from error
        model.num_timesteps, model._n_updates = data["num_timesteps"], data["n_updates"]
        return model

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
        return {
            "policy": self.policy,
            "temperature": self.temperature,
            "reward_scale": self.reward_scale,
            "critic_balancer": self.critic_balancer,
            "actor_balancer": self.actor_balancer,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "temperature_optimizer": self.temperature_optimizer,
        }

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return list(self._parts()), []

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Continue in another environment of the same tasks; an agent loaded without one can learn from then on."""
        self._adopt_tasks(env)
        if self.env is None:
            self.n_envs = len(self.task_of_env)
        BaseAlgorithm.set_env(self, env, force_reset)
        if self.replay_buffer is None:
            self._setup_memory()
