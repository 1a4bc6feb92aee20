"""BRC from its parts: each of them in an agent, with every balancer, in files, and learning the toy."""

import copy

import numpy as np
import pytest
import torch

from agents import MTSAC, list_balancers
from agents.networks.layers import takes_grouped_parameters
from agents.updates import actor_losses
from tests.agents.brc_settings import BRC, BRC_POLICY
from tests.agents.test_agents_learning import SUITE, success_in_fresh_episodes
from tests.agents.test_agents_resume import BALANCERS, SHOWN
from tests.grids import grid

PARTS = {
    "bronet": {"policy_kwargs": {"network": "bronet"}},
    "categorical": {"policy_kwargs": {"critic": "categorical"}},
    "hl_gauss": {"policy_kwargs": {"critic": "categorical", "critic_kwargs": {"target": "hl_gauss"}}},
    "mean": {"policy_kwargs": {"ensemble_reduction": "mean"}},
    "return": {"reward_scale": "return"},
    "critic_embedding": {"policy_kwargs": {"task_id": "critic_embedding"}},
    "tanh": {"policy_kwargs": {"log_std": "tanh"}},
    "AdamW": {"weight_decay": 1e-2},
    "all": BRC,
}


def noise_for(sample, seed=0):
    return torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", PARTS.values(), ids=PARTS)
@grid("precision", ["float32", "bfloat16"], always=["bfloat16"])
def test_every_part_trains_every_parameter(small_agent, random_sample, options, precision):
    agent = small_agent(precision=precision, **options)
    before = {name: value.clone() for name, value in agent.policy.named_parameters()}
    for seed in range(2):
        sample = random_sample(agent, seed=seed)
        metrics = agent.update(sample, noise_for(sample, seed))
    assert all(value.isfinite().all() for value in metrics.values())
    for name, value in agent.policy.named_parameters():
        assert not torch.equal(value, before[name]), name
    assert all(takes_grouped_parameters(module) for module in (agent.actor, agent.critic))


@grid("balancer", BALANCERS, always=SHOWN)
def test_every_balancer_balances_brc(small_agent, balancer):
    agent = small_agent(**BRC, balancer=balancer, balancer_kwargs=BALANCERS[balancer])
    agent.learn(4 * 40, log_interval=None)
    assert agent._n_updates > 40 and agent.guard.state_dict()["skipped"] == 0


@pytest.mark.parametrize("tasks", [1, 2])
def test_few_tasks_are_tasks(small_agent, tasks):
    agent = small_agent(env_num_tasks=tasks, balancer="pcgrad", **BRC)
    agent.learn(tasks * 60, log_interval=None)
    assert agent._n_updates > 10 and agent.guard.state_dict()["skipped"] == 0


@pytest.mark.parametrize("options", PARTS.values(), ids=PARTS)
def test_a_saved_agent_acts_alike_and_learns_on(small_agent, pointmass, tmp_path, options):
    agent = small_agent(**options)
    agent.learn(4 * 80, log_interval=None)
    agent.save(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", device="cpu")
    observations = pointmass().reset()
    for deterministic in (True, False):
        expected = agent.predict(observations, deterministic=deterministic)[0] if deterministic else None
        found = loaded.predict(observations, deterministic=deterministic)[0]
        assert expected is None or np.array_equal(found, expected)
    for part in ("temperature", "reward_scale", "policy"):
        states = [getattr(each, part).state_dict() for each in (agent, loaded)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    loaded.set_env(pointmass(copies=2))
    loaded.learn(8 * 10, log_interval=None)


# ---------------------------------------------------------------------- the embedding


def test_the_actor_reads_the_critics_embedding_and_never_teaches_it(small_agent, random_sample):
    agent = small_agent(**BRC)
    table = agent.critic.network.task_encoding.table
    assert not [name for name, _ in agent.actor.named_parameters() if "encoding" in name]
    sample = random_sample(agent)
    inputs = (sample.states, noise_for(sample)[0], torch.ones(4), torch.arange(agent.num_tasks))
    actor_losses(agent.actor, agent.critic, dict(agent.actor.named_parameters()), *inputs)[0].sum().backward()
    assert table.grad is None and all(parameter.grad is not None for parameter in agent.actor.parameters())
    before = agent.actor(sample.states, torch.arange(agent.num_tasks))[0].clone()
    table.data.neg_()
    assert not torch.equal(agent.actor(sample.states, torch.arange(agent.num_tasks))[0], before)


def test_the_actor_knows_the_tasks_apart_by_the_embedding_alone(small_agent):
    agent = small_agent(**BRC)
    states = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1)
    means, _ = agent.actor(states, torch.arange(agent.num_tasks))
    assert not torch.allclose(means[0], means[1])
    agent.critic.network.task_encoding.table.data.fill_(1.0)
    means, _ = agent.actor(states, torch.arange(agent.num_tasks))
    assert torch.equal(means[0], means[1])


def test_a_copied_policy_has_its_own_embedding(small_agent):
    policy = small_agent(**BRC).policy
    twin = copy.deepcopy(policy)
    assert twin.actor._encoding[0] is twin.critic.network.task_encoding
    assert twin.actor._encoding[0] is not policy.critic.network.task_encoding


# ---------------------------------------------------------------------- the rest


def test_squashed_log_standard_deviations_stay_within_their_range_and_keep_a_gradient(small_agent):
    agent = small_agent(policy_kwargs={"log_std": "tanh"})
    head = agent.actor.network.head
    head.bias.data[..., 2:] = torch.tensor([-3.0, 3.0])
    _, log_std = agent.actor(torch.zeros(4, 1, 2), torch.arange(agent.num_tasks))
    assert (log_std > -10).all() and (log_std < 2).all()
    torch.testing.assert_close(log_std[0, 0], -4 + 6 * torch.tensor([-3.0, 3.0]).tanh(), rtol=0, atol=0.05)
    log_std.sum().backward()
    assert (head.bias.grad[..., 2:] != 0).all()


def test_weight_decay_is_decoupled_and_acts_on_actor_and_critics(small_agent, random_sample):
    agent = small_agent(weight_decay=0.1, learning_rate=1e-3)
    sample = random_sample(agent)
    optimizers = (agent.actor_optimizer, agent.critic_optimizer, agent.temperature_optimizer)
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.AdamW, torch.optim.AdamW, torch.optim.Adam]
    before, decayed = ({name: value.clone() for name, value in agent.policy.named_parameters()} for _ in range(2))
    twin = small_agent(learning_rate=1e-3)
    for each in (agent, twin):
        each.update(sample, noise_for(sample))
    plain = dict(twin.policy.named_parameters())
    for name, value in agent.critic.named_parameters():
        decayed = plain[f"critic.{name}"] - 1e-3 * 0.1 * before[f"critic.{name}"]
        torch.testing.assert_close(value, decayed, rtol=1e-5, atol=1e-7)


def test_the_target_entropy_may_be_a_share_of_the_action_size(small_agent):
    assert small_agent(target_entropy="auto_0.5").temperature.target_entropy.unique().tolist() == [-1.0]
    assert small_agent(target_entropy="auto").temperature.target_entropy.unique().tolist() == [-2.0]
    assert small_agent(target_entropy=0.25).temperature.target_entropy.unique().tolist() == [0.25]
    assert small_agent(temperature_beta1=0.5).temperature_optimizer.param_groups[0]["betas"] == (0.5, 0.999)


@pytest.mark.parametrize("name", ["igb_rl", "igb_v1_rl"])
def test_decided_weights_on_spread_leave_a_cross_entropy_alone_and_scale_the_actor(small_agent, name):
    agent = small_agent(**BRC, balancer=name, balancer_kwargs={"window": 5, "scale": "spread"})
    agent.learn(4 * 60, log_interval=None)
    critic, actor = agent.critic_balancer, agent.actor_balancer
    torch.testing.assert_close(critic.diagnostics()["weights"], critic.decided / critic.decided.mean())
    scaled = critic.decided / critic.variance.sqrt()
    torch.testing.assert_close(actor.diagnostics()["weights"], scaled / scaled.mean())


def test_gaps_of_td_errors_read_a_categorical_critic_in_units_of_values(small_agent, random_sample):
    agent = small_agent(**BRC, balancer="igb_rl", balancer_kwargs={"gap_source": "td_norm", "window": 50})
    gaps, sample = agent.critic_balancer.gaps, random_sample(agent)
    for seed in range(2):  # the first one decides at once, and begins a window
        outputs = agent.critic(sample.states, sample.actions, torch.arange(agent.num_tasks)).detach()
        agent.update(sample, noise_for(sample, seed))
    found = agent.critic.value.metrics(outputs, dict(agent.guard.seen)["target"])
    torch.testing.assert_close(gaps.variance_sum, found["target_variance"])
    torch.testing.assert_close(gaps.loss_sum, found["squared_error"])


def test_every_method_of_the_registry_is_tried_here():
    assert {record.name for record in list_balancers()} <= set(BALANCERS)


# ---------------------------------------------------------------------- learning

VECTOR_STEPS = 1_000


@grid("seed", [0, 1], always=[0])
def test_four_conflicting_tasks_are_learnt_in_seconds(seed):
    """With HL-Gauss: a projected target is as wide as the target critic's, which takes many updates to narrow."""
    env = SUITE.make_vec_env(seed=seed)
    policy = {
        **BRC_POLICY,
        "hidden_sizes": [64],
        "actor_hidden_sizes": [64],
        "critic_kwargs": {"num_atoms": 51, "target": "hl_gauss"},
        "network_kwargs": {"embedding_size": 8},
    }
    options = {**BRC, "policy_kwargs": policy, "gradient_steps": 1, "ent_coef": "auto_0.01"}
    sizes = {"learning_starts": 400, "batch_size": 4 * 16, "buffer_size": 4 * VECTOR_STEPS}
    agent = MTSAC("MultiTaskPolicy", env, learning_rate=3e-3, gamma=0.9, seed=seed, device="cpu", **sizes, **options)
    agent.learn(4 * VECTOR_STEPS, log_interval=None)
    env.close()
    assert success_in_fresh_episodes(agent, seed).mean() >= 0.9
