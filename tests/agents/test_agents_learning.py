"""The agent learns: the conflicting point-mass tasks, on every seed, in seconds."""

import functools

import numpy as np
import torch

from agents import MTSAC
from envs import make_suite
from tests.grids import grid

SUITE = make_suite("pointmass", num_tasks=4)  # opposite goals in pairs, and rewards spread by a factor of 100
VECTOR_STEPS = 1_300


@functools.cache
def success_after_learning(reward_scale, seed):
    """Success of each task ``[4]``, in the order of growing rewards, over five fresh episodes each."""
    torch.set_num_threads(1)
    env = SUITE.make_vec_env(seed=seed)
    agent = MTSAC(
        "MultiTaskPolicy",
        env,
        learning_rate=3e-3,
        gamma=0.9,
        learning_starts=400,
        batch_size=4 * 16,
        buffer_size=4 * VECTOR_STEPS,
        reward_scale=reward_scale,
        policy_kwargs={"hidden_sizes": [64, 64]},
        seed=seed,
        device="cpu",
    )
    agent.learn(4 * VECTOR_STEPS, log_interval=None)
    env.close()
    return success_in_fresh_episodes(agent, seed)


def success_in_fresh_episodes(agent, seed):
    """Success of each task ``[4]``, over five episodes with goals that were not trained on."""
    fresh = SUITE.make_vec_env(seed=1_000 + seed, copies=5)
    observations = fresh.reset()
    for _ in range(SUITE.horizon):
        observations, _, dones, infos = fresh.step(agent.predict(observations, deterministic=True)[0])
    fresh.close()
    assert dones.all()
    return np.array([info["is_success"] for info in infos]).reshape(5, 4).mean(axis=0)


@grid("seed", [0, 1, 2], always=[0])
def test_four_conflicting_tasks_are_learnt_when_rewards_are_scaled_per_task(seed):
    assert success_after_learning("std", seed).mean() >= 0.9


def test_without_scaling_the_tasks_with_small_rewards_are_starved():
    scaled, raw = success_after_learning("std", 1), success_after_learning("none", 1)
    quietest, loudest = raw[0], raw[-1]
    assert quietest < scaled[0] and quietest < loudest
