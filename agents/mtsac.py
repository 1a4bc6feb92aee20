"""Multitask soft actor-critic: shared actor and critics, K losses, and a balancer that turns them into one update.

The face is Stable-Baselines3's; `update` reads like the paper (Haarnoja et al. 2018, arXiv 1812.05905).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agents.algorithms import register_algorithm
from agents.allocator import keep_freed_memory
from agents.balancers import Balancer, make_balancer
from agents.balancing.gradient_memory import expect_parameters
from agents.balancing.guard import make_guard
from agents.balancing.objective import TaskObjective
from agents.balancing.task_gradients import Scratch, factors_pay
from agents.compiler import Compiler
from agents.errors import ConfigurationError
from agents.metrics import UpdateMetrics, with_prefix
from agents.mtsac_settings import MTSACArguments, MTSACPreset
from agents.networks.layers import takes_grouped_parameters
from agents.off_policy import MultiTaskOffPolicy
from agents.policies import Actor, Critic, owns
from agents.precision import autocast, fastest_exact_float32, float32_products, resolve_precision
from agents.replay import ReplaySample, samples_per_task
from agents.reward_scale import make_reward_scale
from agents.temperature import Temperature, target_entropy_of
from agents.updates import actor_losses, critic_losses, critic_target

SAMPLES_PER_TASK = 32  # B where batch_size is not given


@register_algorithm("mtsac", preset=MTSACPreset, summary="Multitask SAC: shared actor and critics, learnt from replay")
class MTSAC(MultiTaskOffPolicy):
    """Multitask SAC with pluggable balancers.

    Time counts as in SB3: `total_timesteps`, `learning_starts` and `buffer_size` are transitions over all tasks,
    `train_freq` is in vector steps, `gradient_steps` in updates.
    """

    arguments = MTSACArguments
    settings: MTSACArguments
    max_grad_norm: float | None
    actor: Actor
    critic: Critic
    critic_target: Critic

    def _setup_model(self) -> None:
        settings = self.settings
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.batch_size = self.batch_size or SAMPLES_PER_TASK * self.num_tasks
        samples_per_task(self.batch_size, self.num_tasks)
        self.precision = resolve_precision(settings.precision, self.device)
        self.float32_mode = fastest_exact_float32(self.device)
        self._compiler = Compiler() if settings.compile else None
        keep_freed_memory()
        self.policy = self._make_policy(self.generators.torch("policy")).to(self.device)
        self.actor, self.critic, self.critic_target = self.policy.actor, self.policy.critic, self.policy.critic_target
        target_entropy = target_entropy_of(settings.target_entropy, self.policy.action_size)
        self.temperature = Temperature(self.num_tasks, settings.ent_coef, settings.temperature, target_entropy).to(
            self.device
        )
        self.reward_scale = make_reward_scale(
            settings.reward_scale,
            self.num_tasks,
            gamma=self.gamma,
            target_entropy=target_entropy,
            limit=self.critic.value.limit,
        ).to(self.device)
        # Collected once: walking the modules at every update would cost as much as a small product.
        self._balanced: dict[nn.Module, tuple[dict[str, nn.Parameter], bool]] = {
            module: (dict(module.named_parameters()), takes_grouped_parameters(module))
            for module in (self.actor, self.critic)
        }
        self._polyak: tuple[list[Tensor], list[Tensor]] = (
            list(self.critic_target.parameters()),
            list(self.critic.parameters()),
        )
        self._scratch = Scratch()
        self._setup_balancers()
        self._setup_optimizers()
        self._exploration = self.generators.torch("exploration")
        self._update_noise = self.generators.torch("update noise", self.device)
        self._task = torch.arange(self.num_tasks, device=self.device)
        self.metrics = UpdateMetrics()
        self.guard = make_guard(settings.max_skipped_updates, self.device)
        self.replay_buffer = None
        if self.env is not None:
            self._setup_tasks()

    def _setup_balancers(self) -> None:
        settings = self.settings
        name, options = settings.balancer, dict(settings.balancer_kwargs or {})
        self.critic_balancer = self._make_balancer(name, "critic balancer", options)
        actor_name, actor_options = settings.actor_balancer, dict(settings.actor_balancer_kwargs or {})
        if actor_name is None:
            refused = self.critic_balancer.needs_positive_losses
            actor_name, actor_options = ("unitary", {}) if refused else (name, options)
        self.actor_balancer = self._make_balancer(actor_name, "actor balancer", actor_options)
        if settings.actor_balancer is None and actor_name == name:
            self.actor_balancer.follow(self.critic_balancer)
        if self.actor_balancer.needs_positive_losses:
            raise ConfigurationError(
                f"actor_balancer='{actor_name}' takes logarithms or ratios of the losses, and actor losses may be "
                "negative: use it for the critic, with actor_balancer='unitary'."
            )
        if settings.actor_balancer is not None and self.actor_balancer.repeats_tasks:
            raise ConfigurationError(
                f"actor_balancer='{actor_name}' with weights_on='sampling' decides what is sampled, which critic and "
                f"actor have in common: give it as balancer='{actor_name}', or choose weights_on='loss'."
            )
        if self.actor_balancer.schedules and not self.critic_balancer.schedules:
            raise ConfigurationError(
                f"actor_balancer='{actor_name}' picks the tasks of an update, which critic and actor have in common: "
                f"give it as balancer='{actor_name}'."
            )
        if self.critic_balancer.repeats_tasks and self.actor_balancer.uses_gradients:
            raise ConfigurationError(
                f"balancer='{name}' with weights_on='sampling' mixes the tasks of a batch, and actor_balancer="
                f"'{actor_name}' works on task gradients: choose weights_on='loss'."
            )
        if self.critic_balancer.schedules:
            self.actor_balancer = self.actor_balancer.within_group().to(self.device)
        for module, balancer in ((self.critic, self.critic_balancer), (self.actor, self.actor_balancer)):
            expect_parameters(balancer, sum(parameter.numel() for parameter in self._balanced[module][0].values()))
        self._refuse_layerwise()

    def _make_balancer(self, name: str, stream: str, options: dict[str, Any]) -> Balancer:
        generator = self.generators.torch(stream)
        return make_balancer(name, num_tasks=self.num_tasks, generator=generator, **options).to(self.device)

    def _refuse_layerwise(self) -> None:
        if self.settings.jacobian != "layerwise":
            return
        for name, balancer in (("balancer", self.critic_balancer), ("actor_balancer", self.actor_balancer)):
            if balancer.needs_jacobian:
                raise ConfigurationError(
                    f"jacobian='layerwise' holds no Jacobian, and the method of {name} ({type(balancer).__name__}) "
                    "needs the whole of it: choose jacobian='full' or 'auto'."
                )
        if not all(grouped for _, grouped in self._balanced.values()):
            raise ConfigurationError(
                "jacobian='layerwise' needs a network made of layers that take grouped parameters "
                "(agents/networks/layers.py); this one has others: choose jacobian='full' or 'auto'."
            )

    def _layerwise(self, module: nn.Module, balancer: Balancer) -> bool:
        """Whether the task gradients in a module's parameters are kept as factors of its layers."""
        _, grouped = self._balanced[module]
        if self.settings.jacobian != "auto" or balancer.needs_jacobian or not grouped:
            return self.settings.jacobian == "layerwise"
        return factors_pay(self.batch_size // self.num_tasks)

    def _setup_optimizers(self) -> None:
        settings = self.settings
        common: dict[str, Any] = {"lr": self.lr_schedule(1), "eps": settings.adam_epsilon, "fused": True}
        decoupled = settings.weight_decay
        kind: type[torch.optim.Adam] = torch.optim.AdamW if decoupled else torch.optim.Adam
        actor_decay = decoupled or settings.actor_weight_decay
        self.actor_optimizer = kind(self.actor.parameters(), weight_decay=actor_decay, **common)
        self.critic_optimizer = kind(self.critic.parameters(), weight_decay=decoupled, **common)
        betas = (settings.temperature_beta1, 0.999)
        self.temperature_optimizer = torch.optim.Adam(self.temperature.parameters(), betas=betas, **common)

    @property
    def runtime(self) -> dict[str, Any]:
        """Choices made from the machine, for the record of a run."""
        return {
            **super().runtime,
            "precision": self.precision,
            "float32_matmul_precision": self.float32_mode,
            "compiled": self._compiler is not None and not self._compiler.failed,
            "pipeline": self.pipeline,
        }

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
                tasks = self.critic_balancer.next_tasks(self.progress)
                sample = self.replay_buffer.sample(batch_size or self.batch_size, tasks)
                shape = (2, *sample.actions.shape)
                noise = torch.randn(shape, generator=self._update_noise, device=self.device)
                metrics = self.update(sample, noise, tasks)
                self._n_updates += 1
                if self.guard.end():
                    self.metrics.add(metrics, self.critic_balancer.group)
                if self.guard.stuck():
                    raise self.guard.error(self.task_names, self._n_updates, self._task_gradient_norms)

    def update(self, sample: ReplaySample, noise: Tensor, tasks: Tensor | None = None) -> dict[str, Tensor]:
        """One update: critic, actor, temperatures, target critics.

        :param sample: B transitions of each of K tasks
        :param noise: standard normal ``[2, K, B, A]``: for the next action and for the current one
        :param tasks: the tasks that the sample is of, where it is not of all K in order, on the host: boolean ``[K]``,
            or the task of every group ``[G]``
        :return: metrics of this update, each a scalar or ``[K]``, on the device; NaN for a task that was left out
        """
        all_temperatures = self.temperature.value()
        task, temperatures = self._task, all_temperatures
        if tasks is not None:
            task, temperatures = task[tasks], temperatures[tasks]
        rewards = self.reward_scale.scaled(sample.rewards, temperatures, None if tasks is None else task)
        discounts = self.gamma * (1.0 - sample.terminals)
        target = self._evaluate(
            critic_target,
            self.actor, self.critic_target, sample.next_states, rewards, discounts, noise[0], temperatures, task,
            usual=tasks is None,
        )  # fmt: skip

        self.guard.begin(
            task=task,
            states=sample.states,
            actions=sample.actions,
            rewards=rewards,
            next_states=sample.next_states,
            terminals=sample.terminals,
            noise=noise.transpose(0, 1),
            temperature=temperatures,
            target=target,
        )

        for_critic = (sample.states, sample.actions, target, task)
        critic = self._objective(self._critic_losses, self.critic, self.critic_balancer, for_critic, tasks)
        critic_norm = self._descend(critic, self.critic_balancer, self.critic_optimizer, "critic")

        # The actor learns the tasks that the critic has learnt: a scheduler has picked them by now.
        for_actor = (sample.states, noise[1], temperatures, task)
        group = self.critic_balancer.group
        if group is not None and tasks is None:
            for_actor = tuple(part[group] for part in for_actor)  # type: ignore[assignment]
            tasks = group
        actor = self._objective(self._actor_losses, self.actor, self.actor_balancer, for_actor, tasks)
        actor_norm = self._descend(actor, self.actor_balancer, self.actor_optimizer, "actor")

        log_probabilities = actor.metrics["log_probability"]
        temperature_losses = self.temperature.descend(self.temperature_optimizer, log_probabilities, self.guard, group)

        with torch.no_grad():
            self.guard.follow(*self._polyak, self.tau)
        return {
            "critic_loss": critic.losses,
            "actor_loss": actor.losses,
            "temperature": all_temperatures,
            "temperature_loss": temperature_losses,
            "q_value": critic.metrics["q_value"],
            "q_max_abs": critic.metrics["q_max_abs"],
            "entropy": -log_probabilities,
            "critic_gradient_norm": critic_norm,
            "actor_gradient_norm": actor_norm,
            **with_prefix("critic_balancer", self.critic_balancer.diagnostics()),
            **with_prefix("actor_balancer", self.actor_balancer.diagnostics()),
        }

    def _critic_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        usual = owns(self.critic, parameters) and len(batch[0]) == self.num_tasks
        return self._evaluate(critic_losses, self.critic, parameters, *batch, usual=usual)

    def _actor_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        usual = owns(self.actor, parameters) and len(batch[0]) == self.num_tasks
        return self._evaluate(actor_losses, self.actor, self.critic, parameters, *batch, usual=usual)

    def _evaluate(self, function: Callable[..., Any], *arguments: Any, usual: bool) -> Any:
        """Target or losses in the agent's precision.

        Autocast covers the forward passes alone: the gradients follow in the precision each product was made in.

        :param usual: whether shapes and parameters are those of every update, so that compiling pays
        """
        with autocast(self.precision, self.device):
            if usual and self._compiler is not None:
                return self._compiler.call(function, *arguments)
            return function(*arguments)

    def _objective(
        self,
        losses: Any,
        module: nn.Module,
        balancer: Balancer,
        batch: Sequence[Tensor],
        tasks: Tensor | None = None,
    ) -> TaskObjective:
        parameters, grouped = self._balanced[module]
        present, task_of_group = tasks, None
        if tasks is not None and tasks.dtype != torch.bool:
            present, task_of_group = torch.zeros(self.num_tasks, dtype=torch.bool).index_fill(0, tasks, True), tasks
        return TaskObjective(
            losses,
            parameters,
            batch,
            present=present,
            task_of_group=task_of_group,
            grouped=grouped,
            layerwise=self._layerwise(module, balancer),
            scratch=self._scratch,
            step=self._n_updates,
            progress=self.progress,
            temperatures=self.temperature.value(),
            learning_rate=self.critic_optimizer.param_groups[0]["lr"],
            task_names=self.task_names,
        )

    def _descend(
        self, objective: TaskObjective, balancer: Balancer, optimizer: torch.optim.Optimizer, name: str
    ) -> Tensor:
        """One balanced step of one optimizer; returns the norm of the balanced gradient before clipping."""
        if not self.guard.balance(balancer, objective, name):
            return torch.full((), torch.nan, device=self.device)
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        norm = nn.utils.clip_grad_norm_(list(objective.parameters.values()), limit, foreach=True)
        self.guard.step(optimizer, balancer, norm, name)
        if balancer.wants_after:
            self.guard.observe(balancer, objective, name)
        return norm

    def _task_gradient_norms(self, name: str) -> Tensor:
        """Norms of the gradients of the latest update's ``critic`` or ``actor`` loss, computed again.

        :return: of the tasks ``[K]``, or of the groups of the batch where a task may have several
        """
        batch, present = dict(self.guard.seen), None
        if not self.critic_balancer.repeats_tasks:
            present = torch.zeros(self.num_tasks, dtype=torch.bool).index_fill(0, batch["task"].cpu(), True)
        if name == "critic":
            inputs = (batch["states"], batch["actions"], batch["target"], batch["task"])
            objective = self._objective(self._critic_losses, self.critic, self.critic_balancer, inputs, present)
        else:
            inputs = (batch["states"], batch["noise"][:, 1], batch["temperature"], batch["task"])
            objective = self._objective(self._actor_losses, self.actor, self.actor_balancer, inputs, present)
        return torch.stack([rows.square().sum(1) for _, rows in objective.blocks()]).sum(0).sqrt()

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
