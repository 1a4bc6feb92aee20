"""Updates for a part of the tasks: what rests is not sampled, costs nothing and does not change."""

import math
from types import SimpleNamespace

import pytest
import torch
from stable_baselines3.common.logger import configure
from torch.utils.flop_counter import FlopCounterMode

from agents import ConfigurationError
from agents.balancers import Scheduler, Weighting
from agents.balancing.objective import GradientLayout, TaskObjective
from agents.balancing.tasks import UpdateContext
from agents.balancing.within_group import WithinGroup
from agents.metrics import UpdateMetrics
from agents.selection import Selection
from tests.agents.test_agents_objective import TASKS, build, gradient
from tests.grids import grid

HALVES = torch.tensor([[True, False, True, False], [False, True, False, True]])
NEVER = {"warmup": 1.0}
AT_ONCE = {"warmup": 0, "anneal": 0}


@pytest.fixture
def scheduled(small_agent, transitions):
    """Maker of agents under SON-GOKU whose replay is filled; `groups` are in force, and stay so."""

    def make(inner="unitary", groups=HALVES, options=None, **settings):
        options = {"refresh_every": 10**6, **AT_ONCE, **(options or {})}
        own = {"refresh_every", *AT_ONCE}  # of these names, the method within may have options too
        options = {f"son_goku.{name}" if name in own else name: value for name, value in options.items()}
        agent = small_agent(balancer=f"son_goku:{inner}", balancer_kwargs=options, **settings)
        agent.critic_balancer.groups = groups
        agent.set_logger(configure(format_strings=[]))
        for observations, actions, following, rewards, dones, infos in transitions(agent.env, 30):
            agent.replay_buffer.add(observations, following, actions, rewards, dones, infos)
        return agent

    return make


def spy_on_updates(agent):
    """The samples, tasks and metrics of all updates to come."""
    seen, update = [], agent.update

    def spy(sample, noise, selection):
        seen.append((sample, selection, update(sample, noise, selection)))
        return seen[-1][2]

    agent.update = spy
    return seen


# ---------------------------------------------------------------------- joint training


def test_the_warm_up_is_joint_training_to_the_bit(small_agent):
    options = {"balancer_kwargs": {"refresh_every": 2, **NEVER}}
    joint, warming = small_agent(balancer="unitary"), small_agent(balancer="son_goku", **options)
    for agent in (joint, warming):
        agent.learn(120)
    assert joint._n_updates == warming._n_updates > 10
    for left, right in zip(joint.policy.state_dict().values(), warming.policy.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(joint.temperature.log_alpha, warming.temperature.log_alpha)


# ---------------------------------------------------------------------- rest


def test_tasks_at_rest_are_not_sampled_and_groups_take_turns(scheduled):
    agent = scheduled()
    seen = spy_on_updates(agent)
    agent.train(4)
    for index, (sample, selection, metrics) in enumerate(seen):
        group = HALVES[index % 2]
        assert torch.equal(selection.active, group) and sample.states.shape[:2] == (2, 4)
        for name in ("critic_loss", "actor_loss", "q_value", "entropy", "temperature_loss"):
            assert torch.equal(metrics[name].isnan(), ~group), name
        for side in ("critic", "actor"):
            assert metrics[f"{side}_balancer.weights"].tolist() == [2.0 * float(at_work) for at_work in group]
        assert float(metrics["critic_balancer.share_at_work"]) == 0.5


def test_a_sample_of_some_tasks_comes_from_their_rings(scheduled):
    buffer = scheduled().replay_buffer
    for task in range(4):
        buffer.rows[task] = task
    mask = torch.tensor([False, True, False, True])
    sample = buffer.sample(16, Selection.of(mask))
    assert sample.rewards.shape == (2, 4) and sample.states.shape[:2] == (2, 4)
    assert (sample.rewards[0] == 1).all() and (sample.rewards[1] == 3).all()


@pytest.mark.parametrize("inner", ["unitary", "pcgrad"])
def test_half_the_tasks_cost_half_the_products(scheduled, inner):
    def operations(groups):
        agent = scheduled(inner, groups=groups, jacobian="full", batch_size=4 * 32)
        with FlopCounterMode(display=False) as counter:
            agent.train(1)
        return counter.get_total_flops()

    whole = operations(torch.ones(1, 4, dtype=torch.bool))
    assert 0.4 * whole < operations(HALVES) < 0.55 * whole


def test_a_cycle_of_two_halves_costs_what_one_update_of_all_tasks_costs(scheduled):
    """Samples, targets, critic, actor and temperatures as `train` makes them, counted over whole cycles."""

    def operations(groups, updates):
        agent = scheduled("moco", groups=groups, jacobian="full", batch_size=4 * 32)
        with FlopCounterMode(display=False) as counter:
            agent.train(updates)
        return counter.get_total_flops(), agent.metrics.flush(agent.task_names)

    joint, tags = operations(torch.ones(1, 4, dtype=torch.bool), 2)
    assert tags["train/critic_balancer.share_at_work"] == 1.0
    halves, tags = operations(HALVES, 4)
    assert tags["train/critic_balancer.share_at_work"] == 0.5 and tags["train/critic_balancer.groups"] == 2
    assert 0.9 * joint < halves < 1.1 * joint


def test_the_log_tells_the_share_of_the_tasks_that_were_sampled_and_updated(scheduled):
    thirds = torch.tensor([[True, True, True, False], [False, False, False, True]])
    agent = scheduled(groups=thirds)
    seen = spy_on_updates(agent)
    agent.train(6)
    sampled = sum(len(sample.states) for sample, _, _ in seen) / (6 * 4)
    tags = agent.metrics.flush(agent.task_names)
    assert tags["train/critic_balancer.share_at_work"] == pytest.approx(sampled) == pytest.approx(0.5)


def test_temperatures_of_tasks_at_rest_do_not_move(scheduled):
    agent = scheduled(groups=torch.ones(1, 4, dtype=torch.bool))
    agent.train(3)  # momentum for all
    agent.critic_balancer.groups = HALVES
    moments = agent.temperature_optimizer.state[agent.temperature.log_alpha]
    before = [value.detach().clone() for value in (agent.temperature.log_alpha, moments["exp_avg"])]
    agent.train(1)
    for old, new in zip(before, (agent.temperature.log_alpha, moments["exp_avg"]), strict=True):
        assert torch.equal(old == new, ~HALVES[0])


def test_a_shared_temperature_follows_the_mean_of_the_tasks_at_work(small_agent):
    agent = small_agent(temperature="shared", target_entropy=-2.0)
    log_probabilities, half = torch.tensor([3.0, math.nan, 1.0, math.nan]), Selection.of(HALVES[0])
    losses = agent.temperature.step(agent.temperature_optimizer, log_probabilities, half, agent.guard)
    assert agent.temperature.log_alpha.grad.tolist() == [0.0] and torch.equal(losses.isnan(), ~HALVES[0])
    agent.temperature.step(agent.temperature_optimizer, log_probabilities + 1, half, agent.guard)
    assert agent.temperature.log_alpha.grad.tolist() == [-1.0]


def test_means_of_metrics_leave_out_the_updates_in_which_a_task_was_idle():
    metrics, first = UpdateMetrics(), Selection.of(torch.tensor([True, False]))
    metrics.add({"critic_loss": torch.tensor([1.0, math.nan]), "q": torch.tensor(1.0)}, first)
    metrics.add({"critic_loss": torch.tensor([3.0, math.nan]), "q": torch.tensor(3.0)}, first)
    assert metrics.flush(["a", "b"]) == {"train/critic_loss": 2.0, "train_critic_loss/a": 2.0, "train/q": 2.0}
    metrics.add({"critic_loss": torch.tensor([5.0, math.nan])}, first)
    metrics.add({"critic_loss": torch.tensor([7.0, 8.0])})
    assert metrics.flush(["a", "b"]) == {
        "train/critic_loss": 7.0,
        "train_critic_loss/a": 6.0,
        "train_critic_loss/b": 8.0,
    }


def test_an_active_task_that_diverges_shows_it():
    metrics = UpdateMetrics()
    metrics.add({"critic_loss": torch.tensor([math.nan, 1.0])}, Selection.of(torch.tensor([True, False])))
    assert math.isnan(metrics.flush(["a", "b"])["train_critic_loss/a"])


# ---------------------------------------------------------------------- graph and refresh


def test_a_refresh_sees_all_tasks_and_updates_one_group_of_critic_and_actor(scheduled):
    agent = scheduled(options={"refresh_every": 3, "tau": 0.01})
    seen = spy_on_updates(agent)
    agent.train(5)
    balancer = agent.critic_balancer
    assert [selection.is_whole for _, selection, _ in seen[:4]] == [False] * 4  # a running cycle is finished first
    refresh, metrics = seen[4][1:]
    assert refresh.is_whole and not metrics["critic_loss"].isnan().any()
    at_work = metrics["critic_balancer.weights"] > 0
    assert torch.equal(at_work, metrics["actor_balancer.weights"] > 0)
    assert torch.equal(metrics["actor_loss"].isnan(), ~at_work)
    assert metrics["critic_balancer.refreshes"] == 1 and metrics["critic_balancer.refresh_seconds"] > 0
    assert torch.equal(balancer.groups.any(0), torch.ones(4, dtype=torch.bool))


def test_every_task_learns_within_a_cycle_also_across_refreshes(scheduled):
    agent = scheduled(options={"refresh_every": 4, "tau": 0.01, "beta": 0.0})
    seen = spy_on_updates(agent)
    agent.train(40)
    at_work = torch.stack([metrics["critic_balancer.weights"] > 0 for _, _, metrics in seen])
    longest = max(int(metrics["critic_balancer.groups"]) for _, _, metrics in seen)
    assert longest > 1 and int(seen[-1][2]["critic_balancer.refreshes"]) > 3
    for start in range(len(seen) - 2 * longest):
        assert at_work[start : start + 2 * longest].any(0).all()


def test_the_actor_keeps_no_graph_of_its_own(scheduled):
    agent = scheduled("pcgrad")
    assert not isinstance(agent.actor_balancer, Scheduler) and not hasattr(agent.actor_balancer, "memory")
    assert type(agent.actor_balancer.inner).__name__ == "PCGrad"


# ---------------------------------------------------------------------- methods within the group

INNER = ["unitary", "rlw", "famo", "scale_invariant", "igb_v1", "pcgrad", "mgda", "graddrop", "nash_mtl"]
INNER += ["gradvac", "gradnorm", "imtl", "moco", "db_mtl"]


@pytest.mark.parametrize("jacobian", ["full", "layerwise"])
@grid("inner", INNER, always=["famo", "pcgrad", "nash_mtl", "moco"])
def test_any_inner_method_trains_the_group(scheduled, inner, jacobian):
    agent = scheduled(inner, jacobian=jacobian, options={"refresh_every": 5})
    before = {name: value.clone() for name, value in agent.policy.named_parameters()}
    agent.train(9)
    for name, value in agent.policy.named_parameters():
        assert value.isfinite().all() and not torch.equal(value, before[name]), name
    tags = agent.metrics.flush(agent.task_names)
    assert all(math.isfinite(value) for value in tags.values())


@pytest.mark.parametrize(
    "names",
    [("scale_invariant+son_goku:cagrad", None), ("son_goku:mgda", "rlw"), ("son_goku", "igb_v1+pcgrad")],
)
def test_compositions_around_a_scheduler(small_agent, names):
    critic, actor = names
    if actor == "igb_v1+pcgrad":  # its ratios need positive losses, which an actor's are not
        with pytest.raises(ConfigurationError, match="actor losses may be negative"):
            small_agent(balancer=critic, actor_balancer=actor)
        return
    options = {"refresh_every": 2, "tau": 0.01, "beta": 0.0, **AT_ONCE}
    agent = small_agent(balancer=critic, actor_balancer=actor, balancer_kwargs=options)
    agent.learn(160)
    weights = agent.critic_balancer.diagnostics()["weights"]
    assert weights.isfinite().all() and (weights >= 0).all()
    assert all(value.isfinite().all() for value in agent.policy.state_dict().values())


def test_a_loss_method_before_the_scheduler_has_mean_one_within_the_group(scheduled, small_agent):
    options = {"refresh_every": 10**6, **AT_ONCE}
    agent = small_agent(balancer="scale_invariant+son_goku", balancer_kwargs=options)
    source = scheduled()
    agent.replay_buffer.rows, agent.replay_buffer.filled = source.replay_buffer.rows, source.replay_buffer.filled
    agent.critic_balancer.parts[1].groups = HALVES
    agent.set_logger(configure(format_strings=[]))
    seen = spy_on_updates(agent)
    agent.train(2)
    for _, _, metrics in seen:
        weights, losses = metrics["critic_balancer.weights"], metrics["critic_loss"]
        group = ~losses.isnan()
        assert weights[group].mean().item() == pytest.approx(2.0)  # K / M
        products = (weights * losses)[group]
        torch.testing.assert_close(products, products.mean().expand(2), rtol=1e-4, atol=0)


def test_a_scheduler_for_the_actor_alone_is_refused(small_agent):
    with pytest.raises(ConfigurationError, match="have in common: give it as balancer='son_goku:pcgrad'"):
        small_agent(actor_balancer="son_goku:pcgrad")


def test_the_actors_method_keeps_what_it_knows_of_tasks_at_rest(scheduled):
    agent = scheduled(actor_balancer="gradvac")
    agent.train(1)
    target = agent.actor_balancer.inner.target
    assert (target[0, 2] != 0) and (target[1] == 0).all() and (target[3] == 0).all()


def test_a_saved_agent_keeps_its_groups(scheduled, tmp_path):
    agent = scheduled("scale_invariant")
    agent.train(3)
    agent.save(tmp_path / "agent.zip")
    loaded = type(agent).load(tmp_path / "agent.zip", device="cpu")
    assert torch.equal(loaded.critic_balancer.groups, HALVES)
    selections = [one.critic_balancer.next_selection().task for one in (loaded, agent)]
    assert torch.equal(*selections)
    assert torch.equal(loaded.critic_balancer.within.known, agent.critic_balancer.within.known)


# ---------------------------------------------------------------------- the objective


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("touched", [(), ("gramian",)])
@pytest.mark.parametrize("side", ["critic", "actor"])
@pytest.mark.parametrize("network", ["mlp", "multihead"])
def test_an_objective_of_some_tasks_is_the_whole_one_without_the_others(side, network, touched, layerwise):
    present = torch.tensor([True, False, True])
    whole = build(side, network)
    part = TaskObjective(
        whole.loss_function,
        whole.parameters,
        [tensor[present] for tensor in whole.batch],
        UpdateContext(Selection.of(present)),
        GradientLayout(grouped=True, layerwise=layerwise),
    )
    assert part.num_tasks == TASKS
    for attribute in touched:
        getattr(part, attribute)
    torch.testing.assert_close(part.losses[present], whole.losses[present])
    assert part.losses.isnan().tolist() == [False, True, False]
    weights = torch.tensor([0.5, 0.0, 2.5], dtype=torch.float64)
    for objective in (whole, part):
        objective.backward(weights)
        objective.found = gradient(objective).clone()
    torch.testing.assert_close(part.found, whole.found, rtol=1e-10, atol=1e-12)
    mask = present.double()
    torch.testing.assert_close(part.gramian, whole.gramian * mask[:, None] * mask, rtol=1e-10, atol=1e-12)
    blocks = torch.cat([rows.clone() for _, rows in part.blocks()], dim=1)
    torch.testing.assert_close(blocks, whole.jacobian * mask[:, None], rtol=1e-10, atol=1e-12)
    assert part.losses_now().isnan().tolist() == [False, True, False]


# ---------------------------------------------------------------------- what methods know of tasks at rest


class SeesMetrics(Weighting):
    """Weighs all tasks alike and remembers what it was shown."""

    def forward(self, tasks):
        self.seen = {name: values.clone() for name, values in tasks.metrics.items()}
        return torch.ones_like(tasks.losses)


def at_work(present, **metrics):
    """Tasks as an objective gives them: NaN for those that are not present."""
    some = {name: torch.where(present, torch.tensor(values), torch.nan) for name, values in metrics.items()}
    return SimpleNamespace(losses=torch.where(present, 1.0, torch.nan), present=present, metrics=some)


def test_a_method_reads_of_tasks_at_rest_the_metrics_of_their_last_update():
    within = WithinGroup(SeesMetrics(2))
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    within.balance(at_work(first, target_variance=[4.0, 0.0]))
    within.balance(at_work(second, target_variance=[0.0, 9.0]))
    assert {name: values.tolist() for name, values in within.inner.seen.items()} == {"target_variance": [4.0, 9.0]}


def test_a_group_whose_tasks_all_have_no_weight_moves_nothing(scheduled):
    agent = scheduled("static", options={"static.weights": [1, 0, 1, 0]})
    agent.train(4)
    assert agent.guard.skipped == 0
    assert agent.critic_learner.selection.active.tolist() == HALVES[1].tolist()
    assert agent.critic_balancer.diagnostics()["weights"].tolist() == [0.0] * 4


def test_an_actor_alone_cannot_decide_what_is_sampled(small_agent):
    options = {"weights": [2, 1, 1, 0.5], "weights_on": "sampling"}
    both = {"balancer": "static", "balancer_kwargs": options}
    with pytest.raises(ConfigurationError, match="decides what is sampled"):
        small_agent(**both, actor_balancer="static", actor_balancer_kwargs=options)
    small_agent(**both)
