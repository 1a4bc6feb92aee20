"""Task gradients kept layer by layer: the same Gramian, blocks and directions as written out, in less memory."""

import pytest
import torch

from agents import ConfigurationError, Needs, list_balancers, make_balancer
from agents.balancing import task_gradients
from agents.balancing.objective import GradientLayout, TaskObjective
from agents.balancing.task_gradients import factors_pay
from benchmarks.balancers import PeakMemory
from tests.agents.test_agents_objective import NETWORKS, build, gradient

GRADIENT_METHODS = [record.name for record in list_balancers() if record.family == "gradient"]
both = pytest.mark.parametrize(
    ("side", "network"), [(side, network) for side in ("critic", "actor") for network in NETWORKS]
)


def pair(side="critic", network="mlp", **options):
    """The same objective with its gradients written out, and layer by layer."""
    dense, factored = (build(side, network, **options) for _ in range(2))
    factored.layout = GradientLayout(grouped=True, layerwise=True)
    return dense, factored


@pytest.fixture(params=[2**21, 40], ids=["whole layers", "narrow blocks"])
def block_size(request, monkeypatch):
    monkeypatch.setitem(task_gradients.BLOCK_SIZE, "cpu", request.param)


@both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gramian_and_weighted_gradient_are_those_of_the_whole_jacobian(side, network, dtype, tolerance, block_size):
    dense, factored = pair(side, network, dtype=dtype)
    expected = dense.jacobian @ dense.jacobian.T
    torch.testing.assert_close(factored.gramian, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    weights = torch.tensor([0.5, 0.0, 2.5], dtype=dtype)
    for objective in (dense, factored):
        objective.backward(weights)
    limit = tolerance * float(gradient(dense).abs().max())
    torch.testing.assert_close(gradient(factored), gradient(dense), rtol=tolerance, atol=limit)
    torch.testing.assert_close(factored.losses, dense.losses)


@both
def test_the_blocks_are_the_columns_of_the_jacobian_in_order(side, network, block_size):
    dense, factored = pair(side, network)
    for objective in (dense, factored):
        covered = 0
        for columns, rows in objective.blocks():
            torch.testing.assert_close(rows, dense.jacobian[:, columns], rtol=1e-10, atol=1e-12)
            assert columns.start == covered
            covered = columns.stop
        assert covered == dense.jacobian.shape[1]


@pytest.mark.parametrize("network", ["mlp", "multihead LayerNorm"])
def test_in_bfloat16_the_gramian_is_that_of_the_rounded_gradients(network):
    dense, factored = pair("critic", network, dtype=torch.float32, bfloat16=True, width=64, samples=64)
    torch.testing.assert_close(factored.gramian, dense.gramian, rtol=1e-4, atol=1e-4 * float(dense.gramian.max()))


def test_a_layer_that_is_used_twice_has_the_gradient_of_both_uses():
    def twice(objective):
        once = objective.loss_function

        def losses(parameters, states, actions, target, task):
            first, metrics = once(parameters, states, actions, target, task)
            return first + once(parameters, states.flip(1), 0.5 * actions, target, task)[0], metrics

        return TaskObjective(losses, objective.parameters, objective.batch, objective.context, objective.layout)

    dense, factored = (twice(objective) for objective in pair())
    torch.testing.assert_close(factored.gramian, dense.gramian)


@pytest.mark.parametrize("name", [*GRADIENT_METHODS, "igb_v1+cagrad", "famo+graddrop", "son_goku:pcgrad"])
def test_every_gradient_method_steps_alike_on_both(name, small_agent, random_sample):
    agents = [small_agent(balancer=name, jacobian=mode, max_grad_norm=None) for mode in ("full", "layerwise")]
    for step in range(3):
        sample = random_sample(agents[0], seed=step)
        noise = torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(step))
        full, layerwise = (agent.update(sample, noise) for agent in agents)
        torch.testing.assert_close(full["critic_gradient_norm"], layerwise["critic_gradient_norm"], rtol=1e-4, atol=0)
    for (key, left), right in zip(
        agents[0].policy.state_dict().items(), agents[1].policy.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, msg=key)


def test_no_method_holds_the_jacobian_beside_its_own_memory(small_agent, random_sample, monkeypatch):
    """What is made and alive at the peak of an update: less than half a Jacobian more than for `unitary`."""
    monkeypatch.setitem(task_gradients.BLOCK_SIZE, "cpu", 2**15)
    agent = small_agent(env_num_tasks=20, policy_kwargs={"hidden_sizes": [128, 128]}, jacobian="layerwise")
    sample = random_sample(agent, samples=4)
    noise = torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(0))
    jacobian = 4 * agent.num_tasks * sum(parameter.numel() for parameter in agent.critic.parameters())

    def peak(name):
        balancer = make_balancer(name, num_tasks=agent.num_tasks)
        agent.critic_learner.balancer = balancer
        agent.actor_learner.balancer = make_balancer("unitary", num_tasks=agent.num_tasks)
        agent.update(sample, noise)
        with PeakMemory() as counter:
            agent.update(sample, noise)
        return counter.peak

    plain = peak("unitary")
    for name in ("pcgrad", "cagrad", "graddrop", "moco"):
        assert peak(name) - plain < jacobian / 2, name
    agent.critic_learner.layout = GradientLayout(grouped=True)
    assert peak("pcgrad") - plain > 0.9 * jacobian


# ---------------------------------------------------------------------- what is refused


def test_the_whole_jacobian_is_not_there_layer_by_layer():
    _, factored = pair()
    with pytest.raises(ConfigurationError, match=r"'layerwise' never holds .*tasks.blocks\(\), or .*'full'"):
        _ = factored.jacobian


def test_a_method_that_needs_the_whole_jacobian_is_refused_before_training(small_agent, monkeypatch):
    monkeypatch.setattr(type(make_balancer("mgda", num_tasks=2)), "needs", Needs.GRAMIAN | Needs.JACOBIAN)
    with pytest.raises(ConfigurationError, match=r"method of balancer \(Composition\) needs the whole of it"):
        small_agent(balancer="unitary+mgda", jacobian="layerwise")
    agent = small_agent(balancer="mgda", jacobian="auto")
    assert not agent.critic_learner.layout.layerwise


def test_a_network_of_other_layers_is_refused(small_agent, monkeypatch):
    monkeypatch.setattr("agents.actor_critic.takes_grouped_parameters", _no)
    with pytest.raises(ConfigurationError, match="needs a network made of layers that take grouped parameters"):
        small_agent(jacobian="layerwise")
    agent = small_agent(balancer="mgda", jacobian="auto")
    assert not agent.critic_learner.layout.layerwise


def _no(module):
    return False


def test_an_unknown_way_is_answered_with_the_nearest(small_agent):
    with pytest.raises(ConfigurationError, match="Unknown jacobian 'layer_wise'.*did you mean 'layerwise'"):
        small_agent(jacobian="layer_wise")


def test_a_parameter_without_part_in_the_losses_is_named():
    dense, _ = pair()
    extra = {**dense.parameters, "spare": torch.nn.Parameter(torch.zeros(2))}

    def losses(parameters, *batch):
        return dense.loss_function({name: parameters[name] for name in dense.parameters}, *batch)

    objective = TaskObjective(losses, extra, dense.batch, dense.context, GradientLayout(grouped=True, layerwise=True))
    with pytest.raises(ConfigurationError, match="do not depend on the parameter 'spare'"):
        _ = objective.gramian


# ---------------------------------------------------------------------- which way


def test_few_samples_go_layer_by_layer():
    assert factors_pay(samples=32)
    assert not factors_pay(samples=128)


def test_the_batch_of_an_agent_decides(small_agent):
    for samples, expected in ((4, True), (100, False)):
        agent = small_agent(batch_size=4 * samples, buffer_size=8_000)
        assert agent.critic_learner.layout.layerwise == expected


def test_composed_layers_whose_factors_are_wide_are_written_out(small_agent):
    wide = {"network": "paco", "network_kwargs": {"parameter_sets": 3}}
    assert not small_agent(policy_kwargs=wide).critic_learner.layout.layerwise
    assert small_agent(policy_kwargs=wide, jacobian="layerwise").critic_learner.layout.layerwise
