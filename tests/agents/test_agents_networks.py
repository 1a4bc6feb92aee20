"""Networks: shapes, independent ensemble members, and what they are told about the task."""

import dataclasses
import inspect
import math
from unittest import mock

import pytest
import torch
from gymnasium.spaces import Box

from agents import ConfigurationError, MultiTaskPolicy
from agents.networks import MLP, NETWORKS, NetworkShape, make_network, options_of, register_network
from agents.networks.layers import EnsembleLayerNorm, EnsembleLinear, ReLU
from agents.policies import PolicySettings

TASKS, FEATURES, OUTPUTS = 3, 5, 2
every = pytest.mark.parametrize("name", sorted(NETWORKS))
SMALL = {
    "bronet": {},
    "soft_modules": {"embedding_size": 7, "routing_width": 6, "encoder_width": 9},
    "care": {"encoder_width": 6, "embedding_size": 5},
    "film": {"encoder_width": 6, "embedding_size": 5},
}
TOLD = ("soft_modules", "paco", "moore", "care", "film")  # they are nothing without a task


def shape(members=2, seed=0):
    return NetworkShape(FEATURES, OUTPUTS, TASKS, members, torch.Generator().manual_seed(seed))


def network(name="mlp", members=2, seed=0, **options):
    options = {"hidden_sizes": [16, 16], "head_scale": 0.5, **SMALL.get(name, {}), **options}
    if name == "bronet":  # it leaves no choice of these
        options = {option: value for option, value in options.items() if option not in ("head_scale", "layer_norm")}
    return make_network(name, shape(members, seed), **options)


def inputs(groups=TASKS, samples=4):
    return torch.randn(groups, samples, FEATURES, generator=torch.Generator().manual_seed(1))


@every
@pytest.mark.parametrize("task_id", ["one_hot", "embedding", "none"])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("members", "groups", "samples"), [(2, 3, 4), (1, 1, 1), (3, 7, 1)])
def test_outputs_have_the_promised_shape(name, task_id, layer_norm, members, groups, samples):
    if task_id == "none" and name in TOLD:
        task_id = "one_hot"
    net = network(name, members, task_id=task_id, layer_norm=layer_norm)
    task = torch.arange(groups) % TASKS
    assert net(inputs(groups, samples), task).shape == (members, groups, samples, OUTPUTS)


@every
def test_a_group_is_read_alike_whoever_stands_beside_it(name):
    net, batch, task = network(name), inputs(), torch.arange(TASKS)
    together = net(batch, task)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(batch[order], order), together[:, order])
    for group in range(TASKS):
        torch.testing.assert_close(net(batch[group : group + 1], task[group : group + 1])[:, 0], together[:, group])


@every
@pytest.mark.parametrize("layer_norm", [False, True])
def test_ensemble_members_share_nothing(name, layer_norm):
    net, batch, task = network(name, layer_norm=layer_norm), inputs(), torch.arange(TASKS)
    before = net(batch, task)
    assert not torch.allclose(before[0], before[1])
    before[0].sum().backward()
    for parameter in net.parameters():
        assert not parameter.grad.unflatten(0, (2, -1))[1].any()  # modules and experts are further members
        parameter.data.unflatten(0, (2, -1))[1] += 1.0
    after = net(batch, task)
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("members", [1, 2])
def test_a_member_is_the_network_that_stacked_linear_layers_would_be(members):
    net, batch = network(members=members, task_id="none", layer_norm=True), inputs()
    outputs = net(batch, torch.arange(TASKS))
    for member in range(members):
        hidden = batch
        for layer in net.trunk:
            if isinstance(layer, EnsembleLinear):
                hidden = hidden @ layer.weight[member] + layer.bias[member]
            elif isinstance(layer, EnsembleLayerNorm):
                gain, offset = layer.weight[member, 0], layer.bias[member, 0]
                hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], gain, offset)
            else:
                hidden = hidden.relu()
        expected = hidden @ net.head.weight[member] + net.head.bias[member]
        torch.testing.assert_close(outputs[member], expected)


def test_the_relu_of_a_compiled_network_is_relu_to_the_bit():
    results = []
    for compiling in (False, True):
        inputs = torch.tensor([-2.0, -0.0, 0.0, 1e-40, 3.0, float("inf")], requires_grad=True)
        with mock.patch("torch.compiler.is_compiling", return_value=compiling):
            outputs = ReLU()(inputs * 1.0)  # a copy, for it may be changed in place
        (gradient,) = torch.autograd.grad(outputs, inputs, torch.arange(1.0, 7.0))
        results.append((outputs.detach(), gradient))
    assert results[0][1].tolist() == [0.0, 0.0, 0.0, 4.0, 5.0, 6.0]
    for plain, compiled in zip(*results, strict=True):
        assert torch.equal(plain, compiled)


class PlainBlock(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(width, width),
            torch.nn.LayerNorm(width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, width),
            torch.nn.LayerNorm(width),
        )

    def forward(self, inputs):
        return inputs + self.layers(inputs)


def plain_bronet(features, width, blocks, outputs):
    """The network of the paper, for one member and no task."""
    stem = (torch.nn.Linear(features, width), torch.nn.LayerNorm(width), torch.nn.ReLU())
    return torch.nn.Sequential(*stem, *(PlainBlock(width) for _ in range(blocks)), torch.nn.Linear(width, outputs))


@pytest.mark.parametrize(("members", "blocks"), [(1, 1), (2, 2), (2, 3)])
def test_a_member_of_a_bronet_is_the_plain_one_with_the_same_weights(members, blocks):
    net, batch = network("bronet", members, hidden_sizes=[16] * blocks, task_id="none"), inputs()
    generator = torch.Generator().manual_seed(5)
    for parameter in net.parameters():  # gains and offsets that are not ones and zeros
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    outputs = net(batch, torch.arange(TASKS))
    for member in range(members):
        plain = plain_bronet(FEATURES, 16, blocks, OUTPUTS)
        for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
            value = ours[member] if theirs.ndim == 2 else ours[member, 0]
            theirs.data.copy_(value.T if theirs.ndim == 2 else value)
        torch.testing.assert_close(outputs[member], plain(batch))


def test_a_bronet_starts_orthogonal_with_gain_sqrt_2_and_zero_bias():
    net = network("bronet", hidden_sizes=[32, 32], task_id="none")
    layers = [layer for layer in net.modules() if isinstance(layer, EnsembleLinear)]
    assert len(layers) == 1 + 2 * 2 + 1
    for layer in layers:
        for weight in layer.weight:
            narrow = weight if weight.shape[0] <= weight.shape[1] else weight.T
            torch.testing.assert_close(narrow @ narrow.T, 2.0 * torch.eye(len(narrow)), rtol=0, atol=1e-5)
        assert not layer.bias.any() and not torch.equal(layer.weight[0], layer.weight[1])


def test_blocks_of_different_widths_are_refused():
    with pytest.raises(ConfigurationError, match=r"hidden_sizes must be equal widths .* found \[16, 8\]"):
        network("bronet", hidden_sizes=[16, 8])


def test_what_an_architecture_has_settled_is_no_option_of_it():
    assert "layer_norm" in options_of("mlp") and "layer_norm" not in options_of("bronet")
    with pytest.raises(ConfigurationError, match="Unknown option of network 'bronet' 'layer_norm'"):
        make_network("bronet", shape(), layer_norm=False)


@pytest.mark.parametrize(
    ("name", "task_id"),
    [("mlp", "one_hot"), ("mlp", "embedding"), ("multihead", "none"), ("bronet", "embedding")]
    + [(name, "one_hot") for name in TOLD],
)
def test_the_task_matters(name, task_id):
    net = network(name, task_id=task_id)
    same = inputs(1).expand(TASKS, -1, -1)
    outputs = net(same, torch.arange(TASKS))
    assert not torch.allclose(outputs[:, 0], outputs[:, 1]) and not torch.allclose(outputs[:, 1], outputs[:, 2])


def test_an_mlp_that_is_told_nothing_answers_every_task_alike():
    outputs = network(task_id="none")(inputs(1).expand(TASKS, -1, -1), torch.arange(TASKS))
    assert torch.equal(outputs[:, 0], outputs[:, 1]) and torch.equal(outputs[:, 1], outputs[:, 2])


def test_an_embedding_has_unit_length_and_learns():
    net = network(task_id="embedding", embedding_size=7)
    torch.testing.assert_close(net.task_encoding(torch.arange(TASKS)).norm(dim=1), torch.ones(TASKS))
    net(inputs(1), torch.tensor([1])).sum().backward()
    gradient = net.task_encoding.table.grad
    assert gradient.shape == (TASKS, 7) and gradient[1].any() and not gradient[[0, 2]].any()


@pytest.mark.parametrize("name", ["mlp", "multihead"])
def test_weights_start_he_uniform_with_zero_bias_and_heads_small(name):
    net = network(name, hidden_sizes=[200, 300], head_scale=3e-3)
    affine = [layer for layer in net.trunk if isinstance(layer, EnsembleLinear)]
    for layer, fan_in in zip(affine, [FEATURES + TASKS, 200], strict=True):
        bound = math.sqrt(6 / fan_in)
        assert 0.99 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert 0.9 * 3e-3 < net.head.weight.abs().max() <= 3e-3
    assert 0 < net.head.bias.abs().max() <= 3e-3


def test_the_agents_actor_starts_near_the_middle_with_unit_spread(small_agent):
    agent = small_agent(policy_kwargs={"hidden_sizes": [400, 400, 400]})
    states = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0))
    mean, log_std = agent.actor(states, torch.arange(agent.num_tasks))
    assert mean.abs().max() < 0.1 and log_std.abs().max() < 0.1


def test_the_signature_of_a_policy_lists_every_setting():
    settings = {field.name: field.default for field in dataclasses.fields(PolicySettings)}
    listed = inspect.signature(MultiTaskPolicy).parameters
    assert {name: listed[name].default for name in settings} == settings
    of_spaces = {"observation_space", "action_space", "action_sizes"}
    assert listed.keys() - settings == of_spaces | {"lr_schedule", "num_tasks", "generator"}


def test_a_policy_refuses_a_setting_it_does_not_have():
    spaces = (Box(-1, 1, (FEATURES + TASKS,)), Box(-1, 1, (1,)))
    with pytest.raises(ConfigurationError, match="MultiTaskPolicy does not take 'task_di', did you mean 'task_id'"):
        MultiTaskPolicy(*spaces, num_tasks=TASKS, task_di="none")


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_actor_and_critics_may_have_sizes_of_their_own(small_agent, name):
    widths = {"network": name, "hidden_sizes": [12, 12], "actor_hidden_sizes": [6]}
    agent = small_agent(policy_kwargs=widths)
    sets = 5 if name == "paco" else 1
    assert agent.critic.network.head.weight.shape[-2] == 12 * sets
    assert agent.actor.network.head.weight.shape[-2] == 6 * sets
    agent.learn(80, log_interval=None)
    assert agent._n_updates > 0


def test_equal_generators_give_equal_networks():
    first, second, other = (network(seed=seed).state_dict() for seed in (3, 3, 4))
    for name, value in first.items():
        assert torch.equal(value, second[name])
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_network_says_what_it_is_and_what_a_user_can_set():
    record = NETWORKS["mlp"]
    assert record.summary == "Shared trunk and one shared head; the task is part of the input."
    assert options_of("bronet") == {"hidden_sizes", "task_id", "embedding_size"}


def test_a_name_is_taken_once():
    with pytest.raises(ConfigurationError, match=r"^A network named 'mlp' is registered already\.$"):
        register_network("mlp")(MLP)


def test_an_unknown_network_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="Unknown network 'multihaed': choose from .*did you mean 'multihead'"):
        network("multihaed")


def test_an_unknown_task_id_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="Unknown task_id 'onehot': choose from .*did you mean 'one_hot'"):
        network(task_id="onehot")


def test_an_unknown_option_gets_the_nearest_and_hears_of_no_internal_one():
    with pytest.raises(ConfigurationError, match="'hiden_sizes': .*did you mean 'hidden_sizes'") as refusal:
        network(hiden_sizes=[3])
    assert "generator" not in str(refusal.value)


@pytest.mark.parametrize("sizes", [[], [0], [16, -1]])
def test_layers_without_width_are_refused(sizes):
    with pytest.raises(ConfigurationError, match="hidden_sizes must be positive widths"):
        network(hidden_sizes=sizes)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"head_scale": -1.0}, "head_scale must be at least 0, found -1"),
        ({"task_id": "embedding", "embedding_size": 0}, "embedding_size must be at least 1, found 0"),
    ],
)
def test_numbers_out_of_range_are_refused(option, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        network(**option)
