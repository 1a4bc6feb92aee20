"""CONTRIBUTING.md is true: its network registers, learns, is saved, and is a choice without a file of its own."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.config_store import ConfigStore

from agents import MTSAC
from agents.networks import NETWORKS, NetworkShape, make_network
from agents.networks.layers import takes_grouped_parameters

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"
(CODE,) = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def registered():
    exec(compile(CODE, str(PAGE), "exec"), {"__name__": __name__})
    yield
    del NETWORKS._records["gated"]


def test_a_complete_network_takes_at_most_forty_lines():
    assert len(CODE.splitlines()) <= 40


def test_it_keeps_task_gradients_apart_and_tells_tasks_apart():
    shape = NetworkShape(6, 2, 3, 2, torch.Generator().manual_seed(0))
    network = make_network("gated", shape, hidden_sizes=(8,))
    assert takes_grouped_parameters(network)
    inputs = torch.randn(1, 4, 6).expand(3, -1, -1)
    outputs = network(inputs, torch.arange(3))
    assert outputs.shape == (2, 3, 4, 2) and not torch.equal(outputs[:, 0], outputs[:, 1])


def test_it_learns_under_a_gradient_method_and_is_loaded_again(small_agent, tmp_path):
    agent = small_agent(policy_kwargs={"network": "gated"}, balancer="pcgrad")
    before = {name: value.clone() for name, value in agent.policy.named_parameters()}
    agent.learn(200, log_interval=None)
    assert agent._n_updates > 0
    assert all(not torch.equal(value, before[name]) for name, value in agent.policy.named_parameters())
    agent.save(tmp_path / "agent.zip")
    observations = agent.env.reset()
    loaded = MTSAC.load(tmp_path / "agent.zip", device="cpu")
    actions = [one.predict(observations, deterministic=True)[0] for one in (agent, loaded)]
    assert np.array_equal(*actions)


def test_it_is_a_choice_with_its_own_defaults_and_without_a_file():
    from mtrl.compose import compose

    before = dict(ConfigStore.instance().repo)
    try:
        config = compose(["env=pointmass", "network=gated", "~experiment", "network.options.head_scale=0.5"])
    finally:
        ConfigStore.instance().repo = before
    assert (config.network.name, config.network.hidden_sizes) == ("gated", (256, 256))
    assert config.network.options == {"head_scale": 0.5}
