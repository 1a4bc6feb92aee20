"""A policy alone acts as the agent that it was taken from, whatever its actor reads."""

import numpy as np
import torch

from agents import ActingPolicy, load_policy, save_policy
from agents.networks import NETWORKS
from tests.grids import grid

ACT_BY_THE_TASK = ("care", "film", "moore", "paco", "soft_modules")  # these are always told which task it is
TOLD = [(network, task_id) for network in NETWORKS for task_id in ("one_hot", "embedding")]
TOLD += [
    (network, other) for network in NETWORKS if network not in ACT_BY_THE_TASK for other in ("critic_embedding", "none")
]


@grid(("network", "task_id"), TOLD, always=[("mlp", "none"), ("bronet", "critic_embedding"), ("care", "one_hot")])
def test_a_policy_alone_acts_as_its_agent_to_the_bit(small_agent, tmp_path, network, task_id):
    agent = small_agent(policy_kwargs={"network": network, "task_id": task_id})
    agent.learn(100, log_interval=None)
    agent.save(tmp_path / "agent")
    save_policy(agent, tmp_path / "policy")
    observations = agent.env.reset()
    actions = agent.predict(observations, deterministic=True)[0]
    for name in ("policy", "agent"):  # a whole agent holds a policy too
        policy = load_policy(tmp_path / f"{name}.zip", "cpu")
        assert type(policy) is ActingPolicy and not hasattr(policy, "critic")
        np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], actions)


def test_building_a_policy_alone_gives_no_memory_to_critics(small_agent):
    agent = small_agent(policy_kwargs={"task_id": "critic_embedding"})
    settings = {**agent.policy_kwargs, "num_critics": 10_000_000}
    policy = ActingPolicy(agent.observation_space, agent.action_space, num_tasks=agent.num_tasks, **settings)
    assert sum(parameter.numel() for parameter in policy.parameters()) < 10_000
    assert policy.task_encoding.table.device == torch.device("cpu")
