"""One seed, one agent: fingerprints of training, and global generators left as they were."""

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

TRAIN = """
import torch
torch.set_num_threads(1)
from agents import MTSAC
from envs import make_suite
env = make_suite("pointmass", num_tasks=2).make_vec_env(seed=0)
agent = MTSAC("MultiTaskPolicy", env, learning_starts=40, batch_size=8, buffer_size=2000, seed=3, device="cpu",
              balancer="rlw", reward_scale="std", policy_kwargs={"hidden_sizes": [16, 16]})
agent.learn(240, log_interval=None)
print(agent.predict(env.reset(), deterministic=True)[0].tobytes().hex())
print(agent.critic.network.head.weight.detach().numpy().tobytes().hex())
"""

options = pytest.mark.parametrize(
    "options",
    [
        {},
        {"pipeline": False},
        {"balancer": "rlw", "reward_scale": "std", "temperature": "shared"},
        {"precision": "bfloat16", "policy_kwargs": {"network": "multihead", "task_id": "embedding"}},
    ],
    ids=["default", "sequential", "rlw", "bfloat16 multihead"],
)


def trained(small_agent, updates=150, **settings):
    agent = small_agent(**settings)
    agent.learn(agent.learning_starts + 4 * updates + 8, log_interval=None)
    assert agent._n_updates >= updates
    return agent


@options
def test_two_runs_with_one_seed_give_equal_fingerprints(small_agent, fingerprint, options):
    first, second = (fingerprint(trained(small_agent, **options)) for _ in range(2))
    assert first == second


def test_different_seeds_give_different_agents(small_agent, fingerprint):
    assert fingerprint(trained(small_agent, 5, seed=1)) != fingerprint(trained(small_agent, 5, seed=2))


def test_a_learning_rate_of_zero_changes_no_weight(small_agent, fingerprint):
    agent = small_agent(learning_rate=0.0)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(200, log_interval=None)
    assert all(torch.equal(value, before[name]) for name, value in agent.policy.state_dict().items())


def test_two_processes_with_one_seed_give_equal_agents():
    runs = [subprocess.Popen([sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert outputs[0] == outputs[1] and len(outputs[0]) > 100


def global_state():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return pickle.dumps((random.getstate(), numpy_state, torch.get_rng_state().numpy().tobytes()))


@options
def test_the_global_generators_are_never_touched(pointmass, small_agent, options, tmp_path):
    env = pointmass()
    before = global_state()
    agent = small_agent(env=env, **options)
    assert global_state() == before, "building the agent drew from a global generator"
    agent.learn(200)
    assert global_state() == before, "learning drew from a global generator"
    agent.predict(env.reset())
    agent.save(tmp_path / "agent")
    type(agent).load(tmp_path / "agent", device="cpu")
    assert global_state() == before, "saving or loading drew from a global generator"


def test_global_seeds_do_not_change_the_agent(small_agent, fingerprint):
    prints = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        prints.append(fingerprint(trained(small_agent, 20)))
    assert prints[0] == prints[1]


def test_without_a_seed_two_agents_differ(small_agent, fingerprint):
    assert fingerprint(small_agent(seed=None)) != fingerprint(small_agent(seed=None))


def test_streams_are_named_so_that_drawing_more_of_one_shifts_no_other():
    from agents.randomness import Generators

    first, second = Generators(7), Generators(7)
    first.torch("replay"), first.torch("exploration")
    draws = [torch.rand(5, generator=generators.torch("update noise")) for generators in (first, second, Generators(8))]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], torch.rand(5, generator=second.torch("replay")))


def test_the_float32_mode_of_the_process_is_left_as_it_was(small_agent):
    before = torch.get_float32_matmul_precision()
    small_agent().learn(200, log_interval=None)
    assert torch.get_float32_matmul_precision() == before
