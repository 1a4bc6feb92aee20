"""The architectures for many tasks as agents: they learn, compile, are saved, and refuse what they cannot be."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from agents import MTSAC, ConfigurationError
from agents.files.agent_file import AgentFileError
from agents.files.policy_file import load_policy, save_policy
from agents.networks import NETWORKS, NetworkShape, make_network
from agents.networks.matching import network_parameter_count
from tests.grids import grid

SMALL = {
    "soft_modules": {"embedding_size": 16, "routing_width": 16, "encoder_width": 16},
    "paco": {"parameter_sets": 3},
    "moore": {"experts": 3},
    "care": {"experts": 3, "encoder_width": 8, "embedding_size": 8},
    "film": {"encoder_width": 8, "embedding_size": 8},
}
every = pytest.mark.parametrize("name", SMALL)


def shape(inputs=43, outputs=1, num_tasks=10, members=2, **more):
    return NetworkShape(inputs, outputs, num_tasks, members, torch.Generator().manual_seed(0), **more)


@pytest.fixture
def agent_of(small_agent):
    """Maker of small agents of an architecture."""

    def make(name, policy_kwargs=None, **options):
        kwargs = {"network": name, "network_kwargs": SMALL.get(name, {}), **(policy_kwargs or {})}
        return small_agent(policy_kwargs=kwargs, **options)

    return make


# ---------------------------------------------------------------------- learning


@every
def test_it_learns_with_normalised_categorical_critics_in_bfloat16(agent_of, name):
    kwargs = {"critic": "categorical", "critic_kwargs": {"num_atoms": 11}, "critic_layer_norm": True}
    agent = agent_of(name, kwargs, precision="bfloat16")
    before = {key: value.clone() for key, value in agent.policy.named_parameters()}
    agent.learn(400, log_interval=None)
    assert agent._n_updates > 80
    for key, value in agent.policy.named_parameters():
        assert value.isfinite().all(), key
        assert not torch.equal(value, before[key]), f"{key} has learnt nothing"


@every
def test_a_gradient_method_steps_alike_however_task_gradients_are_kept(agent_of, random_sample, name):
    agents = [agent_of(name, balancer="cagrad", jacobian=mode, max_grad_norm=None) for mode in ("full", "layerwise")]
    for step in range(2):
        sample = random_sample(agents[0], seed=step)
        noise = torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(step))
        for agent in agents:
            agent.update(sample, noise)
    full, layerwise = (agent.policy.state_dict() for agent in agents)
    for key, value in full.items():
        torch.testing.assert_close(value, layerwise[key], rtol=1e-3, atol=1e-4, msg=key)


@every
def test_an_agent_that_was_saved_and_its_exported_policy_act_alike(agent_of, pointmass, tmp_path, name):
    agent = agent_of(name)
    agent.learn(120, log_interval=None)
    agent.save(tmp_path / "agent.zip")
    save_policy(agent, tmp_path / "policy.zip")
    observations = agent.env.reset()
    actions = agent.predict(observations, deterministic=True)[0]
    loaded = MTSAC.load(tmp_path / "agent.zip", env=pointmass(), device="cpu")
    for policy in (loaded, load_policy(tmp_path / "policy.zip", "cpu")):
        assert np.array_equal(policy.predict(observations, deterministic=True)[0], actions)


@grid("name", SMALL, always=["soft_modules"])  # whose routing is the most unlike a plain network
@pytest.mark.slow
def test_a_compiled_agent_is_the_same_up_to_rounding(agent_of, name):
    agents = [agent_of(name, compile=compiled) for compiled in (True, False)]
    for agent in agents:
        agent.learn(120, log_interval=None)
    assert agents[0].runtime["compiled"]
    compiled, plain = (torch.cat([value.flatten() for value in agent.policy.parameters()]) for agent in agents)
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)


def test_experts_that_start_equal_learn_without_a_number_that_is_not_finite(agent_of):
    agent = agent_of("moore")
    for network in (agent.actor.network, agent.critic.network, agent.critic_target.network):
        for parameter in network.trunk.parameters():
            parameter.data.copy_(parameter.data[:1].expand_as(parameter))
    agent.learn(200, log_interval=None)
    assert agent._n_updates > 30
    assert all(value.isfinite().all() for value in agent.policy.parameters())


# ---------------------------------------------------------------------- a control of as many parameters


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"mlp"}))
@pytest.mark.parametrize("outputs", [1, 101])
def test_a_matched_mlp_has_as_many_parameters(name, outputs):
    control = make_network("mlp", shape(outputs=outputs), match=name)
    count = sum(parameter.numel() for parameter in control.parameters())
    assert count == pytest.approx(network_parameter_count(name, shape(outputs=outputs)), rel=0.01)


def test_sizes_and_options_of_the_matched_architecture_count():
    options = {"hidden_sizes": [64, 32], "layer_norm": True}
    control = make_network("mlp", shape(), match="paco", match_options={"parameter_sets": 20}, **options)
    wanted = network_parameter_count("paco", shape(), parameter_sets=20, **options)
    assert sum(parameter.numel() for parameter in control.parameters()) == pytest.approx(wanted, rel=0.03)
    first, second = (layer.weight.shape[-1] for layer in control.trunk[::3])
    assert first == pytest.approx(2 * second, abs=1)


def test_counting_takes_nothing_from_the_generator():
    given, spare = shape(), shape()
    network_parameter_count("moore", given)
    assert torch.equal(given.generator.get_state(), spare.generator.get_state())


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ConfigurationError, match="Unknown network 'pacco': .*did you mean 'paco'"):
        make_network("mlp", shape(), match="pacco")
    with pytest.raises(ConfigurationError, match="option of network 'paco' 'parameter_set': .*'parameter_sets'"):
        make_network("mlp", shape(), match="paco", match_options={"parameter_set": 3})
    with pytest.raises(ConfigurationError, match="match_options are for the architecture that match names"):
        make_network("mlp", shape(), match_options={"experts": 3})


# ---------------------------------------------------------------------- embeddings that are given

ROWS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32).tolist()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_given_embeddings_take_the_one_hots_place_and_travel_with_the_agent(agent_of, tmp_path, name):
    agent = agent_of(name, {"task_embeddings": ROWS})
    for network in (agent.actor.network, agent.critic.network):
        assert torch.equal(network.task_encoding.table, torch.tensor(ROWS))
    agent.learn(80, log_interval=None)
    agent.save(tmp_path / "agent.zip")
    observations = agent.env.reset()
    loaded = load_policy(tmp_path / "agent.zip", "cpu")
    expected = agent.predict(observations, deterministic=True)[0]
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task_embeddings": ROWS[:3]}, r"one row of numbers for each of the 4 tasks, found the shape \[3, 3\]"),
        ({"task_embeddings": [*ROWS[:3], [0.0, float("nan"), 1.0]]}, "finite numbers, and those of task 3 are not"),
        ({"task_embeddings": [*ROWS[:3], [0.0]]}, "rows of numbers, all of one length"),
        ({"task_embeddings": ROWS, "task_id": "none"}, "are for task_id='given', found task_id='none'"),
        ({"task_id": "given"}, "task_id='given' needs task_embeddings"),
    ],
)
def test_embeddings_that_do_not_fit_the_tasks_are_refused(agent_of, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        agent_of("care", options)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("moore", {"experts": 0}, "experts of network 'moore' must be a whole number of at least 2, .* found 0"),
        ("care", {"experts": 1}, "experts of network 'care' must be a whole number of at least 2, .* found 1"),
        ("paco", {"parameter_sets": 1}, "parameter_sets of network 'paco' .* found 1"),
        ("soft_modules", {"num_modules": 1}, "num_modules of network 'soft_modules' .* found 1"),
        ("soft_modules", {"num_modules": 2.0}, "num_modules .* must be a whole number .* found 2.0"),
        ("moore", {"experts": 9, "hidden_sizes": [16, 8]}, "at most the last width of hidden_sizes, which is 8, .* 9"),
        (
            "soft_modules",
            {"num_modules": 9, "module_width": 8},
            "at most the width of the modules, which is 8, .* 9",
        ),
        ("soft_modules", {"depth": 0}, "depth of network 'soft_modules' must be .* at least 1, found 0"),
        ("soft_modules", {"depth": 3, "hidden_sizes": [8, 16]}, r"depth=3 needs module_width, .* found \[8, 16\]"),
        ("care", {"temperature": 0.0}, "temperature of network 'care' must be a number above 0, found 0.0"),
        ("film", {"encoder_depth": 0}, "encoder_depth of network 'film' must be .* at least 1, found 0"),
        ("film", {"encoder_widht": 3}, "Unknown option of network 'film' 'encoder_widht': .* 'encoder_width'"),
    ],
)
def test_sizes_that_make_no_network_are_refused_in_a_sentence(name, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_network(name, shape(), **options)


@every
@pytest.mark.parametrize("task_id", ["none", "critic_embedding"])
def test_an_architecture_that_acts_by_the_task_must_be_told_of_it(agent_of, name, task_id):
    with pytest.raises(ConfigurationError, match=f"network '{name}' acts by the task"):
        agent_of(name, {"task_id": task_id})


def with_options(path, options):
    """An agent's file with other options of its network."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    data = json.loads(members["data"])
    data["settings"]["policy_kwargs"]["network_kwargs"] = options
    members["data"] = json.dumps(data).encode()
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    path.write_bytes(changed.getvalue())


@every
def test_a_file_whose_options_contradict_its_tensors_is_refused(agent_of, tmp_path, name):
    path = tmp_path / "agent.zip"
    agent_of(name).save(path)
    with_options(path, {option: value + 1 for option, value in SMALL[name].items()})
    for load in (load_policy, MTSAC.load):
        with pytest.raises(AgentFileError, match="does not fit"):
            load(path, device="cpu")


@pytest.mark.parametrize(("name", "option"), [("soft_modules", "depth"), ("care", "encoder_depth")])
def test_a_file_of_more_layers_than_anyone_means_is_refused(agent_of, tmp_path, name, option):
    path = tmp_path / "agent.zip"
    agent_of(name).save(path)
    with_options(path, {**SMALL[name], option: 10**6})
    with pytest.raises(AgentFileError, match=rf"'{option}' is 1e\+06, at most 100 makes sense"):
        load_policy(path, device="cpu")
