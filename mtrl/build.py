"""From a config to the things it describes: environments, agent."""

from typing import Any, cast

import torch
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from agents.algorithms import find_algorithm
from agents.multitask import MultiTaskAlgorithm
from envs import MultiTaskVecEnv, TaskSuite, TaskVecEnv
from mtrl.config import RunConfig
from mtrl.evaluation import EvaluationResult, Policy, evaluate
from mtrl.machine import available_cores, evaluating_workers, learning_threads, simulating_workers


def use_threads(config: RunConfig) -> None:
    """Give learning the threads that the config names, or those that this machine has for it."""
    torch.set_num_threads(config.threads or learning_threads(available_cores()))


def make_training_env(config: RunConfig, suite: TaskSuite) -> MultiTaskVecEnv:
    """The environments that the agent learns in."""
    env, workers = config.env, config.env.workers
    if workers is None:
        alternating = find_algorithm(config.agent.algorithm).agent.alternating
        device = get_device(config.device).type
        workers = simulating_workers(available_cores(), suite, env.copies, device, alternating)
    return suite.make_vec_env(
        seed=config.seed,
        copies=env.copies,
        workers=workers,
        horizon=env.horizon,
        worker_timeout=env.worker_timeout,
        max_restarts=env.max_worker_restarts,
    )


def make_agent(config: RunConfig, env: TaskVecEnv) -> MultiTaskAlgorithm:
    """The agent that a config describes."""
    arguments = config.agent.arguments(env.num_tasks, config.budget(env.num_tasks), config.env.copies)
    (balancer, options), (actor_balancer, actor_options) = config.critic_balancer, config.actor_balancer
    return find_algorithm(config.agent.algorithm).agent(
        "MultiTaskPolicy",
        cast(VecEnv, env),
        **{**arguments, "policy_kwargs": {**_network_options(config), **arguments.get("policy_kwargs", {})}},
        balancer=balancer,
        balancer_kwargs=options,
        actor_balancer=actor_balancer,
        actor_balancer_kwargs=actor_options,
        seed=config.seed,
        device=config.device,
    )


def _network_options(config: RunConfig) -> dict[str, Any]:
    network, own = config.network, config.network.actor_hidden_sizes
    return {
        "network": network.name,
        "task_id": network.task_id,
        "hidden_sizes": list(network.hidden_sizes),
        "actor_hidden_sizes": None if own is None else list(own),
        "network_kwargs": dict(network.options),
        "task_embeddings": network.task_embeddings,
    }


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
