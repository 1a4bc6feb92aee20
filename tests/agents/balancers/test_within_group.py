"""Methods with state of single tasks at work on a part of the tasks: there they are the methods of that part."""

import copy

import pytest
import torch

from agents.balancers import BalancerError, Needs, Weighting, make_balancer
from agents.balancing.tasks import as_tasks
from agents.balancing.within_group import WithinGroup, narrowed
from agents.errors import ConfigurationError
from agents.selection import Selection
from tests.agents.balancers.balancer_cases import direction_of, random_tasks, relabelled, tasks_of

torch.set_num_threads(1)
TASKS, PARAMETERS = 5, 7
STATEFUL = {
    "gradvac": {"beta": 0.3},
    "gradnorm": {"lr": 0.1, "initial_updates": 2},
    "imtl": {"lr": 0.1},
    "moco": {"gamma": 0.5},
    "db_mtl": {"beta_sigma": 0.5},
    "nash_mtl": {"update_every": 3},
}
every_stateful_method = pytest.mark.parametrize("name", STATEFUL)
GROUPS = [[0, 2], [1, 3, 4], [0, 2], [1, 4], [2, 3]]


def method(name, num_tasks=TASKS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return make_balancer(name, num_tasks=num_tasks, generator=generator, **STATEFUL[name]).double()


def mask(tasks, num_tasks=TASKS):
    return torch.zeros(num_tasks, dtype=torch.bool).index_fill(0, torch.tensor(tasks), True)


def joint_then_groups():
    """A course of updates: three of all tasks, then of groups."""
    everybody = list(range(TASKS))
    groups = [everybody] * 3 + GROUPS
    return [(random_tasks(TASKS, PARAMETERS, seed), mask(group)) for seed, group in enumerate(groups)]


def step(within, tasks, group):
    """Direction of one update of a group, on the scale of a mean over it."""
    balanced = within.balance_group(as_tasks(tasks), Selection.of(group))
    return balanced.weights @ tasks.jacobian / TASKS if balanced.direction is None else balanced.direction


def follow(within, course):
    return [step(within, tasks, group).clone() for tasks, group in course]


def rows(balancer):
    """Every piece of state that belongs to single tasks, by name: ``[K, ...]``, or ``[K, K]`` for pairs."""
    found = {
        f"{place}.{name}": module.get_buffer(name).clone()
        for place, module in balancer.named_modules()
        for name in getattr(module, "task_buffers", {})
    }
    if hasattr(balancer, "_left"):
        found |= {"left": balancer._left.clone(), "bargain": balancer._bargain.clone()}
    return found


@every_stateful_method
def test_with_all_tasks_at_work_it_is_the_bare_method_to_the_bit(name):
    bare, within = method(name), WithinGroup(method(name))
    for seed in range(8):
        tasks = random_tasks(TASKS, PARAMETERS, seed)
        expected = direction_of(bare, tasks)
        assert torch.equal(step(within, tasks, mask(range(TASKS))), expected)
    assert all(torch.equal(one, rows(within.inner)[key]) for key, one in rows(bare).items())


@every_stateful_method
def test_a_group_of_all_tasks_changes_nothing(name):
    """The same, through the narrow door that other groups take."""
    bare, other = method(name), method(name)
    everybody = mask(range(TASKS))
    for seed in range(8):
        tasks = random_tasks(TASKS, PARAMETERS, seed)
        expected = direction_of(bare, tasks)
        with narrowed(other, everybody):
            assert torch.equal(direction_of(other, as_tasks(tasks).only(Selection.of(everybody))), expected)


@every_stateful_method
def test_what_is_known_of_tasks_at_rest_stays_as_it_is(name):
    within = WithinGroup(method(name))
    follow(within, joint_then_groups())
    before, group = rows(within.inner), mask([1, 3])
    directions = follow(within, [(random_tasks(TASKS, PARAMETERS, seed), group) for seed in range(20, 24)])
    assert all(direction.isfinite().all() for direction in directions)
    moved = False
    for key, old in before.items():
        new = rows(within.inner)[key]
        at_rest = ~group if key != "target" and not key.endswith(".target") else ~(group[:, None] & group)
        if key != "left":  # a bargain that loses a party is over for the others, which is no state of their own
            assert torch.equal(old[at_rest], new[at_rest]), key
        moved |= not torch.equal(old[~at_rest], new[~at_rest])
    assert moved, "the tasks at work learnt nothing: the comparison would mean nothing"


@every_stateful_method
def test_within_a_group_it_is_the_method_of_these_tasks_alone(name):
    """From the start on: a method made for three tasks and one made for five, of which three are ever at work."""
    at_work = [0, 2, 3]
    small, within = method(name, num_tasks=3), WithinGroup(method(name))
    for seed in range(6):
        tasks = random_tasks(TASKS, PARAMETERS, seed)
        expected = direction_of(small, tasks_of(tasks.losses[at_work], tasks.jacobian[at_work]))
        torch.testing.assert_close(step(within, tasks, mask(at_work)), expected, rtol=1e-9, atol=1e-12)


@every_stateful_method
def test_relabelling_the_tasks_and_the_groups_relabels_everything(name):
    order = torch.tensor([3, 0, 4, 2, 1])
    if name == "gradvac":  # whom a task meets first is drawn; of two there is only one to meet
        groups = [[0, 2], [1, 3], [0, 4], [0, 2], [2, 1]]
        course = [(random_tasks(TASKS, PARAMETERS, seed), mask(group)) for seed, group in enumerate(groups)]
    else:
        course = joint_then_groups()
    one, other = WithinGroup(method(name)), WithinGroup(method(name))
    plain = follow(one, course)
    moved = follow(other, [(relabelled(tasks, order), group[order]) for tasks, group in course])
    for left, right in zip(plain, moved, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-6, atol=1e-9)
    for key, state in rows(one.inner).items():
        expected = state[order][:, order] if key.endswith("target") else state[order]
        torch.testing.assert_close(rows(other.inner)[key], expected, rtol=1e-6, atol=1e-9)


@every_stateful_method
def test_restored_between_two_groups_it_continues_identically(name):
    course = joint_then_groups()
    one, other = WithinGroup(method(name)), WithinGroup(method(name, seed=1))
    follow(one, course[:5])
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    other.inner.generator.set_state(one.inner.generator.get_state())
    for left, right in zip(follow(one, course[5:]), follow(other, course[5:]), strict=True):
        assert torch.equal(left, right)


@every_stateful_method
def test_an_update_that_is_refused_leaves_all_state_as_it_was(name):
    within = WithinGroup(method(name))
    follow(within, joint_then_groups())
    before, tasks = rows(within.inner), random_tasks(TASKS, PARAMETERS, 30)
    tasks.jacobian[1] = float("nan")
    tasks.gramian = tasks.jacobian @ tasks.jacobian.T
    with pytest.raises(BalancerError, match="task 1 has nan"):
        step(within, tasks, mask([0, 1]))
    assert all(torch.equal(old, rows(within.inner)[key]) for key, old in before.items())


@every_stateful_method
def test_a_refused_task_is_named_by_its_place_among_all_tasks(name):
    within, tasks = WithinGroup(method(name)), random_tasks(TASKS, PARAMETERS, 30)
    tasks.jacobian[3] = float("nan")
    tasks.gramian = tasks.jacobian @ tasks.jacobian.T
    with pytest.raises(BalancerError, match="task 3 has nan"):
        step(within, tasks, mask([0, 3]))


@every_stateful_method
@pytest.mark.parametrize("alone", [0, 4])
def test_a_task_alone_in_its_group_is_updated_along_its_own_gradient(name, alone):
    within, tasks = WithinGroup(method(name)), random_tasks(TASKS, PARAMETERS, 3)
    for _ in range(3):
        direction = step(within, tasks, mask([alone]))
        assert torch.cosine_similarity(direction, tasks.jacobian[alone], dim=0).item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["gradnorm", "imtl"])
def test_a_task_counts_the_steps_of_its_own_weight(name):
    within = WithinGroup(method(name))
    course = [(random_tasks(TASKS, PARAMETERS, seed), mask([0, 1, 2])) for seed in range(4)]
    follow(within, [*course, (random_tasks(TASKS, PARAMETERS, 9), mask([2, 3]))])
    adam = within.inner.adam if name == "gradnorm" else within.inner.loss_part.adam
    # GradNorm first measures initial losses, over two updates of every task: the second of them is a first step.
    steps = [3, 3, 3, 0, 0] if name == "gradnorm" else [4, 4, 5, 1, 0]
    assert adam.steps.tolist() == steps


@pytest.mark.parametrize("name", ["gradnorm", "moco"])
def test_after_any_groups_the_weights_of_all_tasks_have_mean_one_within_each(name):
    within = WithinGroup(method(name))
    for seed in range(30):
        group = mask([[0, 2], [1, 3, 4]][seed % 2])
        tasks = random_tasks(TASKS, PARAMETERS, seed)
        step(within, tasks, group)
        used = within.diagnostics()["weights"]
        assert used[group].mean().item() == pytest.approx(TASKS / int(group.sum())) and (used[~group] == 0).all()


def test_a_group_of_which_moco_has_forgotten_every_task_starts_from_equal_weights():
    balancer = method("moco")
    balancer.shares = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    within = WithinGroup(balancer)
    direction = step(within, random_tasks(TASKS, PARAMETERS, 0), mask([3, 4]))
    assert direction.isfinite().all() and balancer.shares[3:].sum().item() == pytest.approx(2 / TASKS)


# ---------------------------------------------------------------- bargains


def asked_for_gradients(within, groups):
    asked = []
    for seed, group in enumerate(groups):
        selection = Selection.of(mask(group))
        asked.append(bool(within.needs_now(selection) & Needs.TASK_GRADIENTS))
        tasks = random_tasks(TASKS, PARAMETERS, seed)
        if not asked[-1]:
            del tasks.gramian, tasks.jacobian
        within.balance_group(as_tasks(tasks), selection)
    return asked


def test_groups_that_take_turns_keep_a_bargain_each():
    within = WithinGroup(method("nash_mtl"))
    assert asked_for_gradients(within, [[0, 2], [1, 3, 4]] * 6) == ([True] * 2 + [False] * 4) * 2


def test_a_group_that_is_new_bargains_anew_and_ends_the_bargains_it_takes_tasks_from():
    within = WithinGroup(method("nash_mtl"))
    groups = [[0, 1, 2], [3, 4], [2, 3], [0, 1], [3, 4], [2, 3], [0, 1]]
    assert asked_for_gradients(within, groups) == [True, True, True, True, True, True, False]


# ---------------------------------------------------------------- what is refused


class Stubborn(Weighting):
    """A gradient method that says nothing of a part of the tasks."""

    needs = Needs.GRAMIAN

    def forward(self, tasks):
        return tasks.gramian.diagonal()


def test_a_method_that_does_not_say_it_works_on_a_part_is_refused():
    with pytest.raises(ConfigurationError, match="cannot schedule Stubborn, which is not made for a part of the tasks"):
        WithinGroup(Stubborn(3))
