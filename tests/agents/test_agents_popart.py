"""PopArt: moving the moments of a task moves no value of its critic."""

import copy

import pytest
import torch

from agents import ConfigurationError
from agents.critics import PopArtValue, ScalarValue, make_value
from agents.networks import NetworkShape, make_network
from agents.policies import Critic, squashed_sample
from agents.updates import actor_losses

K, B, STATE, ACTION = 4, 6, 5, 2
TASKS = torch.arange(K)
SCALES, SHIFTS = torch.tensor([[0.1], [1.0], [50.0], [300.0]]), torch.tensor([[0.0], [-3.0], [200.0], [1000.0]])


def targets(count, samples=B, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(K, samples, generator=generator) * SCALES + SHIFTS for _ in range(count)]


def critic(members=2, seed=0, network="multihead", **options):
    generator = torch.Generator().manual_seed(seed)
    shape = NetworkShape(STATE + ACTION, 1, K, members, generator)
    net = make_network(network, shape, hidden_sizes=(16,), head_scale=0.5)
    return Critic(net, make_value("popart", "min", num_tasks=K, **options))


def inputs(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(K, B, STATE, generator=generator), torch.randn(K, B, ACTION, generator=generator)


def values(critic):
    return critic.value.for_tasks(TASKS).values(critic(*inputs(), TASKS))


@pytest.mark.parametrize("members", [1, 2])
def test_values_stay_as_they_are_when_the_moments_move(members):
    ours = critic(members, rate=0.3)
    for target in targets(8):
        before, outputs = values(ours), ours(*inputs(), TASKS)
        ours.value.update(target, TASKS, [ours.network.head])
        # Sums as large as mu or sigma times an output are rounded, and so is what they leave.
        rounding = 1e-6 * (ours.value.mu.abs() + ours.value.sigma * 10)
        assert ((values(ours) - before).abs().amax((0, 2)) <= rounding + 1e-6 * before.abs().amax((0, 2))).all()
        assert (ours(*inputs(), TASKS) - outputs).abs().max() > 1e-3, "the outputs did not move: nothing is tested"


def test_in_double_precision_values_stay_to_its_rounding():
    ours = critic(rate=0.3).double()
    states, actions = (part.double() for part in inputs())
    for target in targets(8):
        before = ours.value.for_tasks(TASKS).values(ours(states, actions, TASKS))
        ours.value.update(target.double(), TASKS, [ours.network.head])
        after = ours.value.for_tasks(TASKS).values(ours(states, actions, TASKS))
        torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-10)


def test_the_first_updates_count_alike_so_moments_are_those_of_the_whole_stream():
    ours, stream = critic(rate=0.1), targets(10)
    for target in stream:
        ours.value.update(target, TASKS, [ours.network.head])
    seen = torch.cat(stream, 1).double()
    torch.testing.assert_close(ours.value.mu.double(), seen.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.value.sigma.double(), seen.std(1, correction=0), rtol=1e-5, atol=1e-6)


def test_later_moments_are_exponential_averages_of_targets_and_their_squares():
    ours, stream, rate = critic(rate=0.25), targets(40, seed=2), 0.25
    mean, square = torch.zeros(K).double(), torch.zeros(K).double()
    for index, target in enumerate(stream):
        share = max(rate, 1 / (index + 1))
        ours.value.update(target, TASKS, [ours.network.head])
        mean += share * (target.double().mean(1) - mean)
        square += share * (target.double().square().mean(1) - square)
    torch.testing.assert_close(ours.value.mu.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.value.sigma.double(), (square - mean.square()).sqrt(), rtol=1e-4, atol=1e-6)


def test_rewards_that_are_all_zero_leave_sigma_at_its_bound_and_everything_finite():
    ours = critic(rate=0.5, min_sigma=1e-2)
    before = values(ours)
    for _ in range(50):
        ours.value.update(torch.zeros(K, B), TASKS, [ours.network.head])
    torch.testing.assert_close(ours.value.sigma, torch.full((K,), 1e-2))
    torch.testing.assert_close(values(ours), before, rtol=1e-5, atol=1e-6)
    loss = ours.value.for_tasks(TASKS).losses(ours(*inputs(), TASKS), torch.zeros(K, B))
    assert loss.isfinite().all()


def test_only_the_tasks_of_an_update_move():
    ours, some = critic(rate=0.5), torch.tensor([2, 0])
    before = [tensor.clone() for tensor in (ours.value.mu, ours.value.sigma, *ours.network.head.parameters())]
    ours.value.update(targets(1)[0][some] + 5.0, some, [ours.network.head])
    after = [ours.value.mu, ours.value.sigma, *ours.network.head.parameters()]
    for old, new in zip(before, after, strict=True):
        changed = (old != new).transpose(0, 1 if new.ndim > 1 else 0).flatten(1 if new.ndim > 1 else 0)
        changed = changed.any(1) if changed.ndim > 1 else changed
        assert changed.tolist() == [True, False, True, False]


def test_a_task_with_a_target_that_is_not_finite_keeps_its_moments_and_its_values():
    ours = critic(rate=0.5)
    for batch in targets(2):
        ours.value.update(batch, TASKS, [ours.network.head])
    before, moments = values(ours), (ours.value.mu.clone(), ours.value.sigma.clone())
    (batch,) = targets(1, seed=7)
    batch[1, 3], batch[2, 0] = torch.nan, torch.inf
    ours.value.update(batch, TASKS, [ours.network.head])
    for old, new in zip(moments, (ours.value.mu, ours.value.sigma), strict=True):
        assert (old == new).tolist() == [False, True, True, False]
    torch.testing.assert_close(values(ours), before, rtol=1e-4, atol=2e-3)


def test_critic_and_target_critic_share_moments_so_both_keep_their_values():
    ours, target = critic(seed=0, rate=0.3), critic(seed=1, rate=0.3)
    target.value = ours.value
    before = values(ours), values(target)
    for batch in targets(5):
        ours.value.update(batch, TASKS, [ours.network.head, target.network.head])
    for found, expected in zip((values(ours), values(target)), before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3)
    # A Polyak average of the parameters is then one of the values' scale: equal critics stay equal under it.
    twin = copy.deepcopy(target)
    twin.value = ours.value
    assert torch.equal(values(twin), values(target))


def test_the_loss_is_that_of_normalised_targets_and_its_gradient_does_not_grow_with_their_scale():
    ours = critic()
    for batch in targets(1, samples=1000):
        ours.value.update(batch, TASKS, [ours.network.head])
    value, outputs = ours.value.for_tasks(TASKS), ours(*inputs(), TASKS)
    (target,) = targets(1, seed=5)
    mu, sigma = ours.value.mu[:, None], ours.value.sigma[:, None]
    expected = ScalarValue().losses(outputs, (target - mu) / sigma)
    torch.testing.assert_close(value.losses(outputs, target), expected)
    scaled = 0.5 * ((value.values(outputs) - target) / sigma).square().mean(-1).sum(0)
    torch.testing.assert_close(value.losses(outputs, target), scaled, rtol=1e-4, atol=1e-4)


def test_the_td_target_is_in_units_of_values_for_groups_in_any_order():
    ours, task = critic(rate=0.3), torch.tensor([3, 1, 1])
    ours.value.update(targets(1)[0], TASKS, [ours.network.head])
    outputs = torch.randn(2, 3, B, 1, generator=torch.Generator().manual_seed(0))
    value = ours.value.for_tasks(task)
    mu, sigma = ours.value.mu[task][:, None], ours.value.sigma[task][:, None]
    smaller = torch.minimum(*(mu + sigma * outputs.squeeze(-1)))
    torch.testing.assert_close(value.reduced(outputs), smaller)
    rewards, discounts, bonus = torch.ones(3, B), torch.full((3, B), 0.9), torch.full((3, B), 2.0)
    torch.testing.assert_close(value.target(outputs, rewards, discounts, bonus), 1.0 + 0.9 * (smaller + 2.0))


def test_moments_travel_with_the_state_dict():
    ours, other = critic(seed=0, rate=0.3), critic(seed=1, rate=0.3)
    for batch in targets(3):
        ours.value.update(batch, TASKS, [ours.network.head])
    other.load_state_dict(ours.state_dict())
    assert torch.equal(values(other), values(ours))
    (batch,) = targets(1, seed=9)
    for one in (ours, other):
        one.value.update(batch, TASKS, [one.network.head])
    assert torch.equal(values(other), values(ours))


def test_kinds_that_normalise_nothing_are_the_same_for_all_tasks():
    for name in ("scalar", "categorical"):
        value = make_value(name, num_tasks=K)
        assert value.for_tasks(TASKS) is value


def test_a_head_that_the_tasks_share_and_options_out_of_range_are_refused():
    shared = critic(network="mlp")
    with pytest.raises(ConfigurationError, match="network=multihead"):
        shared.value.update(targets(1)[0], TASKS, [shared.network.head])
    with pytest.raises(ConfigurationError, match="rate must lie"):
        PopArtValue(num_tasks=K, rate=0.0)
    with pytest.raises(ConfigurationError, match="min_sigma must be greater"):
        PopArtValue(num_tasks=K, min_sigma=0.0)
    with pytest.raises(ConfigurationError, match="min_sigma"):
        make_value("popart", num_tasks=K, min_sigam=1.0)


def test_groups_of_one_task_count_as_one():
    apart, pooled = critic(rate=0.3), critic(rate=0.3)
    first, second = targets(2)
    apart.value.update(torch.cat((first, second), 1), TASKS, [apart.network.head])
    pooled.value.update(torch.cat((first, second)), TASKS.repeat(2), [pooled.network.head])
    torch.testing.assert_close(pooled.value.mu, apart.value.mu)
    torch.testing.assert_close(pooled.value.variance, apart.value.variance)
    assert pooled.value.updates.tolist() == [1.0] * K


def test_a_task_without_groups_or_with_a_target_that_is_not_finite_keeps_its_moments():
    ours = critic(rate=0.3)
    (batch,) = targets(1)
    batch[2, 0] = torch.nan
    ours.value.update(batch[1:], TASKS[1:], [ours.network.head])
    assert ours.value.updates.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert ours.value.mu[[0, 2]].tolist() == [0.0, 0.0]


# ---------------------------------------------------------------------- multitask SAC

POPART = {"network": "multihead", "critic": "popart", "hidden_sizes": [16, 16]}


def test_an_update_of_sac_keeps_the_values_of_critics_and_targets_until_it_steps(small_agent, monkeypatch):
    agent = small_agent(policy_kwargs=POPART)
    agent.learn(80)
    monkeypatch.setattr(agent.critic_learner, "step", lambda *_: pytest.fail("stop here"))
    sample = agent.replay_buffer.sample(agent.batch_size)
    task = torch.arange(agent.num_tasks)
    value = agent.critic.value
    assert agent.critic_target.value is value

    def found(module):
        with torch.no_grad():
            return value.for_tasks(task).values(module(sample.states, sample.actions, task))

    before = [found(module) for module in (agent.critic, agent.critic_target)]
    moments = value.mu.clone()
    with pytest.raises(pytest.fail.Exception, match="stop here"):
        agent.update(sample, torch.randn(2, *sample.actions.shape))
    assert not torch.equal(value.mu, moments)
    for module, values_before in zip((agent.critic, agent.critic_target), before, strict=True):
        torch.testing.assert_close(found(module), values_before, rtol=1e-5, atol=1e-5)


def test_the_actor_of_sac_measures_values_in_the_unit_of_their_task(small_agent):
    agent = small_agent(policy_kwargs=POPART)
    agent.learn(80)
    sample, task = agent.replay_buffer.sample(agent.batch_size), torch.arange(agent.num_tasks)
    noise, temperatures = torch.randn(sample.actions.shape), torch.full((agent.num_tasks,), 0.2)
    parameters = dict(agent.actor.named_parameters())
    losses, _ = actor_losses(agent.actor, agent.critic, parameters, sample.states, noise, temperatures, task)
    plain = ScalarValue()
    mean, log_std = agent.actor(sample.states, task)
    actions, log_probabilities = squashed_sample(mean, log_std, noise)
    outputs = agent.critic(sample.states, actions, task)
    sigma, mu = agent.critic.value.sigma, agent.critic.value.mu
    q = mu[:, None] + sigma[:, None] * plain.reduced(outputs)
    expected = (temperatures[:, None] * log_probabilities - q).mean(1) / sigma
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("balancer", ["unitary", "pcgrad", "famo", "son_goku", "igb_v1"])
def test_sac_learns_with_it_under_every_kind_of_balancer(small_agent, balancer):
    agent = small_agent(policy_kwargs=POPART, balancer=balancer)
    agent.learn(200)
    assert (agent.critic.value.updates > 0).all()
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())


def test_an_update_of_sac_that_is_skipped_moves_neither_moments_nor_heads(small_agent):
    agent = small_agent(policy_kwargs=POPART)
    agent.learn(80)
    sample = agent.replay_buffer.sample(agent.batch_size)
    rewards = sample.rewards.clone()
    rewards[2, 0] = torch.nan
    before = copy.deepcopy(agent.policy.state_dict())
    agent.update(sample._replace(rewards=rewards), torch.randn(2, *sample.actions.shape))
    assert not agent.guard.end()
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_sac_refuses_it_for_a_head_that_the_tasks_share(small_agent):
    with pytest.raises(ConfigurationError, match="network='mlp' has one for all"):
        small_agent(policy_kwargs={"network": "mlp", "critic": "popart"})
