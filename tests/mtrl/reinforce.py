"""A second algorithm, for tests: REINFORCE (Williams 1992) on the shared actor, without critics and replay buffer."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from typing_extensions import Self

from agents.arguments import AgentArguments
from agents.balancers import make_balancer
from agents.metrics import UpdateMetrics
from agents.multitask import MultiTaskAlgorithm
from agents.policies import ActingPolicy
from agents.settings import AgentPreset, Changes, Count, Positive, Range

Transition = tuple[np.ndarray, Tensor, np.ndarray, np.ndarray]  # observations, unsquashed actions, rewards, dones


@dataclass(frozen=True)
class ReinforceSettings:
    """What constructor and command line have in common.

    :param gamma: discount
    :param rollout_steps: vector steps between two updates
    :param patience: acts on a fault alone
    """

    gamma: Annotated[float, Range(0, 1, exclusive=True)] = 0.95
    rollout_steps: Count = 10
    patience: Annotated[Count, Changes.NOTHING] = 3


@dataclass(frozen=True)
class ReinforceArguments(ReinforceSettings, AgentArguments):
    """Arguments of the constructor."""

    ATTRIBUTES = ("gamma",)


@dataclass(frozen=True)
class ReinforcePreset(ReinforceSettings, AgentPreset):
    """Settings of the command line.

    :param learning_rate: of the actor
    """

    algorithm: str = "reinforce"
    name: str = "reinforce"
    learning_rate: Positive = 3e-3

    def arguments(self, num_tasks: int, env_steps: int, copies: int) -> dict[str, Any]:
        shared = {field.name: getattr(self, field.name) for field in fields(ReinforceSettings)}
        return {**shared, "learning_rate": self.learning_rate}

    def problems(self, num_tasks: int | None = None) -> Iterator[str]:
        if self.rollout_steps > 1000:
            yield f"rollout_steps must be at most 1000, found {self.rollout_steps}."


class Reinforce(MultiTaskAlgorithm):
    """REINFORCE whose K task losses a balancer weighs."""

    arguments = ReinforceArguments
    settings: ReinforceArguments
    policy_type = ActingPolicy
    gamma: float

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self._make_policy(self.generators.torch("policy")).to(self.device)
        self.actor_optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.lr_schedule(1))
        options = self.settings.balancer_kwargs or {}
        generator = self.generators.torch("balancer")
        self.balancer = make_balancer(self.settings.balancer, num_tasks=self.num_tasks, generator=generator, **options)
        self._exploration = self.generators.torch("exploration")
        self.metrics = UpdateMetrics()
        if self.env is not None:
            self._setup_tasks()

    def learn(  # type: ignore[override]
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = None,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()
            rollout = [self._vector_step(callback) for _ in range(self.settings.rollout_steps)]
            callback.on_rollout_end()
            self._update(rollout)
        callback.on_training_end()
        return self

    def _vector_step(self, callback: BaseCallback) -> Transition:
        assert self.env is not None and isinstance(self._last_obs, np.ndarray)
        observations = self._last_obs
        with torch.no_grad():
            mean, log_std = self._distribution(observations)
            unsquashed = mean + log_std.exp() * torch.randn(mean.shape, generator=self._exploration)
        actions = self.policy.unscale_action(unsquashed.tanh().numpy())
        self._last_obs, rewards, dones, infos = self.env.step(actions)
        self.num_timesteps += self.env.num_envs
        self._update_info_buffer(infos, dones)
        self.progress.observe(dones, infos, False)
        self._note_budget()
        callback.update_locals(locals())
        callback.on_step()
        self._episode_num += int(np.sum(dones))
        return observations, unsquashed, rewards, dones

    def _distribution(self, observations: np.ndarray) -> tuple[Tensor, Tensor]:
        mean, log_std = self.policy.actor(*self.policy.split(torch.from_numpy(observations)))
        return mean.squeeze(1), log_std.squeeze(1)

    def _update(self, rollout: list[Transition]) -> None:
        returns, following = [], np.zeros(len(self.task_of_env), dtype=np.float32)
        for _, _, rewards, dones in reversed(rollout):
            following = rewards + self.gamma * following * (1 - dones)
            returns.insert(0, torch.from_numpy(following.astype(np.float32)))
        gains = torch.stack(returns)  # [T, N]
        gains = (gains - gains.mean(0)) / (gains.std(0) + 1e-6)
        losses = torch.zeros(self.num_tasks)
        tasks = torch.from_numpy(self.task_of_env)
        for gain, (observations, unsquashed, _, _) in zip(gains, rollout, strict=True):
            mean, log_std = self._distribution(observations)
            log_probability = (-0.5 * ((unsquashed - mean) / log_std.exp()).square() - log_std).sum(-1)
            losses = losses.index_add(0, tasks, -gain * log_probability / len(rollout))
        weights = self.balancer(_Losses(losses.detach()))
        self.actor_optimizer.zero_grad()
        (weights * losses).mean().backward()
        self.actor_optimizer.step()
        self._n_updates += 1
        self.metrics.add({"actor_loss": losses.detach()})

    def _parts(self) -> dict[str, Any]:
        return {"policy": self.policy, "actor_optimizer": self.actor_optimizer, "balancer": self.balancer}


@dataclass(frozen=True)
class _Losses:
    """What a balancer that looks at the losses alone needs."""

    losses: Tensor
    step: int = 0
    progress: Any = None
