"""The parts of PPO, put together by hand, learn the conflicting point-mass tasks within seconds."""

import numpy as np
import pytest
import torch

from agents.critics import make_value
from agents.gaussian import GaussianActor, draw, log_density
from agents.networks import NetworkShape, make_network
from agents.observations import ObservationScale
from agents.own_actions import OwnActions
from agents.ppo_updates import StateCritic, policy_losses, value_losses
from agents.rollout import TaskRollout, minibatches, normalised, permutations
from envs import make_suite

SUITE = make_suite("pointmass", num_tasks=4)  # opposite goals in pairs, and rewards spread by a factor of 100
K, COPIES, STEPS, ITERATIONS, EPOCHS, BATCH = 4, 4, 50, 15, 5, 50
TASKS = torch.arange(K)


class HandMadePPO:
    """Actor, critic and scale of observations, with what MTPPO does to them."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

        def network(outputs, **options):
            shape = NetworkShape(2, outputs, K, 1, self.generator)
            return make_network("multihead", shape, hidden_sizes=(64, 64), **options)

        value = make_value("popart", "mean", num_tasks=K, rate=0.2)
        self.actor = GaussianActor(network(2, head_scale=1e-3), OwnActions([2] * K, 2))
        self.critic = StateCritic(network(1, layer_norm=True), value)
        self.scale = ObservationScale(2)
        self.optimizers = [torch.optim.Adam(side.parameters(), lr=3e-3, eps=1e-5) for side in (self.actor, self.critic)]

    @torch.no_grad()
    def act(self, observations, deterministic=False):
        """Actions ``[N, A]`` and their log-probabilities ``[N]``."""
        states = torch.from_numpy(observations[:, :2]).view(-1, K, 2).transpose(0, 1)
        mean, log_std = self.actor(self.scale(states), TASKS)
        noise = torch.zeros_like(mean) if deterministic else torch.randn(mean.shape, generator=self.generator)
        actions = draw(mean, log_std, noise)
        log_probabilities = log_density(mean, log_std, actions)
        return actions.transpose(0, 1).flatten(0, 1), log_probabilities.T.flatten()

    def values(self, states, task):
        return self.critic.values(self.scale(states), task)

    def train(self, sample):
        self.critic.value.update(sample.returns, TASKS, [self.critic.network.head])
        scaled = sample._replace(states=self.scale(sample.states), advantages=normalised(sample.advantages))
        for _ in range(EPOCHS):
            order = permutations(K, STEPS * COPIES, self.generator)
            for batch in minibatches(scaled, order, BATCH):
                policy, _ = policy_losses(self.actor, dict(self.actor.named_parameters()), batch, TASKS, 0.2, 2e-3)
                value, _ = value_losses(self.critic, dict(self.critic.named_parameters()), batch, TASKS)
                for losses, optimizer in zip((policy, value), self.optimizers, strict=True):
                    optimizer.zero_grad()
                    losses.mean().backward()
                    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
                    optimizer.step()
        self.scale.update(sample.states)

    def learn(self, seed):
        env = SUITE.make_vec_env(seed=seed, copies=COPIES)
        rollout = TaskRollout(STEPS, 2, 2, env.task_of_env, "cpu")
        observations = env.reset()
        for _ in range(ITERATIONS):
            rollout.restart()
            while not rollout.full:
                actions, log_probabilities = self.act(observations)
                before = observations
                observations, rewards, dones, infos = env.step(actions.clamp(-1, 1).numpy())
                rollout.add(before, actions, log_probabilities, rewards, dones, infos)
            self.train(rollout.evaluate(self.values, observations, 0.9, 0.95))
        env.close()

    def success(self, seed):
        """Success of each task ``[K]`` with mean actions, over five episodes with goals that were not trained on."""
        env = SUITE.make_vec_env(seed=1_000 + seed, copies=5)
        observations = env.reset()
        for _ in range(SUITE.horizon):
            actions, _ = self.act(observations, deterministic=True)
            observations, _, _, infos = env.step(actions.clamp(-1, 1).numpy())
        env.close()
        return np.array([info["is_success"] for info in infos]).reshape(5, K).mean(0)


@pytest.mark.parametrize("seed", [0, 1])
def test_four_conflicting_tasks_are_learnt_with_values_normalised_per_task(seed):
    agent = HandMadePPO(seed)
    agent.learn(seed)
    assert agent.success(seed).mean() >= 0.9
