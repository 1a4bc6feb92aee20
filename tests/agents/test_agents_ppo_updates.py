"""PPO's losses: closed forms, one gradient per task, and Stable-Baselines3's PPO with one task."""

import math

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import nn
from torch.distributions import Normal

from agents import ConfigurationError
from agents.critics import make_value
from agents.gaussian import GaussianActor, draw, entropy, log_density
from agents.networks import NetworkShape, make_network
from agents.networks.layers import takes_grouped_parameters
from agents.own_actions import OwnActions
from agents.ppo_updates import StateCritic, policy_losses, value_losses
from agents.rollout import RolloutSample, TaskRollout, minibatches, normalised
from envs import make_suite

K, B, STATE, ACTION, CLIP, COEFFICIENT = 3, 10, 4, 2, 0.2, 0.01
TASKS = torch.arange(K)


def make_actor(tasks=K, states=STATE, actions=ACTION, log_std="task", hidden_sizes=(16,), initial_log_std=-0.5):
    generator = torch.Generator().manual_seed(0)
    outputs = GaussianActor.outputs_for(actions, log_std)
    shape = NetworkShape(states, outputs, tasks, 1, generator)
    network = make_network("mlp", shape, hidden_sizes=hidden_sizes, head_scale=0.5)
    return GaussianActor(network, OwnActions([actions] * tasks, actions), log_std, initial_log_std)


def make_critic(kind="scalar", tasks=K, states=STATE, hidden_sizes=(16,), network="multihead"):
    value = make_value(kind, "mean", num_tasks=tasks)
    generator = torch.Generator().manual_seed(1)
    shape = NetworkShape(states, value.outputs, tasks, 1, generator)
    net = make_network(network, shape, hidden_sizes=hidden_sizes)
    return StateCritic(net, value)


def make_batch(actor, spread=0.3, seed=2):
    """Transitions whose old policy differs from the actor, so that some ratios are clipped and some are not."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        states = normal(K, B, STATE)
        mean, log_std = actor(states, TASKS)
        actions = draw(mean, log_std, normal(K, B, ACTION))
        old = log_density(mean, log_std, actions) + spread * normal(K, B)
    return RolloutSample(states, actions, old, normal(K, B), normal(K, B), normal(K, B))


def losses_of(actor, batch):
    return policy_losses(actor, dict(actor.named_parameters()), batch, TASKS, CLIP, COEFFICIENT)


@pytest.mark.parametrize("log_std", ["task", "state"])
def test_densities_and_entropies_are_those_of_torch(log_std):
    actor = make_actor(log_std=log_std)
    states = torch.randn(K, B, STATE, generator=torch.Generator().manual_seed(0))
    mean, spread = actor(states, TASKS)
    distribution, actions = Normal(mean, spread.exp()), mean + 0.7
    torch.testing.assert_close(log_density(mean, spread, actions), distribution.log_prob(actions).sum(-1))
    torch.testing.assert_close(entropy(spread), distribution.entropy().sum(-1))
    torch.testing.assert_close(draw(mean, spread, torch.ones_like(mean)), mean + spread.exp())


def test_a_log_std_per_task_is_the_same_in_all_states_and_learns_for_its_task_alone():
    actor = make_actor()
    losses, _ = losses_of(actor, make_batch(actor))
    losses[1].backward()
    gradient = actor.task_log_std.table.grad
    assert gradient.shape == (K, ACTION)
    assert gradient.abs().amax(1).gt(0).tolist() == [False, True, False]


def test_a_log_std_of_the_state_differs_from_state_to_state():
    _, log_std = make_actor(log_std="state")(
        torch.randn(K, B, STATE, generator=torch.Generator().manual_seed(0)), TASKS
    )
    assert log_std.std(1).min() > 1e-3
    with pytest.raises(ConfigurationError, match="'task'"):
        make_actor(log_std="tasc")


def test_the_surrogate_is_the_smaller_of_plain_and_clipped():
    actor = make_actor()
    batch = make_batch(actor)
    losses, metrics = losses_of(actor, batch)
    for task in range(K):
        with torch.no_grad():
            mean, log_std = actor(batch.states, TASKS)
        total = clipped = divergence = 0.0
        for sample in range(B):
            density = (
                Normal(mean[task, sample], log_std[task, sample].exp()).log_prob(batch.actions[task, sample]).sum()
            )
            ratio = math.exp(density - batch.log_probabilities[task, sample])
            advantage = batch.advantages[task, sample].item()
            total += min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage) / B
            clipped += (abs(ratio - 1) > CLIP) / B
            divergence += (ratio - 1 - math.log(ratio)) / B
        assert 0 < clipped < 1, "both kinds of ratios must occur"
        nats = Normal(mean[task, 0], log_std[task, 0].exp()).entropy().sum().item()
        assert losses[task].item() == pytest.approx(-total - COEFFICIENT * nats, abs=1e-5)
        assert metrics["clip_fraction"][task].item() == pytest.approx(clipped, abs=1e-6)
        assert metrics["approx_kl"][task].item() == pytest.approx(divergence, abs=1e-5)
        assert metrics["entropy"][task].item() == pytest.approx(nats, abs=1e-5)
        assert metrics["std"][task].item() == pytest.approx(math.exp(-0.5), abs=1e-6)


def test_under_the_policy_that_acted_nothing_is_clipped_and_the_kl_is_zero():
    actor = make_actor()
    _, metrics = losses_of(actor, make_batch(actor, spread=0.0))
    torch.testing.assert_close(metrics["approx_kl"], torch.zeros(K), rtol=0, atol=1e-6)
    assert torch.equal(metrics["clip_fraction"], torch.zeros(K))


def test_ratios_beyond_the_clip_give_no_gradient_where_they_would_grow():
    actor = make_actor()
    batch = make_batch(actor, spread=0.0)
    far = batch._replace(log_probabilities=batch.log_probabilities - 1.0, advantages=torch.ones(K, B))  # ratio e
    losses, _ = policy_losses(actor, dict(actor.named_parameters()), far, TASKS, CLIP, 0.0)
    losses.sum().backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in actor.parameters())


@pytest.mark.parametrize("kind", ["scalar", "popart", "categorical"])
def test_a_critic_of_any_kind_learns_the_returns_of_its_states(kind):
    critic = make_critic(kind)
    batch = make_batch(make_actor())
    if kind == "popart":
        critic.value.update(batch.returns, TASKS, [critic.network.head])
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(400):
        losses, metrics = value_losses(critic, dict(critic.named_parameters()), batch, TASKS)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert losses.shape == (K,) and metrics["q_value"].shape == (K,)
    error = (critic.values(batch.states, TASKS) - batch.returns).square().mean(1)
    assert (error < 0.1 * batch.returns.var(1)).all()


@pytest.mark.parametrize("side", ["actor", "critic"])
def test_grouped_parameters_give_the_gradient_of_every_task(side):
    module = make_actor() if side == "actor" else make_critic("popart")
    batch = make_batch(make_actor())
    assert takes_grouped_parameters(module)

    def losses_with(parameters):
        if side == "actor":
            return policy_losses(module, parameters, batch, TASKS, CLIP, COEFFICIENT)[0]
        return value_losses(module, parameters, batch, TASKS)[0]

    plain = dict(module.named_parameters())
    grouped = {name: value.detach().expand(K, *value.shape).requires_grad_() for name, value in plain.items()}
    found = torch.autograd.grad(losses_with(grouped).sum(), list(grouped.values()))
    losses = losses_with(plain)
    for task in range(K):
        expected = torch.autograd.grad(losses[task], list(plain.values()), retain_graph=True)
        for name, mine, value in zip(plain, found, expected, strict=True):
            torch.testing.assert_close(mine[task], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)


# One task is SB3's PPO.

WIDTHS, EPOCHS, STEPS, COPIES, BATCH = [32, 32], 4, 40, 2, 20


@pytest.fixture
def pendulum():
    env = make_suite("gym", tasks=["Pendulum-v1"], horizon=25).make_vec_env(seed=0, copies=COPIES)
    yield env
    env.close()


def linears(network):
    return [
        (layer.weight.data.T[None], layer.bias.data[None, None]) for layer in network if isinstance(layer, nn.Linear)
    ]


def copy_weights(theirs, actor, critic):
    policy = theirs.policy
    for network, layers in (
        (actor.network, [*linears(policy.mlp_extractor.policy_net), *linears([policy.action_net])]),
        (critic.network, [*linears(policy.mlp_extractor.value_net), *linears([policy.value_net])]),
    ):
        values = [tensor for pair in layers for tensor in pair]
        for mine, value in zip(network.parameters(), values, strict=True):
            mine.data.copy_(value)
    actor.task_log_std.table.data.copy_(policy.log_std.data[None])


def sb3_tensors(theirs, actor, critic):
    """SB3's parameters in our layout, through copies of our modules."""
    copy_weights(theirs, actor, critic)
    return [p.detach().clone() for p in (*actor.parameters(), *critic.parameters())]


def train(sample, actor, critic, orders, learning_rate):
    """The epochs of one iteration, as MTPPO.train does them."""
    task = torch.zeros(1, dtype=torch.long)
    optimizers = [torch.optim.Adam(side.parameters(), lr=learning_rate, eps=1e-5) for side in (actor, critic)]
    for order in orders:
        for batch in minibatches(sample, order, BATCH):
            batch = batch._replace(advantages=normalised(batch.advantages))
            policy, _ = policy_losses(actor, dict(actor.named_parameters()), batch, task, CLIP, COEFFICIENT)
            value, _ = value_losses(critic, dict(critic.named_parameters()), batch, task)
            for losses, optimizer in zip((policy, value), optimizers, strict=True):
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()


class Quiet:
    def record(self, *_, **__):
        pass


def test_one_task_is_sb3s_ppo_after_one_training_with_equal_rollouts_and_permutations(pendulum, monkeypatch):
    theirs = PPO(
        "MlpPolicy",
        pendulum,
        n_steps=STEPS,
        batch_size=BATCH,
        n_epochs=EPOCHS,
        learning_rate=1e-3,
        gamma=0.9,
        gae_lambda=0.8,
        clip_range=CLIP,
        ent_coef=COEFFICIENT,
        vf_coef=0.5,  # ours is half the squared error
        max_grad_norm=1e9,
        policy_kwargs={"net_arch": {"pi": WIDTHS, "vf": WIDTHS}, "activation_fn": nn.ReLU},
        seed=0,
        device="cpu",
    )
    theirs.set_logger(Quiet())

    def modules():
        actor = make_actor(1, 3, 1, hidden_sizes=WIDTHS)
        return actor, make_critic(tasks=1, states=3, hidden_sizes=WIDTHS, network="mlp")

    actor, critic = modules()
    copy_weights(theirs, actor, critic)
    start = [p.detach().clone() for p in (*actor.parameters(), *critic.parameters())]

    rollout = record_rollout(theirs, pendulum, monkeypatch)
    with torch.no_grad():
        sample = rollout.evaluate(critic.values, theirs._last_obs, 0.9, 0.8)
    buffer = theirs.rollout_buffer
    for name, mine in (("advantages", sample.advantages), ("returns", sample.returns), ("values", sample.values)):
        expected = torch.from_numpy(getattr(buffer, name)).T.flatten()
        torch.testing.assert_close(mine[0], expected, rtol=1e-4, atol=1e-4)

    generator = np.random.default_rng(0)
    orders = [generator.permutation(STEPS * COPIES) for _ in range(EPOCHS)]
    remaining = iter(orders)
    monkeypatch.setattr(np.random, "permutation", lambda size: next(remaining))
    theirs.train()
    train(sample, actor, critic, [torch.from_numpy(order)[None] for order in orders], 1e-3)

    names = [f"{part}.{n}" for part, m in (("actor", actor), ("critic", critic)) for n, _ in m.named_parameters()]
    found = [p.detach() for p in (*actor.parameters(), *critic.parameters())]
    for name, mine, value, before in zip(names, found, sb3_tensors(theirs, *modules()), start, strict=True):
        torch.testing.assert_close(mine, value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert (mine - before).abs().max() > 1e-4, f"{name} did not learn: the comparison would mean nothing"


def record_rollout(theirs, env, monkeypatch):
    """Let SB3 collect one rollout, and store in ours what its environment was given and gave back."""
    rollout = TaskRollout(STEPS, 3, 1, env.task_of_env, "cpu")
    seen = []
    original = env.step

    def step(actions):
        observations, rewards, dones, infos = original(actions)
        seen.append((rewards.copy(), dones, infos))  # SB3 adds the value after a time-out to the rewards in place
        return observations, rewards, dones, infos

    monkeypatch.setattr(env, "step", step)
    _, callback = theirs._setup_learn(STEPS * COPIES)
    theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, STEPS)
    buffer = theirs.rollout_buffer
    for index, (rewards, dones, infos) in enumerate(seen):
        rollout.add(
            buffer.observations[index],
            torch.from_numpy(buffer.actions[index]),
            torch.from_numpy(buffer.log_probs[index]),
            rewards,
            dones,
            infos,
        )
    assert any(dones.any() for _, dones, _ in seen), "an episode must end within the rollout"
    return rollout
