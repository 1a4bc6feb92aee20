"""SON-GOKU: graph, colouring, coverage and threshold as pure functions, and the scheduler around a method."""

import copy
import itertools
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.balancers import Needs, list_balancers, make_balancer
from agents.balancing.coloring import (
    ThresholdSchedule,
    conflict_graph,
    cover,
    groups_of,
    interference,
    schedule_groups,
    welsh_powell,
)
from agents.errors import ConfigurationError
from tests.agents.balancers.balancer_cases import direction_of, random_tasks, tasks_of

torch.set_num_threads(1)
CHECKED = settings(max_examples=30, deadline=None, derandomize=True, database=None)
GRAPHS = st.tuples(st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**16))


def random_graph(parameters):
    size, density, seed = parameters
    upper = torch.rand(size, size, generator=torch.Generator().manual_seed(seed)).triu(1)
    edges = (upper > 0) & (upper < density)
    return edges | edges.T


def authors_cosines():
    """The four tasks of the authors' own tests."""
    cosines = torch.eye(4, dtype=torch.float64)
    pairs = {(0, 1): -0.8, (0, 2): 0.3, (0, 3): -0.1, (1, 2): -0.2, (1, 3): 0.05, (2, 3): 0.7}
    for (i, j), cosine in pairs.items():
        cosines[i, j] = cosines[j, i] = cosine
    return cosines


def members(groups):
    return [set(group.nonzero().flatten().tolist()) for group in groups]


# ---------------------------------------------------------------- graph and colouring


@pytest.mark.parametrize(
    ("threshold", "edges", "groups"),
    [
        (0.0, {(0, 1), (0, 3), (1, 2)}, None),
        (0.25, {(0, 1)}, [{0, 2, 3}, {1}]),
        (0.15, {(0, 1), (1, 2)}, [{1, 3}, {0, 2}]),
        (1.0, set(), [{0, 1, 2, 3}]),
    ],
)
def test_the_example_of_the_authors(threshold, edges, groups):
    graph = conflict_graph(interference(authors_cosines()), threshold)
    assert {(i, j) for i, j in graph.nonzero().tolist() if i < j} == edges
    if groups is not None:
        assert members(schedule_groups(authors_cosines(), threshold)) == groups


@CHECKED
@given(GRAPHS)
def test_no_conflict_inside_a_group_every_task_in_one_and_few_groups(parameters):
    edges = random_graph(parameters)
    groups = groups_of(welsh_powell(edges))
    for group in groups:
        assert not edges[group][:, group].any()
    assert (groups.sum(0) == 1).all()
    assert len(groups) <= int(edges.sum(-1).max()) + 1


@CHECKED
@given(GRAPHS, st.integers(1, 4))
def test_coverage_adds_turns_but_neither_groups_nor_conflicts(parameters, at_least):
    edges = random_graph(parameters)
    groups = groups_of(welsh_powell(edges))
    covered = cover(groups, edges, at_least)
    assert covered.shape == groups.shape and (covered >= groups).all()
    for group in covered:
        assert not edges[group][:, group].any()
    for task in range(len(edges)):
        could_join = [not (group & edges[task]).any() for group in covered]
        assert int(covered[:, task].sum()) >= min(at_least, sum(could_join))


def test_extreme_graphs():
    complete = ~torch.eye(5, dtype=torch.bool)
    assert members(groups_of(welsh_powell(complete))) == [{0}, {1}, {2}, {3}, {4}]
    assert members(groups_of(welsh_powell(~complete & False))) == [{0, 1, 2, 3, 4}]
    crown = torch.ones(3, 3).bool() & ~torch.eye(3, dtype=torch.bool)
    empty = torch.zeros(3, 3, dtype=torch.bool)
    edges = torch.cat([torch.cat([empty, crown], 1), torch.cat([crown.T, empty], 1)])
    assert len(groups_of(welsh_powell(edges))) <= 3


@CHECKED
@given(st.integers(2, 8), st.integers(1, 10), st.integers(0, 2**16))
def test_groups_do_not_see_the_scale_of_a_task(num_tasks, parameters, seed):
    jacobian = random_tasks(num_tasks, parameters, seed).jacobian
    scaled = torch.logspace(-4, 4, num_tasks, dtype=torch.float64)[:, None] * jacobian
    plain, other = (schedule_groups(rows @ rows.T, 0.2) for rows in (jacobian, scaled))
    assert torch.equal(plain, other)


@CHECKED
@given(st.integers(2, 8), st.integers(1, 10), st.floats(0.05, 0.9), st.integers(0, 2**16))
def test_the_sum_over_a_group_keeps_its_length(num_tasks, parameters, threshold, seed):
    jacobian = random_tasks(num_tasks, parameters, seed).jacobian
    for group in schedule_groups(jacobian @ jacobian.T, threshold):
        rows = jacobian[group]
        bound = (1 - threshold * (len(rows) - 1)) * rows.square().sum()
        assert rows.sum(0).square().sum() >= bound - 1e-9 * rows.square().sum()


def test_a_task_without_gradient_interferes_with_none():
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    coefficients = interference(jacobian @ jacobian.T)
    assert coefficients.isfinite().all() and (coefficients[1] == 0).all()
    assert members(schedule_groups(jacobian @ jacobian.T, 0.1)) == [{0, 1}, {2}]


# ---------------------------------------------------------------- threshold


@pytest.mark.parametrize(("kind", "halfway"), [("log", 0.5), ("linear", 0.625), ("cosine", 0.625), ("constant", 1.0)])
def test_the_threshold_falls_after_the_warm_up(kind, halfway):
    schedule = ThresholdSchedule(1.0, 0.25, warmup=0.1, anneal=0.2, kind=kind)
    assert [schedule(used) for used in (0, 0.09)] == [1.0, 1.0]
    assert schedule(0.2) == pytest.approx(halfway)
    assert schedule(0.301) == schedule(1.0) == pytest.approx(1.0 if kind == "constant" else 0.25)
    assert ThresholdSchedule(1.0, 0.25, warmup=0.1, anneal=0)(0.1) == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "final threshold must lie above 0 .*found 0.0"),
        ({"tau_initial": 1.5}, "initial threshold .*found 1.5"),
        ({"schedule": "logg"}, "'logg'.*did you mean 'log'"),
        ({"refresh_every": 0}, "refresh_every must be a whole number"),
        ({"f_min": 0}, "f_min must be a whole number"),
        ({"beta": 1.0}, "beta must be at least 0 and below 1, found 1.0"),
        ({"warmup": 1000}, "warmup is a share of the budget, from 0 to 1, found 1000"),
        ({"taw": 0.5}, "no option 'taw'.*did you mean 'tau'"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_balancer("son_goku", num_tasks=3, **options)


# ---------------------------------------------------------------- the scheduler

# Tasks 0 and 1 oppose each other, task 2 agrees with both; gradients stay as they are.
NEEDS_MORE = ("static", "schedule", "igb_rl_frozen", "igb_rl_permuted", "son_goku")  # options without a default; itself
OPPOSED = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 0.0, 0.2], [0.0, 1.0, 0.5]], dtype=torch.float64)


def opposed():
    return tasks_of(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), OPPOSED)


def scheduler(inner="unitary", num_tasks=3, **options):
    options = {"refresh_every": 4, "warmup": 0, "anneal": 0, **options}
    return make_balancer(f"son_goku:{inner}", num_tasks=num_tasks, **options)


def test_the_warm_up_is_joint_training_to_the_bit():
    balancer, joint = scheduler("cagrad", warmup=1, c=0.5), make_balancer("cagrad", num_tasks=3, c=0.5)
    for seed in range(20):
        tasks = random_tasks(3, 5, seed)
        assert torch.equal(balancer(tasks), joint(tasks))


def test_groups_take_turns_and_the_scale_is_that_of_a_mean_over_the_group():
    balancer = scheduler()
    weights = torch.stack([balancer(opposed()) for _ in range(10)])
    assert (weights[:4] == 1).all()
    groups = [{task for task in range(3) if row[task] > 0} for row in weights[4:]]
    assert not any({0, 1} <= group for group in groups)
    for first, second in itertools.pairwise(groups):
        assert first | second == {0, 1, 2}
    torch.testing.assert_close(weights.sum(-1), torch.full((10,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("refresh_every", [1, 2, 3, 5])
def test_every_task_is_reached_once_per_cycle_also_across_a_refresh(refresh_every):
    balancer = scheduler(num_tasks=6, refresh_every=refresh_every, warmup=0, tau=0.05, beta=0.0)
    last = [-1] * 6
    longest = 0
    for update in range(60):
        weights = balancer(random_tasks(6, 3, update))
        for task in range(6):
            if weights[task] > 0:
                last[task] = update
        longest = max(longest, len(balancer.groups))
        assert update - min(last) < 2 * longest


def test_a_gradient_method_sees_its_group_only():
    balancer = scheduler("mgda", norm="none")
    for _ in range(4):
        balancer(opposed())
    weights = balancer(opposed())
    active = weights > 0
    group = tasks_of(torch.ones(int(active.sum())).double(), OPPOSED[active])
    expected = make_balancer("mgda", num_tasks=int(active.sum()), norm="none")(group)
    torch.testing.assert_close(weights[active] * active.sum() / 3, expected)


def test_a_loss_method_weighs_all_tasks_and_has_mean_one_within_the_group():
    balancer = scheduler("scale_invariant")
    for _ in range(4):
        balancer(opposed())
    weights = balancer(opposed())
    active = weights > 0
    assert active.sum() < 3
    share = weights[active] * active.sum() / 3
    assert share.mean().item() == pytest.approx(1)
    ratio = share / share[0]
    torch.testing.assert_close(ratio, opposed().losses[active][0] / opposed().losses[active])


def test_a_method_with_a_direction_of_its_own_works_within_the_group():
    balancer = scheduler("graddrop")
    directions = [direction_of(balancer, opposed()) for _ in range(8)]
    assert balancer.balance(opposed()).direction is not None
    assert all(direction.isfinite().all() for direction in directions)
    assert len(balancer.groups) == 2


def wants_gradients(balancer):
    return bool(balancer.needs_now(balancer.next_selection()) & Needs.TASK_GRADIENTS)


def test_gradients_are_asked_for_only_at_a_refresh_if_the_inner_method_needs_none():
    balancer = scheduler()
    asked = []
    for _ in range(12):
        asked.append(wants_gradients(balancer))
        tasks = opposed()
        if not asked[-1]:
            del tasks.gramian, tasks.jacobian
        balancer(tasks)
    assert asked == [False] * 4 + [True] + [False] * 3 + [True] + [False] * 3
    assert all(wants_gradients(scheduler("pcgrad")) for _ in range(3))


def test_a_refresh_costs_what_passes_since_gradients_were_first_asked_for(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    balancer = scheduler()

    def update(gradients_take, stops=False):
        wants_gradients(balancer)
        now[0] += gradients_take
        if not stops:
            balancer(opposed())

    for _ in range(5):
        update(2.0)
    assert balancer.diagnostics()["refresh_seconds"].item() == 2.0
    for _ in range(3):
        update(5.0)
    update(7.0, stops=True)  # of a loss that is not finite: the refresh is the next update's
    update(3.0)
    report = balancer.diagnostics()
    assert report["refreshes"] == 2 and report["refresh_seconds"].item() == 3.0


def test_a_refresh_tells_how_the_pairs_of_tasks_interfere():
    balancer = scheduler(tau=0.5)
    for _ in range(4):
        balancer(opposed())
    assert balancer.diagnostics()["interference_max"] == 0  # nothing was looked at while all tasks train jointly
    balancer(opposed())
    report, unit = balancer.diagnostics(), torch.nn.functional.normalize(OPPOSED)
    pairs = -(unit @ unit.T)[[0, 0, 1], [1, 2, 2]]
    assert report["interference_max"].item() == pytest.approx(pairs.max().item())
    assert report["interference_median"].item() == pytest.approx(pairs.median().item())
    assert report["edge_share"].item() == pytest.approx(1 / 3)
    assert len(scheduler(num_tasks=1).diagnostics()) == len(report)


def test_a_restored_scheduler_continues_its_cycle():
    one = scheduler("pcgrad", f_min=2)
    for _ in range(7):
        one(opposed())
    other = scheduler("pcgrad", f_min=2)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    other.generator.set_state(one.generator.get_state())
    for _ in range(9):
        assert torch.equal(one(opposed()), other(opposed()))


def test_names_of_schedulers_and_their_options():
    composed = make_balancer("scale_invariant+son_goku:cagrad", num_tasks=3, **{"cagrad.c": 0.3, "son_goku.tau": 0.5})
    assert composed.parts[1].inner.c == 0.3 and composed.parts[1].threshold.final == 0.5
    assert type(make_balancer("son_goku", num_tasks=3).inner).__name__ == "Unitary"
    with pytest.raises(ConfigurationError, match="'pcgrad' is no scheduler; those are son_goku"):
        make_balancer("pcgrad:cagrad", num_tasks=3)
    with pytest.raises(ConfigurationError, match="can only stand last"):
        make_balancer("son_goku:unitary+pcgrad", num_tasks=3)
    with pytest.raises(ConfigurationError, match="Unknown balancer 'sun_goku'.*did you mean 'son_goku'"):
        make_balancer("sun_goku:pcgrad", num_tasks=3)


@pytest.mark.parametrize("inner", [record.name for record in list_balancers() if record.name not in NEEDS_MORE])
def test_any_method_works_within_the_groups(inner):
    options = {"son_goku.refresh_every": 4, "son_goku.warmup": 0, "son_goku.anneal": 0}
    if inner.startswith("igb_") and inner.endswith(("_rl", "_random")):
        options["weights_on"] = "loss"
    balancer = make_balancer(f"son_goku:{inner}", num_tasks=3, **options)
    for update in range(14):
        direction = direction_of(balancer, opposed())
        assert direction.shape == (3,) and direction.isfinite().all(), update
        if Needs.SECOND_LOOK in balancer.needs:
            balancer.observe(0.9 * opposed().losses)
    assert len(balancer.groups) == 2


def test_an_error_names_the_task_of_the_group():
    balancer = scheduler("mgda")
    for _ in range(4):
        balancer(opposed())
    tasks = opposed()
    tasks.gramian = tasks.gramian.clone()
    balancer(tasks)
    active = balancer.groups[balancer._slot].nonzero().flatten()
    tasks.gramian[active[-1], active[-1]] = float("nan")
    with pytest.raises(RuntimeError, match=f"task {active[-1]} has nan"):
        balancer(tasks)


def test_a_run_without_an_edge_says_so_at_its_end():
    never, apart, together = scheduler(warmup=1), scheduler(), scheduler(tau=0.99)
    for balancer in (never, apart, together):
        for _ in range(9):
            balancer(opposed())
    assert "its threshold never came below 1" in never.remarks()[0]
    assert apart.remarks() == [] and len(apart.groups) == 2
    assert "none of its 2 graphs had an edge" in together.remarks()[0]


def test_the_threshold_follows_the_budget_and_does_not_rise_when_that_is_extended():
    balancer = make_balancer("son_goku", num_tasks=3, warmup=0.2, anneal=0.4)
    thresholds = []
    for used in (0.1, 0.4, 0.6, 0.3):
        tasks = opposed()
        tasks.progress.budget_used = used
        balancer(tasks)
        thresholds.append(float(balancer.diagnostics()["threshold"]))
    assert thresholds == pytest.approx([1.0, 0.5, 0.25, 0.25])
