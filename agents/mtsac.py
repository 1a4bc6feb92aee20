"""Multitask soft actor-critic: shared actor and critics, K losses, and a balancer that turns them into one update.

The face is Stable-Baselines3's; `update` reads like the paper (Haarnoja et al. 2018, arXiv 1812.05905).
"""

from typing import Any

import torch
from torch import Tensor

from agents.actor_critic import ActorCriticAlgorithm
from agents.algorithms import register_algorithm
from agents.balancing.learner import Report
from agents.balancing.tasks import UpdateContext
from agents.critics import PopArtValue
from agents.metrics import with_prefix
from agents.mtsac_settings import MTSACArguments, MTSACPreset
from agents.off_policy import MultiTaskOffPolicy
from agents.policies import Actor, Critic, owns
from agents.precision import float32_products
from agents.replay import ReplaySample, samples_per_task
from agents.reward_scale import make_reward_scale
from agents.selection import Selection
from agents.temperature import Temperature, target_entropy_of
from agents.updates import actor_losses, critic_losses, critic_target

SAMPLES_PER_TASK = 32  # B where batch_size is not given


@register_algorithm("mtsac", preset=MTSACPreset, summary="Multitask SAC: shared actor and critics, learnt from replay")
class MTSAC(ActorCriticAlgorithm, MultiTaskOffPolicy):
    """Multitask SAC with pluggable balancers.

    Time counts as in SB3: `total_timesteps`, `learning_starts` and `buffer_size` are transitions over all tasks,
    `train_freq` is in vector steps, `gradient_steps` in updates.
    """

    arguments = MTSACArguments
    settings: MTSACArguments
    actor: Actor
    critic: Critic
    critic_target: Critic

    def _setup_model(self) -> None:
        settings = self.settings
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.batch_size = self.batch_size or SAMPLES_PER_TASK * self.num_tasks
        samples_per_task(self.batch_size, self.num_tasks)
        self._setup_machine()
        self.policy = self._make_policy(self.generators.torch("policy")).to(self.device)
        self.actor, self.critic, self.critic_target = self.policy.actor, self.policy.critic, self.policy.critic_target
        wanted = [target_entropy_of(settings.target_entropy, size) for size in self.action_sizes]
        target_entropy = torch.tensor(wanted, dtype=torch.float64)
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
        self._polyak: tuple[list[Tensor], list[Tensor]] = (
            list(self.critic_target.parameters()),
            list(self.critic.parameters()),
        )
        self._setup_optimizers()
        self._setup_learners()
        self._exploration = self.generators.torch("exploration")
        self._update_noise = self.generators.torch("update noise", self.device)
        self.replay_buffer = None
        if self.env is not None:
            self._setup_tasks()

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
        return {**super().runtime, "pipeline": self.pipeline}

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
                selection = self.critic_balancer.next_selection(self.progress)
                sample = self.replay_buffer.sample(batch_size or self.batch_size, selection)
                shape = (2, *sample.actions.shape)
                noise = torch.randn(shape, generator=self._update_noise, device=self.device)
                metrics = self.update(sample, noise, selection)
                self._n_updates += 1
                if self.guard.end():
                    self.metrics.add(metrics, self.critic_learner.selection)
                if self.guard.stuck():
                    raise self.guard.error(self.task_names, self._n_updates, self._task_gradient_norms)

    def update(self, sample: ReplaySample, noise: Tensor, selection: Selection | None = None) -> dict[str, Tensor]:
        """One update: critic, actor, temperatures, target critics.

        :param sample: B transitions for each of the selection's groups
        :param noise: standard normal ``[2, G, B, A]``: for the next action and for the current one
        :param selection: which tasks the sample is of; None for all K, in order
        :return: metrics of this update, each a scalar or ``[K]``, on the device; NaN for an idle task
        """
        sample = self._on_one_scale(sample)
        selection = selection or Selection.whole(self.num_tasks)
        context = self._context(selection)
        task, temperatures = selection.on(self.device), selection.pick(self.temperature.value())
        target = self._target(sample, noise[0], temperatures, selection)
        self._begin_guard(sample, noise, task, temperatures, target)
        if isinstance(self.critic.value, PopArtValue) and self.guard.passes("target", target):
            self.critic.value.update(target, task, [self.critic.network.head, self.critic_target.network.head])

        critic = self.critic_learner.step((sample.states, sample.actions, target, task), context, self.guard)

        # The actor learns the tasks that the critic has learnt: a scheduler has picked them by now.
        for_actor = critic.selection.among(selection, sample.states, noise[1], temperatures, task)
        actor = self.actor_learner.step(for_actor, context.narrowed(critic.selection), self.guard)

        entropy = -actor.objective.metrics["log_probability"]
        temperature = self.temperature.step(self.temperature_optimizer, -entropy, critic.selection, self.guard)
        self._move_targets()
        return self._report(critic, actor, context, temperature_loss=temperature, entropy=entropy)

    def _on_one_scale(self, sample: ReplaySample) -> ReplaySample:
        """The sample with its states on the scale of now: an old transition is read as a new one would be."""
        scale = self.policy.scale
        return sample._replace(states=scale(sample.states), next_states=scale(sample.next_states))

    def _context(self, selection: Selection) -> UpdateContext:
        return UpdateContext(
            selection,
            self.task_names,
            self._n_updates,
            self.progress,
            self.temperature.value(),
            self.critic_optimizer.param_groups[0]["lr"],
        )

    @torch.no_grad()
    def _target(self, sample: ReplaySample, noise: Tensor, temperatures: Tensor, selection: Selection) -> Tensor:
        """TD target of the critics, from scaled rewards."""
        task = selection.on(self.device)
        rewards = self.reward_scale.scaled(sample.rewards, temperatures, None if selection.is_whole else task)
        discounts = self.gamma * (1.0 - sample.terminals)
        following = (sample.next_states, rewards, discounts, noise, temperatures, task)
        usual = len(task) == self.num_tasks
        return self._evaluate(critic_target, self.actor, self.critic_target, *following, usual=usual)

    @torch.no_grad()
    def _move_targets(self) -> None:
        """Move the target critics towards the critics, unless the update has stopped."""
        if not self.guard.stopped:
            torch._foreach_lerp_(*self._polyak, self.tau)

    def _begin_guard(
        self, sample: ReplaySample, noise: Tensor, task: Tensor, temperatures: Tensor, target: Tensor
    ) -> None:
        """Tell the guard what the update is computed from: it names the culprit by it."""
        named = {**sample._asdict(), "noise": noise.transpose(0, 1), "temperature": temperatures, "target": target}
        self.guard.begin(task=task, **named)

    def _report(self, critic: Report, actor: Report, context: UpdateContext, **more: Tensor) -> dict[str, Tensor]:
        """The metrics of an update."""
        assert context.temperatures is not None
        return {
            "critic_loss": critic.objective.losses,
            "actor_loss": actor.objective.losses,
            "temperature": context.temperatures,
            "q_value": critic.objective.metrics["q_value"],
            "q_max_abs": critic.objective.metrics["q_max_abs"],
            "critic_gradient_norm": critic.norm,
            "actor_gradient_norm": actor.norm,
            **more,
            **with_prefix("critic_balancer", self.critic_balancer.diagnostics()),
            **with_prefix("actor_balancer", self.actor_balancer.diagnostics()),
        }

    def _critic_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        usual = owns(self.critic, parameters) and len(batch[0]) == self.num_tasks
        return self._evaluate(critic_losses, self.critic, parameters, *batch, usual=usual)

    def _actor_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        usual = owns(self.actor, parameters) and len(batch[0]) == self.num_tasks
        return self._evaluate(actor_losses, self.actor, self.critic, parameters, *batch, usual=usual)

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
