"""K task losses, their K gradients, and the weighted backward pass: three ways to the same numbers."""

import pytest
import torch

from agents.balancers import make_balancer
from agents.balancing.objective import GradientLayout, TaskObjective
from agents.balancing.tasks import UpdateContext
from agents.critics import make_value
from agents.networks import NetworkShape, make_network, options_of
from agents.own_actions import OwnActions
from agents.policies import Actor, Critic
from agents.precision import autocast
from agents.selection import Selection
from agents.updates import actor_losses, critic_losses, critic_target

TASKS, STATE, ACTION = 3, 4, 2
ROUTER = {"embedding_size": 7, "routing_width": 6, "encoder_width": 9}
NETWORKS = {
    "mlp": {},
    "multihead": {},
    "mlp embedding": {"task_id": "embedding", "embedding_size": 3},
    "mlp blind": {"task_id": "none"},
    "mlp LayerNorm": {"layer_norm": True},
    "multihead LayerNorm": {"layer_norm": True, "task_id": "embedding", "embedding_size": 3},
    "bronet": {},
    "mlp categorical": {},
    "bronet categorical embedding": {"task_id": "embedding", "embedding_size": 3},
    "soft_modules": {"num_modules": 3, **ROUTER},
    "soft_modules LayerNorm categorical": {"layer_norm": True, **ROUTER},
    "paco": {"parameter_sets": 3, "head_scale": 0.1},  # at 0.5 the actor would saturate
    "paco LayerNorm embedding": {"head_scale": 0.1, "layer_norm": True, "task_id": "embedding"},
    "moore": {"experts": 3},
    "moore LayerNorm categorical": {"experts": 2, "layer_norm": True},
    "care": {"experts": 3, "encoder_width": 6, "embedding_size": 5},
    "care LayerNorm": {"experts": 2, "encoder_width": 6, "embedding_size": 5, "layer_norm": True},
    "film": {"encoder_width": 6, "embedding_size": 5},
    "film LayerNorm embedding": {"encoder_width": 6, "embedding_size": 5, "layer_norm": True, "task_id": "embedding"},
}
ATOMS = 7
networks = pytest.mark.parametrize("network", NETWORKS)
sides = pytest.mark.parametrize("side", ["critic", "actor"])


class Counted:
    """A loss function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *inputs):
        self.calls += 1
        return self.function(*inputs)


def build(side="critic", network="mlp", dtype=torch.float64, bfloat16=False, width=8, samples=5, grouped=True):
    """An objective of an actor or of critics with random weights and batch."""
    generator = torch.Generator().manual_seed(0)
    name = network.split()[0]
    scale = {"head_scale": 0.5} if "head_scale" in options_of(name) else {}
    options = {"hidden_sizes": [width, width], **scale, **NETWORKS[network]}
    of_actor = NetworkShape(STATE, 2 * ACTION, TASKS, members=1, generator=generator)
    actor = Actor(make_network(name, of_actor, **options), OwnActions([ACTION] * TASKS, ACTION)).to(dtype)
    categorical = "categorical" in network
    value = make_value("categorical", "mean", num_atoms=ATOMS, v_min=-2.0) if categorical else make_value("scalar")
    of_critic = NetworkShape(STATE + ACTION, value.outputs, TASKS, members=2, generator=generator)
    critic = Critic(make_network(name, of_critic, **options), value).to(dtype)
    task = torch.arange(TASKS)

    def normal(*shape):
        return torch.randn(TASKS, samples, *shape, generator=generator, dtype=torch.float64).to(dtype)

    states, noise, actions, target = normal(STATE), normal(ACTION), normal(ACTION).tanh(), normal()
    rewards, target = target, normal(ATOMS).softmax(-1) if categorical else target
    temperatures = torch.tensor([0.1, 1.0, 10.0], dtype=dtype)
    cast = autocast("bfloat16" if bfloat16 else "float32", torch.device("cpu"))

    def for_critic(parameters, *batch):
        with cast:
            return critic_losses(critic, parameters, *batch)

    def for_actor(parameters, *batch):
        with cast:
            return actor_losses(actor, critic, parameters, *batch)

    if bfloat16:  # as in an update: the first forward pass of the actor, and of critics, is made without a graph
        with cast:
            critic_target(actor, critic, states, rewards, rewards, noise, temperatures, task)
    if side == "critic":
        loss, module, batch = Counted(for_critic), critic, (states, actions, target, task)
    else:
        loss, module, batch = Counted(for_actor), actor, (states, noise, temperatures, task)
    context = UpdateContext(Selection.whole(TASKS))
    return TaskObjective(loss, dict(module.named_parameters()), batch, context, GradientLayout(grouped))


def k_backward_passes(objective):
    """Gradient of each task by a backward pass of its own: ``[K, P]``."""
    losses, _ = objective.loss_function(objective.parameters, *objective.batch)
    parameters = list(objective.parameters.values())
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def gradient(objective):
    return torch.cat([parameter.grad.flatten() for parameter in objective.parameters.values()])


@sides
@networks
@pytest.mark.parametrize("grouped", [True, False], ids=["copies", "vmap"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_task_gradients_are_those_of_k_backward_passes(side, network, dtype, tolerance, grouped):
    objective = build(side, network, dtype, grouped=grouped)
    expected = k_backward_passes(objective)
    torch.testing.assert_close(objective.jacobian, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    assert expected.abs().max() > 1e-3


@sides
@networks
def test_the_gramian_is_the_jacobian_times_its_transpose(side, network):
    objective = build(side, network)
    jacobian = k_backward_passes(objective)
    torch.testing.assert_close(objective.gramian, jacobian @ jacobian.T, rtol=1e-10, atol=1e-12)


@sides
@networks
@pytest.mark.parametrize(
    "touched", [(), ("losses",), ("task_gradients",), ("losses", "gramian"), ("jacobian", "losses")]
)
def test_the_weighted_backward_pass_is_that_of_the_weighted_mean_whatever_was_touched_before(side, network, touched):
    objective = build(side, network)
    for attribute in touched:
        getattr(objective, attribute)
    weights = torch.tensor([0.5, 0.0, 2.5], dtype=torch.float64)
    objective.backward(weights)
    expected = weights @ k_backward_passes(objective) / TASKS
    torch.testing.assert_close(gradient(objective), expected, rtol=1e-10, atol=1e-12)


def test_a_direction_is_set_as_it_is():
    objective = build()
    direction = torch.arange(sum(p.numel() for p in objective.parameters.values()), dtype=torch.float64)
    objective.backward_direction(direction)
    assert torch.equal(gradient(objective), direction)


def test_the_losses_are_the_same_on_every_path():
    plain, grouped = build(), build()
    grouped.task_gradients  # noqa: B018
    torch.testing.assert_close(plain.losses, grouped.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(plain.metrics, grouped.metrics, rtol=1e-12, atol=0)
    torch.testing.assert_close(plain.losses_now(), plain.losses)
    assert not plain.losses.requires_grad and not grouped.losses.requires_grad


def test_losses_gradients_and_backward_cost_one_call_of_the_loss():
    plain, grouped = build(), build()
    _, _, _ = plain.losses, plain.metrics, plain.backward(torch.ones(TASKS))
    assert plain.loss_function.calls == 1
    _, _, _, _ = grouped.task_gradients, grouped.losses, grouped.metrics, grouped.backward(torch.ones(TASKS))
    assert grouped.loss_function.calls == 1


def test_unitary_costs_one_call_of_the_loss_and_no_task_gradients():
    objective = build()
    objective.apply(make_balancer("unitary", num_tasks=TASKS).balance(objective))
    assert objective.loss_function.calls == 1 and objective._gradients is None
    expected = k_backward_passes(objective).mean(0)
    torch.testing.assert_close(gradient(objective), expected, rtol=1e-10, atol=1e-12)


def test_a_second_look_sees_the_parameters_after_the_step():
    objective = build()
    before = objective.losses.clone()
    objective.backward(torch.ones(TASKS))
    with torch.no_grad():
        for parameter in objective.parameters.values():
            parameter -= 1e-3 * parameter.grad
    after = objective.losses_now()
    assert after.mean() < before.mean() and torch.equal(objective.losses, before)


@pytest.mark.parametrize("layer", ["weight", "bias"])
def test_a_task_sends_no_gradient_to_the_heads_of_other_tasks(layer):
    gradients = build(network="multihead").task_gradients[f"network.head.{layer}"]  # [K, E, K, ...]
    for task in range(TASKS):
        for head in range(TASKS):
            assert bool(gradients[task, :, head].any()) == (task == head)


@sides
@networks
@pytest.mark.parametrize("path", ["plain", "vmapped"])
def test_in_bfloat16_every_parameter_learns_after_a_forward_pass_without_graph(side, network, path):
    found, exact = (build(side, network, torch.float32, bfloat16, width=64, samples=64) for bfloat16 in (True, False))
    if path == "vmapped":
        found.task_gradients  # noqa: B018
    for objective in (found, exact):
        objective.backward(torch.ones(TASKS))
    for name, parameter in found.parameters.items():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.any(), f"{name} receives no gradient"
    error = (gradient(found) - gradient(exact)).norm() / gradient(exact).norm()
    assert 0 < error < 0.05  # and 0 would mean that nothing was computed in bfloat16


def test_a_forward_pass_without_graph_leaves_no_cast_behind():
    layer, rows = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with autocast("bfloat16", torch.device("cpu")):
        with torch.no_grad():
            layer(rows)
        output = layer(rows)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()


def test_a_bfloat16_agent_trains_every_parameter(small_agent, random_sample):
    agent = small_agent(precision="bfloat16")
    before = {name: parameter.clone() for name, parameter in agent.policy.named_parameters()}
    sample = random_sample(agent)
    metrics = agent.update(sample, torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(0)))
    for name, parameter in agent.policy.named_parameters():
        assert parameter.dtype == torch.float32 and not torch.equal(parameter, before[name]), name
    assert all(torch.isfinite(value).all() for value in metrics.values())
