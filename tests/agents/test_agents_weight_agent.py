"""The agent that assigns task weights: DDPG on a factored critic, equivariant, gated by its skill; and its files."""

import copy

import pytest
import torch

from agents.balancers.igb.agent import WeightAgentSettings
from agents.balancers.igb.ddpg_agent import ENOUGH, NOISE, DDPGWeightAgent
from agents.balancers.igb.memory import DecisionMemory, Decisions
from agents.balancers.igb.rule import FEATURES, GAP, INTEREST, shares_of, with_floor
from agents.balancers.igb.sac_agent import SACWeightAgent
from agents.balancers.igb.shipped import SETTINGS, fill_agent, write_weight_agent
from agents.errors import ConfigurationError
from benchmarks.weight_agent import learned, prior_worst

torch.set_num_threads(1)
TASKS, COUNT = 3, len(FEATURES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def decisions(size, seed=0, tasks=TASKS, by_task=True):
    draw = generator(seed)
    states, next_states = torch.rand(2, size, tasks, COUNT, generator=draw)
    shares = torch.randn(size, tasks, generator=draw).softmax(-1)
    rewards = 0.2 * torch.randn(size, *([tasks] if by_task else []), generator=draw)
    return Decisions(states, shares, rewards, next_states)


def ddpg(seed=0, tasks=TASKS, floor=0.1, **settings):
    return DDPGWeightAgent(tasks, WeightAgentSettings(**settings), generator(seed), floor)


def filled(agent, count, seed=0):
    """The agent, with so many random decisions in its memory."""
    for row in zip(*decisions(count, seed, by_task=isinstance(agent, DDPGWeightAgent)), strict=True):
        agent.memory.add(*row)
    return agent


# ---------------------------------------------------------------------- the update


def test_an_update_is_ddpg_with_a_value_for_every_task():
    """Against the same written out with PyTorch's own Adam."""
    ours, theirs = ddpg(gamma=0.9, tau=0.01), ddpg(gamma=0.9, tau=0.01)
    critic_adam = torch.optim.Adam(theirs.critic.parameters(), lr=1e-3)
    actor_adam = torch.optim.Adam(theirs.actor.parameters(), lr=1e-3)
    for seed in range(10):
        batch = decisions(32, seed)
        ours.update(batch)
        with torch.no_grad():
            following = theirs.weights(batch.next_states, theirs.actor_target) / TASKS
            target = batch.rewards + 0.9 * theirs.critic_target(batch.next_states, following)[0]
        critic_adam.zero_grad()
        (theirs.critic(batch.states, batch.shares)[0] - target).square().mean().backward()
        critic_adam.step()
        actor_adam.zero_grad()
        (-theirs.critic(batch.states, theirs.weights(batch.states) / TASKS)[0].sum(-1).mean()).backward()
        actor_adam.step()
        for name in ("actor", "critic"):
            pairs = zip(*(getattr(theirs, part).parameters() for part in (f"{name}_target", name)), strict=True)
            for slow, fast in pairs:
                slow.data.lerp_(fast.data, 0.01)
    for name in ("actor", "critic", "actor_target", "critic_target"):
        mine, expected = getattr(ours, name), getattr(theirs, name)
        for left, right in zip(mine.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=5e-6)


def test_relabelling_the_tasks_relabels_weights_and_values():
    agent, batch, order = ddpg(), decisions(5), torch.tensor([2, 0, 1])
    torch.testing.assert_close(agent.weights(batch.states[:, order]), agent.weights(batch.states)[:, order])
    values = agent.critic(batch.states, batch.shares)
    torch.testing.assert_close(agent.critic(batch.states[:, order], batch.shares[:, order]), values[..., order])


def test_an_agent_of_three_tasks_serves_six_and_weighs_copies_alike():
    small, six = filled(ddpg(), 64), ddpg(tasks=6)
    small.learn(5, 32)
    six.actor.load_state_dict(small.actor.state_dict())
    states = decisions(4).states
    torch.testing.assert_close(six.weights(states.repeat(1, 2, 1))[:, :3], small.weights(states))


@pytest.mark.parametrize("updates", [0, 20])
def test_no_weight_is_below_the_floor_and_their_mean_is_one(updates):
    agent = filled(ddpg(floor=0.15), 64)
    agent.learn(updates, 32)
    weights = agent.weights(decisions(50).states, noise=3.0 * torch.randn(50, TASKS, generator=generator()))
    assert weights.min() >= 0.15
    torch.testing.assert_close(weights.mean(-1), torch.ones(50))


def test_a_quadratic_bandit_is_solved():
    """Rewards ``-(weight - best)^2`` by task, told apart by a feature of each task."""
    best = torch.tensor([1.6, 0.9, 0.5])
    state = torch.full((TASKS, COUNT), 0.5)
    state[:, FEATURES.index("success")] = best
    agent, draw = ddpg(gamma=0.0), generator()
    for _ in range(300):
        weights = with_floor(torch.randn(TASKS, generator=draw).softmax(-1), 0.1)
        agent.remember(state, weights, -(weights - best).square() / 10, state)
        agent.learn(2, 64)
    weights = agent.weights(state[None])[0]
    assert (weights - best).norm() < 0.4 * (torch.ones(TASKS) - best).norm()


def test_where_the_best_weights_are_known_the_agent_comes_closer_to_them_than_its_prior():
    """In the synthetic trainer."""
    assert learned(seed=0, decisions=400) < prior_worst() - 0.01


# ---------------------------------------------------------------------- its skill


def outcomes(agent, foretold, count=30):
    """The agent after so many decisions; `foretold` makes rewards of what its critic says of them."""
    for row in range(count):
        batch = decisions(1, seed=row)
        said = agent.critic(batch.states, batch.shares)[0, 0].detach()
        agent.remember(batch.states[0], TASKS * batch.shares[0], foretold(said, row) / 10.0, batch.next_states[0])
    return agent


def noise(said, row):
    return torch.randn(TASKS, generator=generator(row))


def test_a_critic_that_foretells_outcomes_is_trusted_and_one_that_does_not_is_not():
    assert outcomes(ddpg(gamma=0.0), lambda said, row: said).skill > 0.99
    assert outcomes(ddpg(gamma=0.0), noise).skill <= 0.05
    assert outcomes(ddpg(gamma=0.0), lambda said, row: said, count=int(ENOUGH) - 1).skill == 0


@pytest.mark.parametrize("trusted", [True, False])
def test_without_skill_it_acts_exactly_as_the_closed_form_and_without_noise(trusted):
    agent, state = ddpg(gamma=0.0), decisions(1).states[0]
    agent.evidence = torch.tensor([20.0, 60.0, 0.0, 60.0, 30.0 if trusted else 60.0])
    closed = with_floor(shares_of(state[:, GAP], state[:, INTEREST]), 0.1)
    assert torch.equal(agent.act(state), closed) != trusted
    assert (agent.act(state).log() - closed.log()).abs().max() < 1.0 and NOISE > 0


# ---------------------------------------------------------------------- files


def test_an_agent_that_was_written_is_read_again_with_its_evidence(tmp_path):
    agent, evidence = filled(ddpg(tasks=3, width=SETTINGS.width), 64), torch.tensor([8.0, 24.0, 0.0, 5.0, 4.0])
    agent.learn(5, 32)
    write_weight_agent(tmp_path / "a.pt", agent, evidence, {"skill": 0.2})
    other = DDPGWeightAgent(5, SETTINGS, generator(1), 0.1)
    fill_agent(other, str(tmp_path / "a.pt"))
    states = decisions(4, tasks=5).states
    torch.testing.assert_close(other.weights(states, other.actor_target), other.weights(states))
    assert other.skill == pytest.approx(0.2, abs=1e-6)
    for left, right in zip(agent.actor.parameters(), other.actor.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_file_of_another_feature_set_is_refused_in_a_sentence(tmp_path):
    agent = ddpg(width=SETTINGS.width)
    write_weight_agent(tmp_path / "a.pt", agent, agent.evidence, {})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**content, "features": ["gap", "loss"]}, tmp_path / "a.pt")
    with pytest.raises(ConfigurationError, match=r"sees \['gap', 'loss'\], and igb_rl shows it \['gap', 'fall'"):
        fill_agent(agent, str(tmp_path / "a.pt"))
    (tmp_path / "b.pt").write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="is no weight agent"):
        fill_agent(agent, str(tmp_path / "b.pt"))
    with pytest.raises(ConfigurationError, match="there is no weight agent at"):
        fill_agent(agent, str(tmp_path / "c.pt"))


# ---------------------------------------------------------------------- memory and state


@pytest.mark.parametrize("by_task", [True, False])
def test_the_memory_keeps_the_latest_decisions_and_no_room_for_more(by_task):
    memory = DecisionMemory(TASKS, COUNT, capacity=5, by_task=by_task)
    batch = decisions(8, by_task=by_task)
    for row in zip(*batch, strict=True):
        memory.add(*row)
    assert len(memory) == 5
    sample = memory.sample(200, generator())
    kept = {tuple(row.flatten().tolist()) for row in batch.rewards[3:]}
    assert {tuple(row.flatten().tolist()) for row in sample.rewards} == kept
    assert memory.get_extra_state().shape == (5, 2 * TASKS * COUNT + TASKS + (TASKS if by_task else 1))


def continued(agent, updates):
    """What an agent does next: its learning and its decisions."""
    report = agent.learn(updates, 16)
    return [*report.values(), agent.act(decisions(1, 7).states[0])]


def sac(seed=0):
    settings = WeightAgentSettings(network="mlp", width=16, critics=2, gamma=0.99)
    return SACWeightAgent(TASKS, COUNT, settings, generator(seed))


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
