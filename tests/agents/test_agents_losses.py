"""Losses against closed forms: TD target, temperature, Polyak averaging, the squashed Gaussian."""

import copy

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from agents import ConfigurationError
from agents.critics import ScalarValue
from agents.policies import squashed_sample
from agents.selection import Selection
from agents.temperature import Temperature
from agents.updates import actor_losses, critic_losses, critic_target


class Constant(torch.nn.Module):
    """A network that answers every state with the same numbers ``[E, O]``."""

    def __init__(self, *numbers):
        super().__init__()
        self.numbers = torch.nn.Parameter(torch.tensor(numbers, dtype=torch.float64))

    def forward(self, *inputs):
        groups, samples = inputs[0].shape[:2]
        return self.numbers[:, None, None, :].expand(-1, groups, samples, -1)


class ConstantActor(Constant):
    def forward(self, *inputs):
        mean, log_std = super().forward(*inputs)[0].chunk(2, dim=-1)
        return mean, log_std

    def own(self, task):
        return 1.0


class ConstantCritic(Constant):
    value = ScalarValue()


TASKS = torch.arange(2)
STATES = torch.zeros(2, 3, 5, dtype=torch.float64)  # [K, B, S]


def test_the_td_target_is_bootstrapped_through_a_time_out_and_not_beyond_a_terminal_state():
    actor, critic = ConstantActor([0.3, -1.0]), ConstantCritic([7.0], [5.0])  # mean 0.3, log std -1; Q = 7 and 5
    rewards = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    terminals = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    noise = torch.tensor([[0.0, 1.0, -2.0], [0.5, 0.0, 0.0]], dtype=torch.float64)[..., None]
    temperatures = torch.tensor([0.1, 2.0], dtype=torch.float64)
    target = critic_target(actor, critic, STATES, rewards, 0.9 * (1 - terminals), noise, temperatures, TASKS)
    action = np.tanh(0.3 + np.exp(-1.0) * noise[..., 0].numpy())
    log_probability = -0.5 * noise[..., 0].numpy() ** 2 + 1.0 - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)
    value = 5.0 - temperatures[:, None] * torch.from_numpy(log_probability)  # the smaller of the two critics
    torch.testing.assert_close(target, rewards + 0.9 * (1 - terminals) * value, rtol=1e-12, atol=0)
    assert not target.requires_grad


def test_the_critic_loss_is_half_the_squared_error_summed_over_critics_and_averaged_over_samples():
    critic = ConstantCritic([7.0], [5.0])
    target = torch.tensor([[4.0, 5.0, 6.0], [7.0, 7.0, 7.0]], dtype=torch.float64)
    parameters = dict(critic.named_parameters())
    losses, metrics = critic_losses(critic, parameters, STATES, STATES[..., :1], target, TASKS)
    expected = 0.5 * ((7 - target).square().mean(1) + (5 - target).square().mean(1))
    assert torch.equal(losses, expected) and metrics["q_value"].tolist() == [6.0, 6.0]


def test_the_actor_loss_is_temperature_times_log_probability_minus_the_smaller_value():
    actor, critic = ConstantActor([0.3, -1.0]), ConstantCritic([7.0], [5.0])
    temperatures = torch.tensor([0.1, 2.0], dtype=torch.float64)
    noise = torch.randn(2, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses, metrics = actor_losses(actor, critic, dict(actor.named_parameters()), STATES, noise, temperatures, TASKS)
    _, log_probability = squashed_sample(torch.full_like(noise, 0.3), torch.full_like(noise, -1.0), noise)
    torch.testing.assert_close(losses, temperatures * log_probability.mean(1) - 5.0)
    torch.testing.assert_close(metrics["log_probability"], log_probability.mean(1))


def test_the_actor_loss_leaves_no_gradient_in_the_critic(small_agent, random_sample):
    agent = small_agent()
    sample = random_sample(agent)
    noise = torch.zeros_like(sample.actions)
    losses, _ = actor_losses(
        agent.actor,
        agent.critic,
        dict(agent.actor.named_parameters()),
        sample.states,
        noise,
        torch.ones(4),
        torch.arange(agent.num_tasks),
    )
    losses.sum().backward()
    assert all(parameter.grad is None for parameter in agent.critic.parameters())
    assert all(parameter.grad is not None for parameter in agent.actor.parameters())


def test_the_log_probability_is_that_of_a_tanh_transformed_normal():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = torch.randn(3, 4, 6, 2, generator=generator, dtype=torch.float64)
    actions, log_probability = squashed_sample(mean, log_std, noise)
    tanh = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)])
    unsquashed = mean + log_std.exp() * noise
    torch.testing.assert_close(actions, unsquashed.tanh())
    expected = Normal(mean, log_std.exp()).log_prob(unsquashed) - torch.log1p(-actions.square())
    moderate = unsquashed.abs().amax(-1) < 8  # beyond, the subtraction in 1 - tanh^2 has no digits left
    torch.testing.assert_close(log_probability[moderate], expected.sum(-1)[moderate], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_probability[moderate], tanh.log_prob(actions)[moderate], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unsquashed", [-50.0, -20.0, -9.0, 0.0, 9.0, 20.0, 50.0])
def test_the_log_probability_stays_exact_where_tanh_saturates(unsquashed, dtype):
    mean = torch.full((1, 1), unsquashed, dtype=dtype, requires_grad=True)
    actions, log_probability = squashed_sample(mean, torch.zeros_like(mean), torch.zeros_like(mean))
    # log(1 - tanh(x)^2) = log 4 - 2 |x| - 2 log(1 + exp(-2 |x|))
    correction = np.log(4) - 2 * abs(unsquashed) - 2 * np.log1p(np.exp(-2 * abs(unsquashed)))
    assert log_probability.item() == pytest.approx(-0.5 * np.log(2 * np.pi) - correction, rel=1e-6)
    log_probability.sum().backward()
    assert torch.isfinite(mean.grad).all() and actions.abs().max() <= 1


def test_the_temperature_loss_has_its_closed_form_and_moves_towards_the_target_entropy():
    temperature = Temperature(3, "auto_0.5", "per_task", target_entropy=-2.0)
    log_probabilities = torch.tensor([3.0, 2.0, 0.0], requires_grad=True)
    losses = temperature.losses(log_probabilities)
    torch.testing.assert_close(losses, -np.log(0.5) * (torch.tensor([3.0, 2.0, 0.0]) - 2.0))
    losses.sum().backward()
    # Entropy -3 is below the target: alpha must grow; at the target it rests; above, it must shrink.
    assert temperature.log_alpha.grad.tolist() == [-1.0, 0.0, 2.0]
    assert log_probabilities.grad is None


def test_each_task_has_its_own_temperature_and_a_shared_one_follows_the_mean_task(small_agent):
    log_probabilities = torch.tensor([3.0, 2.5, 2.0, 1.0])
    own, shared = (small_agent(temperature=kind, target_entropy=-2.0) for kind in ("per_task", "shared"))
    for agent in (own, shared):
        agent.temperature.step(agent.temperature_optimizer, log_probabilities, Selection.whole(4), agent.guard)
    assert own.temperature.log_alpha.grad.tolist() == [-1.0, -0.5, 0.0, 1.0]
    assert shared.temperature.log_alpha.grad.tolist() == [pytest.approx(-0.125)]
    values = own.temperature.value()
    assert values[0] > 1 and values[2] == 1 and values[3] < 1
    assert len(set(shared.temperature.value().tolist())) == 1


@pytest.mark.parametrize("ent_coef", [0.2, "0.2"])
def test_a_fixed_temperature_never_moves(small_agent, ent_coef):
    agent = small_agent(ent_coef=ent_coef)
    agent.learn(120, log_interval=None)
    assert agent._n_updates > 5
    torch.testing.assert_close(agent.temperature.value(), torch.full((4,), 0.2))


@pytest.mark.parametrize("ent_coef", ["aut", "auto_", "auto_-1", "auto_zero", 0.0, -0.1, float("nan"), "auto_inf"])
def test_a_bad_ent_coef_is_refused_with_its_value(ent_coef):
    with pytest.raises(ConfigurationError, match="ent_coef must be 'auto'.* found") as refusal:
        Temperature(2, ent_coef, "per_task", -1.0)
    assert repr(ent_coef) in str(refusal.value)


def test_an_unknown_kind_of_temperature_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="Unknown temperature 'pertask': .*did you mean 'per_task'"):
        Temperature(2, "auto", "pertask", -1.0)


def test_the_target_entropy_is_minus_the_number_of_actions_unless_given(small_agent):
    assert small_agent().temperature.target_entropy.unique().tolist() == [-2.0]
    assert small_agent(target_entropy=-0.5).temperature.target_entropy.unique().tolist() == [-0.5]


def test_target_critics_follow_by_polyak_averaging(small_agent, random_sample):
    agent = small_agent(tau=0.1)
    for parameter in agent.critic_target.parameters():
        parameter.data.add_(1.0)
    before = copy.deepcopy(agent.critic_target.state_dict())
    sample = random_sample(agent)
    agent.update(sample, torch.zeros(2, *sample.actions.shape))
    for name, parameter in agent.critic.named_parameters():  # the critic after its step
        expected = 0.9 * before[name] + 0.1 * parameter
        torch.testing.assert_close(agent.critic_target.state_dict()[name], expected)


def test_an_update_weighs_no_temperature_and_scales_no_stored_reward(small_agent, random_sample):
    agents = [small_agent(balancer=name, balancer_kwargs=options) for name, options in BALANCED]
    sample = random_sample(agents[0])
    rewards = sample.rewards.clone()
    temperatures = []
    for agent in agents:
        agent.update(sample, torch.zeros(2, *sample.actions.shape))
        temperatures.append(agent.temperature.log_alpha.detach().clone())
    assert torch.equal(temperatures[0], temperatures[1]) and torch.equal(sample.rewards, rewards)
    assert not torch.equal(agents[0].critic.network.head.weight, agents[1].critic.network.head.weight)


BALANCED = [("unitary", None), ("static", {"weights": [1, 2, 3, 4]})]


def test_the_clipping_norm_may_be_changed_while_the_agent_learns(small_agent, random_sample):
    agent = small_agent(max_grad_norm=None)
    sample = random_sample(agent)
    agent.update(sample, torch.zeros(2, *sample.actions.shape))
    agent.max_grad_norm = 1e-3
    metrics = agent.update(sample, torch.zeros(2, *sample.actions.shape))
    gradients = [parameter.grad for parameter in agent.critic.parameters()]
    assert metrics["critic_gradient_norm"] > 1e-3  # before clipping
    assert torch.nn.utils.get_total_norm(gradients) == pytest.approx(1e-3, rel=1e-3)


def test_target_critics_have_no_history(small_agent, random_sample):
    agent = small_agent()
    sample = random_sample(agent)
    for _ in range(2):
        agent.update(sample, torch.zeros(2, *sample.actions.shape))
    assert all(parameter.is_leaf and not parameter.requires_grad for parameter in agent.critic_target.parameters())
