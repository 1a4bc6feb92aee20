"""A number that is not finite stops its update: nothing that it could reach changes, and too many end the run."""

import numpy as np
import pytest
import torch

from agents import NonFiniteUpdate, list_balancers
from agents.balancing.guard import UpdateGuard
from agents.balancing.objective import TaskObjective
from agents.metrics import UpdateMetrics
from agents.selection import Selection
from tests.agents.balancers.balancer_cases import GIVEN, RECORDED, recorded_run
from tests.grids import grid

BALANCERS = [record.name for record in list_balancers()]
SHOWN = ["unitary", "famo", "igb_rl", "moco", "graddrop", "igb_v1+cagrad", "son_goku:pcgrad"]  # one of each kind
COMPOSED = ["igb_v1+cagrad", "famo+pcgrad", "rlw+gradnorm", "dwa+moco", "son_goku:pcgrad"]


@pytest.fixture
def guarded(small_agent):
    """Maker of agents whose actor is balanced by `unitary`."""

    def make(**options):
        name = options.get("balancer", "unitary")
        if name in GIVEN:
            options["balancer_kwargs"] = GIVEN[name]
        if name in RECORDED:
            options["balancer_kwargs"] = {"source": recorded_run(4)}
        return small_agent(actor_balancer="unitary", **options)

    return make


@pytest.fixture
def batch(random_sample):
    """Maker of a batch and its noise; `bad` names a field that is spoilt for task 1."""

    def make(agent, seed=0, bad=None, value=torch.nan):
        sample = random_sample(agent, seed=seed)
        if bad is not None:
            getattr(sample, bad)[1, 3] = value
        return sample, torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(seed))

    return make


def update(agent, batch):
    agent.update(*batch)
    agent.guard.end()


@grid("balancer", BALANCERS + COMPOSED, always=SHOWN)
def test_a_bad_batch_leaves_the_agent_as_if_it_had_never_been(guarded, batch, fingerprint, balancer):
    prints = []
    for bad_ones in (False, True):
        agent = guarded(balancer=balancer)
        for seed in range(3):
            update(agent, batch(agent, seed))
            if bad_ones:
                before = fingerprint(agent)
                update(agent, batch(agent, 9, bad="rewards"))
                update(agent, batch(agent, 9, bad="states", value=torch.inf))
                assert fingerprint(agent) == before
        prints.append(fingerprint(agent))
    assert agent.guard.state_dict() == {"skipped": 6, "streak": 2}
    assert prints[0] == prints[1]


def spoil_gradients(monkeypatch, name, when):
    """Losses as they are, but with a gradient that is not a number: d sqrt(x) at x = 0."""
    import agents.mtsac as module

    losses = getattr(module, name)

    def spoilt(*arguments):
        values, metrics = losses(*arguments)
        parameters = next(argument for argument in arguments if isinstance(argument, dict))
        return (values + (next(iter(parameters.values())).sum() * 0.0).sqrt() if when[0] else values), metrics

    monkeypatch.setattr(module, name, spoilt)


@pytest.mark.parametrize("balancer", ["unitary", "famo", "imtl", "db_mtl", "graddrop", *COMPOSED])
def test_a_bad_gradient_of_good_losses_moves_no_parameter(guarded, batch, monkeypatch, balancer):
    when = [False]
    spoil_gradients(monkeypatch, "critic_losses", when)
    agent = guarded(balancer=balancer)
    for seed in range(3):
        update(agent, batch(agent, seed))
    before = learnt(agent)
    when[0] = True
    update(agent, batch(agent, 7))
    assert all(torch.equal(old, new) for old, new in zip(before, learnt(agent), strict=True))
    assert agent.guard.skipped == 1 and agent.guard.culprit()[0] == "critic gradient"
    assert all(value.isfinite().all() for value in agent.critic_balancer.state_dict().values())


def learnt(agent):
    """Copies of everything that an update moves, balancers apart."""
    moments = [
        value
        for optimizer in (agent.actor_optimizer, agent.critic_optimizer, agent.temperature_optimizer)
        for state in optimizer.state.values()
        for value in state.values()
    ]
    return [value.clone() for value in (*agent.policy.state_dict().values(), agent.temperature.log_alpha, *moments)]


@pytest.mark.parametrize("balancer", ["pcgrad", "gradnorm", "moco", "db_mtl", "son_goku:pcgrad"])
def test_what_remembers_gradients_never_sees_a_bad_one(guarded, batch, fingerprint, monkeypatch, balancer):
    """Nothing has to be undone: the Gramian, or the norms of the gradients, are known before a method changes."""
    when = [False]
    spoil_gradients(monkeypatch, "critic_losses", when)
    agent = guarded(balancer=balancer)
    for seed in range(3):
        update(agent, batch(agent, seed))
    before = fingerprint(agent)
    when[0] = True
    update(agent, batch(agent, 7))
    assert fingerprint(agent) == before


LARGE = {
    "db_mtl": {},
    "moco": {"norm": "none"},
    "son_goku:pcgrad": {"refresh_every": 1, "warmup": 0, "anneal": 0, "tau": 0.05},
}


@pytest.mark.parametrize("balancer", LARGE)
def test_a_large_memory_of_gradients_is_left_as_it_was(guarded, batch, fingerprint, monkeypatch, balancer):
    when = [False]
    spoil_gradients(monkeypatch, "critic_losses", when)
    agent = guarded(balancer=balancer, balancer_kwargs=LARGE[balancer], policy_kwargs={"hidden_sizes": [64, 64]})
    for seed in range(3):
        update(agent, batch(agent, seed))
    assert max(value.numel() for value in agent.critic_balancer.buffers()) > 10_000
    before = fingerprint(agent)
    when[0] = True
    update(agent, batch(agent, 7))
    assert fingerprint(agent) == before and agent.guard.skipped == 1
    when[0] = False
    update(agent, batch(agent, 8))
    assert fingerprint(agent) != before and agent.guard.skipped == 1


def test_what_came_before_the_bad_number_stays_and_nothing_after_it_happens(guarded, batch, monkeypatch):
    import agents.mtsac as module

    agent = guarded()
    update(agent, batch(agent, 0))
    parts = {
        "critic": agent.critic,
        "actor": agent.actor,
        "temperature": agent.temperature,
        "target": agent.critic_target,
    }
    before = {name: [value.clone() for value in part.state_dict().values()] for name, part in parts.items()}
    losses = module.actor_losses
    spoiler = torch.tensor([1.0, 1.0, torch.nan, 1.0])
    monkeypatch.setattr(module, "actor_losses", lambda *a: (losses(*a)[0] * spoiler, losses(*a)[1]))
    update(agent, batch(agent, 1))
    changed = {
        name: not all(torch.equal(a, b) for a, b in zip(before[name], part.state_dict().values(), strict=True))
        for name, part in parts.items()
    }
    assert changed == {"critic": True, "actor": False, "temperature": False, "target": False}
    assert agent.guard.culprit()[0] == "actor loss"


def test_a_second_look_that_is_not_finite_is_kept_from_the_balancer(guarded, batch, monkeypatch):
    agent = guarded(balancer="famo")
    update(agent, batch(agent, 0))
    adam, logits = agent.critic_balancer.adam.mean.clone(), agent.critic_balancer.logits.clone()
    monkeypatch.setattr(TaskObjective, "losses_now", lambda self: torch.full((4,), torch.nan))
    actor = agent.actor.network.head.weight.clone()
    update(agent, batch(agent, 1))
    assert torch.equal(agent.critic_balancer.logits, logits) and torch.equal(agent.critic_balancer.adam.mean, adam)
    assert torch.equal(agent.actor.network.head.weight, actor) and agent.guard.skipped == 1
    assert agent.guard.culprit()[0] == "critic loss after the step"


# ---------------------------------------------------------------------- too many


def spoil_replay(agent, task, column, value=torch.nan):
    agent.replay_buffer.rows[task, :, column] = value


def test_too_many_in_a_row_end_the_training_and_say_which_task_and_which_term(guarded):
    agent = guarded(max_skipped_updates=3)
    agent.learn(100, log_interval=None)
    updates = agent._n_updates
    weights = agent.critic.network.head.weight.clone()
    spoil_replay(agent, task=2, column=4)  # state (2), action (2), reward
    with pytest.raises(NonFiniteUpdate, match="3 updates in a row .* the rewards of 'point-2' is nan") as stop:
        agent.train(10)
    assert agent._n_updates == updates + 3 and torch.equal(agent.critic.network.head.weight, weights)
    assert (stop.value.term, stop.value.tasks) == ("rewards", ("point-2",))
    kept = stop.value.batch
    assert kept["states"].shape == (4, 4, 2) and kept["noise"].shape == (4, 2, 4, 2)
    assert np.isnan(kept["rewards"][2]).all() and np.isfinite(kept["rewards"][[0, 1, 3]]).all()
    assert np.isnan(kept["critic_loss"][2])


def hot(agent):
    agent.temperature.log_alpha.data[1] = 1000.0


def broken_target(agent):
    agent.critic_target.network.head.bias.data.fill_(torch.nan)


def broken_critic(agent):
    agent.critic.network.head.bias.data.fill_(torch.nan)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (hot, "the temperature of 'point-1' is inf"),
        (broken_target, "the target of 'point-0', 'point-1', 'point-2', 'point-3' is nan"),
        (broken_critic, "the critic loss of 'point-0', 'point-1', 'point-2', 'point-3' is nan"),
        (lambda agent: spoil_replay(agent, 3, 0, 1e30), "the critic loss of 'point-3' is inf"),
    ],
    ids=["temperature", "target", "critic loss", "state of 1e30"],
)
def test_every_term_is_named(guarded, spoil, sentence):
    agent = guarded(max_skipped_updates=2)
    agent.learn(100, log_interval=None)
    spoil(agent)
    with pytest.raises(NonFiniteUpdate, match=sentence):
        agent.train(5)


def test_a_task_that_is_sampled_in_several_groups_is_named_by_its_loss(small_agent, monkeypatch):
    import agents.mtsac as module

    given = {"weights": [2, 1, 0, 1], "weights_on": "sampling"}
    agent = small_agent(max_skipped_updates=2, balancer="static", balancer_kwargs=given)
    agent.learn(100, log_interval=None)
    losses, counts = module.critic_losses, torch.tensor([2, 1, 0, 1])
    selection = Selection.repeated(counts)
    groups = selection.task
    monkeypatch.setattr(agent.critic_balancer, "next_selection", lambda progress: selection)
    monkeypatch.setattr(agent.critic_balancer, "counts", counts)
    spoiler = torch.where(groups == 1, torch.nan, 1.0)
    monkeypatch.setattr(module, "critic_losses", lambda *a: (losses(*a)[0] * spoiler, losses(*a)[1]))
    with pytest.raises(NonFiniteUpdate, match="the critic loss of 'point-1' is nan"):
        agent.train(5)


@pytest.mark.parametrize("balancer", ["unitary", "pcgrad", "moco"])
@pytest.mark.parametrize("name", ["critic", "actor"])
def test_a_gradient_is_named_with_its_tasks(guarded, monkeypatch, name, balancer):
    when = [False]
    spoil_gradients(monkeypatch, f"{name}_losses", when)
    agent = guarded(max_skipped_updates=2, balancer=balancer)
    agent.learn(100, log_interval=None)
    when[0] = True
    with pytest.raises(NonFiniteUpdate, match=f"the {name} gradient of 'point-0', 'point-1'.* is nan") as stop:
        agent.train(5)
    assert stop.value.term == f"{name} gradient"


def test_a_good_update_in_between_begins_the_count_anew(guarded, batch):
    agent = guarded(max_skipped_updates=3)
    for seed in range(8):
        update(agent, batch(agent, seed, bad="rewards" if seed % 3 else None))
        assert not agent.guard.stuck()
    assert agent.guard.state_dict() == {"skipped": 5, "streak": 1}
    copy = UpdateGuard(3)
    copy.load_state_dict(agent.guard.state_dict())
    assert copy.state_dict() == {"skipped": 5, "streak": 1}


# ---------------------------------------------------------------------- metrics


def test_skipped_updates_are_counted_and_enter_no_mean(small_agent, batch, monkeypatch):
    agent = small_agent()
    agent.learn(200, log_interval=None)
    sample = agent.replay_buffer.sample
    draws = iter(range(100))

    def sometimes_bad(size, selection):
        drawn = sample(size, selection)
        if next(draws) % 2:
            drawn.rewards[0] = torch.nan
        return drawn

    monkeypatch.setattr(agent.replay_buffer, "sample", sometimes_bad)
    agent.train(10)
    assert agent.guard.skipped == 5
    tags = agent.metrics.flush(agent.task_names)
    assert np.isfinite(list(tags.values())).all() and "train/critic_loss" in tags


def test_the_log_shows_how_far_values_temperatures_and_weights_reach():
    metrics = UpdateMetrics()
    for factor in (1.0, 3.0):
        metrics.add(
            {
                "q_max_abs": factor * torch.tensor([5.0, 50.0]),
                "temperature": factor * torch.tensor([0.1, 0.01]),
                "critic_balancer.weights": factor * torch.tensor([0.25, 0.75]),
            }
        )
    tags = metrics.flush(["a", "b"])
    assert tags["train/q_max_abs"] == 100.0
    assert tags["train/temperature_min"] == pytest.approx(0.02) and tags["train/temperature_max"] == pytest.approx(0.2)
    assert tags["train/critic_balancer.weight_min"] == 0.5


def test_the_largest_value_of_a_batch_is_of_every_critic_and_sample(small_agent, random_sample):
    agent = small_agent()
    sample = random_sample(agent)
    with torch.no_grad():
        values = agent.critic(sample.states, sample.actions, torch.arange(4)).squeeze(-1)  # [E, K, B]
    metrics = agent.update(sample, torch.zeros(2, *sample.actions.shape))
    torch.testing.assert_close(metrics["q_max_abs"], values.abs().amax((0, 2)))
