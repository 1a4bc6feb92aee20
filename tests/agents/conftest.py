"""Agents small enough for tests, on the point-mass suite and on single Gymnasium tasks.

No ``__init__.py`` may stand in this folder: with it, ``import agents`` could find the tests instead of the package.
"""

import hashlib

import numpy as np
import pytest
import torch

from agents import MTSAC
from envs import make_suite

torch.set_num_threads(1)  # sums in a fixed order, and no quarrel over cores

SMALL = {"hidden_sizes": [16, 16]}


@pytest.fixture
def pointmass():
    """Maker of point-mass environments; closes them after the test."""
    made = []

    def make(num_tasks=4, copies=1, seed=0, **options):
        made.append(make_suite("pointmass", num_tasks=num_tasks, **options).make_vec_env(seed=seed, copies=copies))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def small_agent(pointmass):
    """Maker of agents with 2x16 networks; keyword arguments go to MTSAC, those with `env_` to the environment."""

    def make(**options):
        env_options = {name[4:]: options.pop(name) for name in list(options) if name.startswith("env_")}
        env = options.pop("env", None) or pointmass(**env_options)
        network = {**SMALL, **options.pop("policy_kwargs", {})}
        defaults = {"learning_starts": 40, "batch_size": 4 * env.num_tasks, "buffer_size": 4_000, "seed": 0}
        return MTSAC("MultiTaskPolicy", env, device="cpu", policy_kwargs=network, **{**defaults, **options})

    return make


@pytest.fixture
def fingerprint():
    """Hash of every tensor of an agent: networks, temperatures, reward scales, balancers and optimisers."""

    def hash_of(agent):
        digest = hashlib.sha256()

        def add(value):
            if isinstance(value, dict):
                for name in sorted(value, key=str):
                    digest.update(str(name).encode())
                    add(value[name])
            elif isinstance(value, (list, tuple)):
                for entry in value:
                    add(entry)
            elif isinstance(value, torch.Tensor):
                digest.update(value.detach().cpu().numpy().tobytes())
            else:
                digest.update(repr(value).encode())

        for name in ("policy", "temperature", "reward_scale", "critic_balancer", "actor_balancer"):
            add(getattr(agent, name).state_dict())
        for name in ("actor_optimizer", "critic_optimizer", "temperature_optimizer"):
            add(getattr(agent, name).state_dict())
        return digest.hexdigest()

    return hash_of


@pytest.fixture
def random_sample():
    """Maker of a replay sample of the right shapes for an agent."""
    from agents.replay import ReplaySample

    def make(agent, samples=8, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        tasks, states, actions = agent.num_tasks, agent.policy.state_size, agent.policy.action_size

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=dtype)

        return ReplaySample(
            normal(tasks, samples, states),
            normal(tasks, samples, actions).tanh(),
            normal(tasks, samples),
            normal(tasks, samples, states),
            (torch.rand(tasks, samples, generator=generator) < 0.2).to(dtype),
        )

    return make


@pytest.fixture
def transitions():
    """Random steps as a loop would see them: observations, actions, next observations, rewards, dones, infos."""

    def walk(env, steps, seed=0):
        generator = np.random.default_rng(seed)
        observations = env.reset()
        for _ in range(steps):
            actions = generator.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32)
            following, rewards, dones, infos = env.step(actions)
            yield observations, actions, following, rewards, dones, infos
            observations = following

    return walk
