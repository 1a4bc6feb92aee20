"""The agent that assigns task weights: SB3's DDPG in its update, equivariant in its network, and able to learn."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from agents.balancers.igb.agent import DDPGWeightAgent, WeightAgentSettings, to_weights
from agents.balancers.igb.memory import DecisionMemory, Decisions, ExplorationNoise
from agents.balancers.igb.sac_agent import SACWeightAgent
from agents.errors import ConfigurationError
from benchmarks.weight_agent import SPEEDS, best_weights, equal_weights, learned, worst_gap

torch.set_num_threads(1)
TASKS, FEATURES = 3, 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def decisions(size, seed=0, tasks=TASKS):
    draw = generator(seed)
    states, next_states = torch.randn(2, size, tasks, FEATURES, generator=draw)
    shares = torch.randn(size, tasks, generator=draw).softmax(-1)
    return Decisions(states, shares, 0.2 * torch.randn(size, generator=draw), next_states)


def ddpg(seed=0, tasks=TASKS, prior=0.0, **settings):
    return DDPGWeightAgent(tasks, FEATURES, WeightAgentSettings(**settings), generator(seed), prior=prior)


def filled(agent, count, seed=0):
    """The agent, with so many random decisions in its memory."""
    batch = decisions(count, seed)
    for row in zip(*batch, strict=True):
        agent.memory.add(*row)
    return agent


# ---------------------------------------------------------------------- against Stable-Baselines3

WIDTH, BATCH, RANGE, FLOOR = 16, 32, 2.0, 0.1


class Shape(gymnasium.Env):
    """An environment that only has the spaces of a weight agent with three tasks."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (TASKS * FEATURES,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (TASKS,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(TASKS * FEATURES, np.float32), {}


class ToShares(torch.nn.Module):
    """The end of our policy, put in the place of SB3's tanh."""

    def forward(self, raw):
        return to_weights(RANGE * raw.tanh(), FLOOR) / TASKS


class SilentLogger:
    def record(self, *_, **__):
        pass


@pytest.fixture
def pair():
    """SB3's DDPG and ours with equal weights and settings."""
    theirs = DDPG(
        "MlpPolicy",
        Shape(),
        learning_rate=1e-3,
        tau=0.01,
        gamma=0.9,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        seed=0,
        device="cpu",
    )
    for actor in (theirs.actor, theirs.actor_target):
        actor.mu[-1] = ToShares()
    theirs.set_logger(SilentLogger())
    settings = {"width": WIDTH, "floor": FLOOR, "logit_range": RANGE, "gamma": 0.9, "tau": 0.01}
    ours = ddpg(network="mlp", actor_lr=1e-3, critic_lr=1e-3, **settings)
    for (_, mine), value in zip(named(ours), sb3_tensors(theirs), strict=True):
        mine.data.copy_(value)
    return theirs, ours


def named(agent):
    parts = ("actor", "critic", "actor_target", "critic_target")
    return [(f"{part}.{name}", p) for part in parts for name, p in getattr(agent, part).named_parameters()]


def sb3_tensors(agent):
    """SB3's parameters in our layout, in the order of `named`."""
    networks = (agent.actor.mu, agent.critic.qf0, agent.actor_target.mu, agent.critic_target.qf0)
    layers = [layer for network in networks for layer in network if isinstance(layer, torch.nn.Linear)]
    return [tensor for layer in layers for tensor in (layer.weight.data.T[None], layer.bias.data[None, None])]


@pytest.mark.parametrize("updates", [1, 20])
def test_an_update_is_sb3s_ddpg_from_equal_weights_and_batches(pair, monkeypatch, updates):
    theirs, ours = pair
    start = [value.clone() for _, value in named(ours)]
    batches = [decisions(BATCH, seed) for seed in range(updates)]
    samples = iter(batches)

    def sample(*_, **__):
        batch = next(samples)
        terminals = torch.zeros(BATCH, 1)
        states, next_states = batch.states.flatten(1), batch.next_states.flatten(1)
        return ReplayBufferSamples(states, batch.shares, next_states, terminals, batch.rewards[:, None])

    monkeypatch.setattr(theirs.replay_buffer, "sample", sample)
    theirs.train(gradient_steps=updates, batch_size=BATCH)
    for batch in batches:
        ours.update(batch)
    for (name, mine), value, before in zip(named(ours), sb3_tensors(theirs), start, strict=True):
        torch.testing.assert_close(mine.data, value, rtol=0, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
        assert (mine - before).abs().max() > 1e-6, f"{name} did not learn: the comparison would mean nothing"


# ---------------------------------------------------------------------- networks and weights


def test_relabelling_the_tasks_relabels_the_weights_and_leaves_the_value():
    agent, batch, order = ddpg(prior=1.0), decisions(5), torch.tensor([2, 0, 1])
    shares, moved = agent.shares(batch.states), agent.shares(batch.states[:, order])
    torch.testing.assert_close(moved, shares[:, order])
    value = agent.critic(batch.states, batch.shares)
    torch.testing.assert_close(agent.critic(batch.states[:, order], batch.shares[:, order]), value)


def test_the_equivariant_agent_of_three_tasks_serves_seven():
    small, large = filled(ddpg(), 64), ddpg(tasks=7)
    small.learn(5)
    for part in ("actor", "critic"):
        getattr(large, part).load_state_dict(getattr(small, part).state_dict())
    states = decisions(4, tasks=7).states
    assert large.shares(states).shape == (4, 7)
    # Each task seen among copies of three tasks gets a third of what it gets among the three.
    three = decisions(4).states
    six = DDPGWeightAgent(6, FEATURES, WeightAgentSettings(), generator())
    six.actor.load_state_dict(small.actor.state_dict())
    torch.testing.assert_close(six.shares(three.repeat(1, 2, 1))[:, :3], small.shares(three) / 2)


@pytest.mark.parametrize("network", ["equivariant", "mlp"])
@pytest.mark.parametrize("kind", ["random", "noisy", "trained"])
def test_no_weight_is_below_the_floor_and_their_mean_is_one(network, kind):
    agent = filled(ddpg(network=network, floor=0.15), 64)
    if kind == "trained":
        agent.learn(20)
    for seed in range(50):
        noise = 20.0 * torch.randn(TASKS, generator=generator(seed)) if kind != "trained" else None
        state = decisions(1, seed).states[0]
        weights = agent.random_weights() if kind == "random" else agent.act(state, noise)
        assert weights.min() >= 0.15
        torch.testing.assert_close(weights.mean(), torch.tensor(1.0))


@pytest.mark.parametrize("tasks", [1, 2, 3, 10, 49, 50])
def test_with_a_floor_of_one_every_weight_is_exactly_one(tasks):
    logits = 5.0 * torch.randn(tasks, generator=generator())
    assert torch.equal(to_weights(logits, 1.0), torch.ones(tasks))


def test_an_untrained_agent_gives_equal_weights_and_with_a_prior_more_to_large_gaps():
    state = torch.zeros(TASKS, FEATURES)
    state[:, 0] = torch.tensor([0.1, 0.5, 1.0])  # the gaps
    torch.testing.assert_close(ddpg().act(state), torch.ones(TASKS), rtol=0, atol=0.05)
    weights = ddpg(prior=1.0).act(state)
    assert weights[0] < weights[1] < weights[2] and weights[2] > 1.5


def test_values_never_exceed_what_clipped_rewards_can_bring():
    agent = ddpg(gamma=0.5, critic_lr=0.05)
    batch = decisions(32)._replace(rewards=torch.full((32,), 100.0))
    for _ in range(300):
        agent.update(batch)
    assert agent.critic(batch.states, batch.shares).mean() < 2.5  # 1 / (1 - gamma) is 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"floor": 1.2}, "me: floor must lie between 0 and 1, found 1.2"),
        ({"gamma": 1.0}, "me: gamma must be at least 0 and below 1, found 1.0"),
        ({"critics": 0}, "me: critics must be a whole number of at least 1, found 0"),
        ({"actor_lr": 0.0}, "me: actor_lr must be a positive number, found 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        WeightAgentSettings(**settings).check("me")


def test_an_unknown_network_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="'equivarant'.*did you mean 'equivariant'"):
        ddpg(network="equivarant")


# ---------------------------------------------------------------------- memory and noise


def test_the_memory_keeps_the_latest_decisions_and_no_room_for_more():
    memory = DecisionMemory(TASKS, FEATURES, capacity=5)
    batch = decisions(8)
    for row in zip(*batch, strict=True):
        memory.add(*row)
    assert len(memory) == 5
    torch.testing.assert_close(memory.latest(9).shares, batch.shares[3:])
    torch.testing.assert_close(memory.latest(2).next_states, batch.next_states[6:])
    assert set(memory.sample(200, generator()).rewards.tolist()) == set(batch.rewards[3:].tolist())
    assert memory.get_extra_state().shape == (5, 2 * TASKS * FEATURES + TASKS + 1)


def test_noise_falls_over_the_first_half_of_the_budget():
    noise = ExplorationNoise(TASKS, "gaussian", 0.5, 0.1)
    assert [noise.scale(used) for used in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([0.5, 0.3, 0.1, 0.1])


@pytest.mark.parametrize(("kind", "memory"), [("gaussian", 0.0), ("ou", 0.85)])
def test_both_noises_have_the_same_deviation_and_ou_remembers(kind, memory):
    noise, draw = ExplorationNoise(1000, kind, 0.4, 0.4), generator()
    drawn = torch.stack([noise.draw(0.0, draw) for _ in range(80)])[40:]
    assert drawn.std().item() == pytest.approx(0.4, rel=0.03)
    correlation = (drawn[1:] * drawn[:-1]).mean() / drawn.square().mean()
    assert correlation.item() == pytest.approx(memory, abs=0.03)


def test_unknown_noise_is_refused():
    with pytest.raises(ConfigurationError, match="Unknown exploration noise 'uo': .*did you mean 'ou'"):
        ExplorationNoise(2, "uo", 0.5, 0.1)


# ---------------------------------------------------------------------- learning and state


def continued(agent, updates):
    """What an agent does next: its learning, its random weights and its decisions."""
    report = agent.learn(updates, *(() if isinstance(agent, DDPGWeightAgent) else (16,)))
    return [*report.values(), agent.random_weights(), agent.act(decisions(1, 7).states[0])]


def sac(seed=0):
    settings = WeightAgentSettings(network="mlp", width=16, critics=2, gamma=0.99)
    return SACWeightAgent(TASKS, FEATURES, settings, generator(seed))


@pytest.mark.parametrize("make", [ddpg, sac], ids=["ddpg", "sac"])
def test_a_restored_agent_continues_identically(make):
    agent = filled(make(seed=0), 100)
    continued(agent, 3)
    other = make(seed=1)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(continued(agent, 4), continued(other, 4), strict=True))
    state, restored = agent.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], restored[name]) for name in state)


@pytest.mark.parametrize("make", [ddpg, sac], ids=["ddpg", "sac"])
def test_the_state_is_tensors_alone(make, tmp_path):
    torch.save(filled(make(), 3).state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in loaded.values())


def test_the_global_generator_is_never_touched():
    before = torch.get_rng_state()
    continued(filled(ddpg(), 20), 2)
    continued(filled(sac(), 20), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", ["equivariant", "mlp"])
def test_a_quadratic_bandit_is_solved(network):
    """Reward ``-|shares - p|^2``: no state to wait for, one best answer, here told apart by a feature of each task."""
    best = torch.tensor([0.6, 0.3, 0.1])
    state = torch.cat([torch.eye(TASKS), torch.zeros(TASKS, 1)], dim=1)
    agent = ddpg(network=network, gamma=0.0)
    noise = ExplorationNoise(TASKS, "gaussian", 0.5, 0.1)
    for decision in range(300):
        random = decision < 100
        drawn = None if random else noise.draw(decision / 300, agent.exploration)
        shares = (agent.random_weights() if random else agent.act(state, drawn)) / TASKS
        agent.memory.add(state, shares, -(shares - best).square().sum(), state)
        if not random:
            agent.learn(2)
    shares, equal = agent.act(state) / TASKS, torch.full((TASKS,), 1 / TASKS)
    assert (shares - best).norm() < 0.4 * (equal - best).norm()


@pytest.mark.parametrize("seed", range(5))
def test_within_2000_decisions_the_agent_closes_half_of_the_way_from_equal_to_best_weights(seed):
    """In the synthetic trainer, on five seeds of five."""
    equal, best = worst_gap(equal_weights), worst_gap(best_weights)
    assert len(SPEEDS) == 3 and equal - best > 0.2
    assert learned(seed, decisions=2000) < equal - 0.5 * (equal - best)


# ---------------------------------------------------------------------- the published agent


def test_sacs_log_probability_is_the_gaussian_with_the_correction_of_tanh():
    agent = sac()
    states, noise = decisions(6).states, torch.randn(6, TASKS, generator=generator(1))
    shares, log_probability = agent.sample(states, noise)
    mean, log_std = agent.actor(states).unbind(-1)
    logits = mean + log_std.exp() * noise
    normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(logits)
    expected = (normal - (1 - logits.tanh().square()).log()).sum(-1)
    torch.testing.assert_close(log_probability, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shares, logits.softmax(-1))


def test_sacs_temperature_rises_while_the_entropy_is_below_its_target():
    # Target entropy -3; a policy of tiny deviation has an entropy far below it.
    agent = filled(sac(), 64)
    start = agent.log_temperature.clone()
    with torch.no_grad():
        agent.actor.network.layers[-1].bias[..., 1::2] = -6.0
    agent.learn(1, 32)
    assert agent.log_temperature > start
    assert start.exp().item() == pytest.approx(0.2)
