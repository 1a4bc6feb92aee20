"""From a config to the things it describes: environments, agent."""

import dataclasses
from typing import Any

import torch
from stable_baselines3.common.utils import LinearSchedule, get_device

from agents import MTSAC
from envs import MultiTaskVecEnv, TaskSuite
from mtrl.config import AgentConfig, RunConfig
from mtrl.evaluation import EvaluationResult, Policy, evaluate
from mtrl.machine import available_cores, evaluating_workers, learning_threads, simulating_workers


def use_threads(config: RunConfig) -> None:
    """Give learning the threads that the config names, or those that this machine has for it."""
    torch.set_num_threads(config.threads or learning_threads(available_cores()))


def make_training_env(config: RunConfig, suite: TaskSuite) -> MultiTaskVecEnv:
    """The environments that the agent learns in."""
    env, workers = config.env, config.env.workers
    if workers is None:
        workers = simulating_workers(available_cores(), suite, env.copies, get_device(config.device).type)
    return suite.make_vec_env(
        seed=config.seed,
        copies=env.copies,
        workers=workers,
        horizon=env.horizon,
        worker_timeout=env.worker_timeout,
        max_restarts=env.max_worker_restarts,
    )


def make_agent(config: RunConfig, env: MultiTaskVecEnv) -> MTSAC:
    """The agent that a config describes."""
    agent, tasks = config.agent, env.num_tasks
    # A run shorter than its replay buffer never fills it: it does not pay for the rest.
    overshoot = config.env.copies * agent.train_freq  # the loop ends between two rounds of updates
    everything = -(-config.budget(tasks) // tasks) + overshoot
    (balancer, options), (actor_balancer, actor_options) = config.critic_balancer, config.actor_balancer
    return MTSAC(
        "MultiTaskPolicy",
        env,
        learning_rate=_learning_rate(agent),
        buffer_size=min(agent.replay_per_task or everything, everything) * tasks,
        learning_starts=agent.warmup_steps_per_task * tasks,
        batch_size=agent.batch_size or agent.samples_per_task * tasks,
        tau=agent.tau,
        gamma=agent.gamma,
        train_freq=agent.train_freq,
        gradient_steps=agent.gradient_steps,
        ent_coef=agent.ent_coef,
        temperature=agent.temperature,
        target_entropy=agent.target_entropy,
        temperature_beta1=agent.temperature_beta1,
        reward_scale=agent.reward_scale,
        balancer=balancer,
        balancer_kwargs=options,
        actor_balancer=actor_balancer,
        actor_balancer_kwargs=actor_options,
        max_grad_norm=agent.max_grad_norm,
        weight_decay=agent.weight_decay,
        actor_weight_decay=agent.actor_weight_decay,
        adam_epsilon=agent.adam_epsilon,
        max_skipped_updates=agent.max_skipped_updates,
        precision=agent.precision,
        compile=agent.compile,
        jacobian=agent.jacobian,
        pipeline=agent.pipeline,
        policy_kwargs=_policy_options(config),
        seed=config.seed,
        device=config.device,
    )


def _policy_options(config: RunConfig) -> dict[str, Any]:
    agent, network = config.agent, config.network
    own = network.actor_hidden_sizes
    return {
        "network": network.name,
        "task_id": network.task_id,
        "hidden_sizes": list(network.hidden_sizes),
        "actor_hidden_sizes": None if own is None else list(own),
        "network_kwargs": dict(network.options),
        "task_embeddings": network.task_embeddings,
        "critic_layer_norm": agent.critic_layer_norm,
        "actor_layer_norm": agent.actor_layer_norm,
        "log_std": agent.log_std,
        "critic": agent.critic,
        "critic_kwargs": dataclasses.asdict(agent.categorical) if agent.critic == "categorical" else {},
        "ensemble_reduction": agent.ensemble_reduction,
    }


def _learning_rate(agent: AgentConfig) -> float | LinearSchedule:
    if agent.final_learning_rate is None:
        return agent.learning_rate
    return LinearSchedule(agent.learning_rate, agent.final_learning_rate, end_fraction=1.0)


class Evaluator:
    """Measures success as a config says: with few episodes while training, with all of them at the end.

    The environments of the first are built once and kept: building them costs more than stepping them.
    """

    def __init__(self, config: RunConfig, suite: TaskSuite) -> None:
        self.settings, self.suite = config.evaluation, suite
        self.seed = config.evaluation_seed
        self._env: MultiTaskVecEnv | None = None

    def while_training(self, model: Policy) -> EvaluationResult:
        """A quick measurement: one environment per task, by default no further than the first success."""
        stop = self.settings.stop_at_success
        if self._env is None:
            self._env = self.suite.make_vec_env(
                seed=self.seed,
                workers=evaluating_workers(self.settings.workers, self.suite.num_tasks),
                goal_order="sweep",
                horizon=self.settings.horizon,
                stop_at_success=stop,
            )
        return evaluate(model, self._env, self.settings.episodes, stop_at_success=stop)

    def final(self, model: Policy) -> EvaluationResult:
        """The measurement that is reported: whole episodes, every goal."""
        self.close()
        return evaluate(
            model,
            self.suite,
            self.settings.final_episodes,
            seed=self.seed,
            copies=self.settings.copies,
            workers=self.settings.workers,
            horizon=self.settings.horizon,
        )

    def close(self) -> None:
        """End the environments; safe to call twice."""
        if self._env is not None:
            self._env.close()
            self._env = None
