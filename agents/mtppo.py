"""Multitask proximal policy optimisation: rollouts of K tasks, K clipped losses, and a balancer for each side.

The face is Stable-Baselines3's; `update` reads like the paper (Schulman et al. 2017, arXiv 1707.06347). The conditioned
critic (layer normalisation, values normalised per task) and a balancer for each side are TOPPO's (arXiv 2605.11473).
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor
from typing_extensions import Self

from agents import tags
from agents.actor_critic import ActorCriticAlgorithm
from agents.algorithms import register_algorithm
from agents.balancing.learner import Report
from agents.balancing.tasks import UpdateContext
from agents.critics import PopArtValue
from agents.errors import ConfigurationError
from agents.gaussian import GaussianActor, draw, log_density
from agents.kl_rule import KLRule
from agents.metrics import with_prefix
from agents.mtppo_settings import SAMPLES_PER_TASK, MTPPOArguments, MTPPOPreset
from agents.policies import owns
from agents.ppo_policy import PPOPolicy
from agents.ppo_updates import StateCritic, policy_losses, value_losses
from agents.precision import float32_products, one_thread
from agents.replay import samples_per_task
from agents.rollout import RolloutSample, TaskRollout, explained_variance, minibatch, normalised, permutations
from agents.selection import Selection

_OF_SB3 = ("n_steps", "gamma", "gae_lambda", "ent_coef")


@register_algorithm("mtppo", preset=MTPPOPreset, summary="Multitask PPO: shared actor and critic, learnt from rollouts")
class MTPPO(ActorCriticAlgorithm, OnPolicyAlgorithm):  # type: ignore[misc]
    """Multitask PPO with pluggable balancers.

    Time counts as in SB3: `total_timesteps` and `batch_size` are transitions over all tasks, `n_steps` vector steps.
    An iteration is a rollout and `n_epochs` passes over it in minibatches of equally many transitions of every task.
    """

    arguments = MTPPOArguments
    policy_aliases = {"MultiTaskPolicy": PPOPolicy}  # noqa: RUF012 - as in SB3
    policy_type = PPOPolicy
    alternating = True
    settings: MTPPOArguments
    policy: PPOPolicy  # type: ignore[assignment]
    actor: GaussianActor
    critic: StateCritic
    rollout: TaskRollout
    n_epochs: int
    clip_range: float

    def _face(self) -> dict[str, Any]:
        shared = {name: getattr(self.settings, name) for name in _OF_SB3}
        face = {**super()._face(), **shared, "vf_coef": 1.0, "max_grad_norm": self.settings.max_grad_norm}
        del face["support_multi_env"]  # SB3's on-policy algorithms all do
        return {**face, "use_sde": False, "sde_sample_freq": -1, "_init_setup_model": False}

    def _setup_model(self) -> None:
        settings = self.settings
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.batch_size = settings.batch_size or SAMPLES_PER_TASK * self.num_tasks
        self.samples = samples_per_task(self.batch_size, self.num_tasks)  # B
        self._setup_machine()
        policy = self._make_policy(self.generators.torch("policy")).to(self.device)
        assert isinstance(policy, PPOPolicy)
        self.policy, self.actor, self.critic = policy, policy.actor, policy.critic
        common: dict[str, Any] = {"lr": self.lr_schedule(1), "eps": settings.adam_epsilon, "fused": True}
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), **common)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), **common)
        self._setup_learners()
        self.kl_rule = KLRule(settings.target_kl, settings.kl_rule)
        self._exploration = self.generators.torch("exploration")
        self._order = self.generators.torch("minibatches")
        if self.env is not None:
            self._setup_tasks()

    def _setup_tasks(self) -> None:
        super()._setup_tasks()
        state, action = self.policy.state_size, self.policy.action_size
        self.rollout = TaskRollout(self.n_steps, state, action, self.task_of_env, self.device)
        found = self.n_steps * self.rollout.copies
        if found < self.samples:
            raise ConfigurationError(
                f"A rollout of n_steps={self.n_steps} has {found} transitions of each task, and a minibatch needs "
                f"{self.samples}: choose n_steps of at least {-(-self.samples // self.rollout.copies)}, or "
                f"batch_size={found * self.num_tasks}."
            )

    # ------------------------------------------------------------------ the loop

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for `total_timesteps` transitions, rounded up to whole rollouts.

        :param log_interval: iterations between two log entries; None leaves logging to callbacks (`dump_logs`)
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        self._note_budget()  # an agent that learns on may have more of it than it had
        callback.on_training_start(locals(), globals())
        iteration = 0
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()  # nothing is in flight here: `state` taken at this point is exact
            with one_thread():  # the cores belong to the environments
                collected = self._collect(callback)
            if not collected:
                break
            callback.on_rollout_end()
            self.train()
            iteration += 1
            if log_interval is not None and iteration % log_interval == 0:
                self.dump_logs()
        callback.on_training_end()
        return self

    def _collect(self, callback: BaseCallback) -> bool:
        """Fill the rollout; False if a callback stops the training."""
        assert self.env is not None
        self.policy.set_training_mode(False)
        self.rollout.restart()
        while not self.rollout.full:
            assert isinstance(self._last_obs, np.ndarray)
            observations = self._last_obs
            actions, log_probabilities = self._act(observations)
            clipped = self.policy.unscale_action(actions.clamp(-1.0, 1.0).numpy())
            self._last_obs = None  # if the step is lost, the next `learn` begins with a reset
            following, rewards, dones, infos = self.env.step(clipped)
            assert isinstance(following, np.ndarray)
            self._last_obs = following
            self.rollout.add(observations, actions, log_probabilities, rewards, dones, infos)
            self.num_timesteps += self.env.num_envs
            self._update_info_buffer(infos, dones)
            self.progress.observe(dones, infos)
            self._episode_num += int(np.sum(dones))
            self._note_budget()
            callback.update_locals(locals())
            if callback.on_step() is False:
                return False
        return True

    @torch.no_grad()
    def _act(self, observations: np.ndarray) -> tuple[Tensor, Tensor]:
        """Actions ``[N, A]`` in units of the box, not clipped, and their log-densities ``[N]``; both on the host."""
        states = self.rollout.grouped(torch.from_numpy(observations[:, : self.policy.state_size]))
        mean, log_std = self.actor(self.policy.scale(states.to(self.device)), self.rollout.task)
        noise = torch.randn(mean.shape, generator=self._exploration).to(self.device)
        own = self.actor.own(self.rollout.task)
        actions = draw(mean, log_std, noise, own)
        return self.rollout.ungrouped(actions), self.rollout.ungrouped(log_density(mean, log_std, actions, own))

    # ------------------------------------------------------------------ learning

    def train(self) -> None:
        """Learn from the rollout: `n_epochs` passes, unless the policy has gone too far before."""
        assert isinstance(self._last_obs, np.ndarray)
        self.policy.set_training_mode(True)
        self._set_learning_rates()
        with float32_products(self.float32_mode):
            sample = self.rollout.evaluate(self.policy.values, self._last_obs, self.gamma, self.gae_lambda)
            self._note_explained_variance(sample)
            if isinstance(self.critic.value, PopArtValue):
                self.critic.value.update(sample.returns, self.rollout.task, [self.critic.network.head])
            advantages = normalised(sample.advantages, self.settings.normalize_advantage)
            scaled = sample._replace(states=self.policy.scale(sample.states), advantages=advantages)
            last_epoch: list[Tensor] = []
            for _ in range(self.n_epochs):
                last_epoch = self._epoch(scaled)
                if last_epoch and self.kl_rule.exceeded(last_epoch[-1]):
                    break
        self.kl_rule.adapt(last_epoch)
        self.policy.observe(sample.states)

    def _epoch(self, sample: RolloutSample) -> list[Tensor]:
        """One pass over the rollout; the divergence of the policy at every minibatch, each ``[K]``."""
        transitions = sample.returns.shape[1]
        order = permutations(self.num_tasks, transitions, self._order)
        kls: list[Tensor] = []
        for first in range(0, transitions, self.samples):
            selection = self.critic_balancer.next_selection(self.progress)
            metrics = self.update(minibatch(sample, order, first, self.samples, selection), selection)
            self._n_updates += 1
            if self.guard.end():
                self.metrics.add(metrics, self.critic_learner.selection)
                kls.append(metrics["approx_kl"])
                if self.kl_rule.exceeded(kls[-1]):
                    break
            if self.guard.stuck():
                raise self.guard.error(self.task_names, self._n_updates, self._task_gradient_norms)
        return kls

    def update(self, batch: RolloutSample, selection: Selection | None = None) -> dict[str, Tensor]:
        """One update on a minibatch: critic, actor.

        :param batch: B transitions for each of the selection's groups, states and advantages scaled
        :param selection: which tasks the batch is of; None for all K, in order
        :return: metrics of this update, each a scalar or ``[K]``, on the device; NaN for an idle task
        """
        selection = selection or Selection.whole(self.num_tasks)
        task, context = selection.on(self.device), self._context(selection)
        self.guard.begin(task=task, **batch._asdict())

        critic = self.critic_learner.step((*batch, task), context, self.guard)

        # The actor learns the tasks that the critic has learnt: a scheduler has picked them by now.
        for_actor = critic.selection.among(selection, *batch, task)
        actor = self.actor_learner.step(for_actor, context.narrowed(critic.selection), self.guard)
        return self._report(critic, actor)

    def _context(self, selection: Selection) -> UpdateContext:
        rate = self.critic_optimizer.param_groups[0]["lr"]
        return UpdateContext(selection, self.task_names, self._n_updates, self.progress, None, rate)

    def _report(self, critic: Report, actor: Report) -> dict[str, Tensor]:
        """The metrics of an update."""
        of_critic, of_actor = critic.objective.metrics, actor.objective.metrics
        return {
            "critic_loss": critic.objective.losses,
            "actor_loss": actor.objective.losses,
            **{name: of_critic[name] for name in ("q_value", "q_max_abs")},
            **{name: of_actor[name] for name in ("entropy", "std", "approx_kl", "clip_fraction")},
            "critic_gradient_norm": critic.norm,
            "actor_gradient_norm": actor.norm,
            **with_prefix("critic_balancer", self.critic_balancer.diagnostics()),
            **with_prefix("actor_balancer", self.actor_balancer.diagnostics()),
        }

    def _note_explained_variance(self, sample: RolloutSample) -> None:
        explained = explained_variance(sample.values, sample.returns)
        known = explained.isfinite()
        if bool(known.any()):
            self.metrics.add({"explained_variance": explained.where(known, torch.nan)}, Selection.of(known.cpu()))

    def _set_learning_rates(self) -> None:
        """What the schedule says, times what the policy's divergence has made of it."""
        rate = self.lr_schedule(self._current_progress_remaining) * float(self.kl_rule.factor)
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.logger.record(tags.LEARNING_RATE, rate)

    def _critic_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        *parts, task = batch
        usual = self._is_usual(self.critic, parameters, batch)
        return self._evaluate(value_losses, self.critic, parameters, RolloutSample(*parts), task, usual=usual)

    def _actor_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        *parts, task = batch
        usual = self._is_usual(self.actor, parameters, batch)
        more = (RolloutSample(*parts), task, self.clip_range, self.ent_coef)
        return self._evaluate(policy_losses, self.actor, parameters, *more, usual=usual)

    def _is_usual(self, module: torch.nn.Module, parameters: dict[str, Tensor], batch: tuple[Tensor, ...]) -> bool:
        return owns(module, parameters) and tuple(batch[-2].shape) == (self.num_tasks, self.samples)

    def _parts(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "kl_rule": self.kl_rule,
            "critic_balancer": self.critic_balancer,
            "actor_balancer": self.actor_balancer,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }
