"""What every balancer is built on: the registry, options, composition, diagnostics, and the three plainest methods."""

from types import SimpleNamespace

import pytest
import torch

from agents import (
    BalancerError,
    ConfigurationError,
    Direction,
    Needs,
    Weighting,
    list_balancers,
    make_balancer,
    register_balancer,
)
from agents.balancing.guard import UpdateGuard
from agents.balancing.learner import Learner
from agents.balancing.objective import TaskObjective
from agents.balancing.registry import BALANCERS
from agents.balancing.tasks import UpdateContext
from agents.selection import Selection


def tasks(losses=(1.0, 2.0, 4.0)):
    losses = torch.tensor(losses, dtype=torch.float64)
    jacobian = torch.randn(len(losses), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(losses=losses, jacobian=jacobian, gramian=jacobian @ jacobian.T, step=0)


@pytest.fixture
def register():
    """Register methods for one test."""
    before = set(BALANCERS)

    def add(name, balancer, **fixed):
        register_balancer(name, family="loss", cost="O(1)", paper="none", summary="for this test", **fixed)(balancer)

    yield add
    for name in set(BALANCERS) - before:
        del BALANCERS._records[name]


class Spy(Weighting):
    """Weighs with the inverse losses it is shown, and keeps what it has seen."""

    needs = Needs.SECOND_LOOK

    def forward(self, tasks):
        self.seen = SimpleNamespace(
            losses=tasks.losses, gramian=tasks.gramian, jacobian=tasks.jacobian, step=tasks.context.step
        )
        return 1 / tasks.losses

    def observe(self, losses):
        self.after = losses


# ---------------------------------------------------------------------- plain methods


def test_unitary_weighs_every_task_with_one():
    weights = make_balancer("unitary", num_tasks=3)(tasks())
    assert weights.tolist() == [1, 1, 1] and weights.dtype == torch.float64


def test_static_weights_keep_their_ratios_on_the_scale_of_a_mean():
    assert make_balancer("static", num_tasks=3, weights=[2, 0, 6])(tasks()).tolist() == [0.75, 0.0, 2.25]


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1, 2], "static needs 3 weights, one for each task, found 2"),
        ([1, -1, 1], "finite, not negative and not all zero, found"),
        ([0, 0, 0], "not all zero, found"),
        ([1, float("nan"), 1], "finite"),
        ([1, float("inf"), 1], "finite"),
    ],
)
def test_static_refuses_weights_that_are_none(weights, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_balancer("static", num_tasks=3, weights=weights)


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_rlw_draws_new_positive_weights_that_sum_to_the_number_of_tasks(distribution):
    balancer = make_balancer("rlw", num_tasks=3, distribution=distribution, generator=torch.Generator().manual_seed(0))
    drawn = torch.stack([balancer(tasks()) for _ in range(2000)])
    assert torch.all(drawn > 0) and not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.sum(1), torch.full((2000,), 3.0, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(drawn.mean(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.06)
    if distribution == "dirichlet":  # every share is Beta(1, 2): variance 1 / 18
        torch.testing.assert_close((drawn / 3).var(0), torch.full((3,), 1 / 18, dtype=torch.float64), rtol=0.1, atol=0)


def test_rlw_draws_from_its_own_generator_alone():
    def draw(seed):
        return make_balancer("rlw", num_tasks=3, generator=torch.Generator().manual_seed(seed))(tasks())

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------- registry


def test_the_list_names_every_method_with_its_family_cost_and_options():
    records = {record.name: record for record in list_balancers()}
    assert {"unitary", "static", "rlw"} <= set(records) and list(records) == sorted(records)
    assert records["static"].options == {"weights", "weights_on"} and records["unitary"].options == set()
    for record in records.values():
        assert record.family in ("loss", "gradient", "scheduler") and record.cost.startswith(("O(1)", "O(K)"))
        assert record.paper and record.summary and "\n" not in record.summary


def test_an_unknown_method_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="Unknown balancer 'statc': did you mean 'static'"):
        make_balancer("statc", num_tasks=3)


def test_an_unknown_option_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="'rlw' has no option 'distributon': .*did you mean 'distribution'"):
        make_balancer("rlw", num_tasks=3, distributon="normal")
    with pytest.raises(ConfigurationError, match="'unitary' has no option 'c': it takes none"):
        make_balancer("unitary", num_tasks=3, c=1)


def test_a_missing_option_is_named():
    with pytest.raises(ConfigurationError, match="'static' needs the option 'weights'"):
        make_balancer("static", num_tasks=3)


def test_no_task_cannot_be_balanced():
    with pytest.raises(ConfigurationError, match="at least one task, found num_tasks=0"):
        make_balancer("unitary", num_tasks=0)


def test_a_name_is_registered_once(register):
    with pytest.raises(ConfigurationError, match="'unitary' is registered already"):
        register("unitary", Spy)


def test_a_method_may_be_registered_in_several_variants(register):
    class Power(Weighting):
        def __init__(self, num_tasks, exponent, generator=None):
            super().__init__(num_tasks, generator)
            self.exponent = exponent

        def forward(self, tasks):
            return tasks.losses**self.exponent

    register("square", Power, exponent=2)
    register("power", Power)
    assert make_balancer("square", num_tasks=3)(tasks()).tolist() == [1.0, 4.0, 16.0]
    assert make_balancer("power", num_tasks=3, exponent=1)(tasks()).tolist() == [1.0, 2.0, 4.0]
    with pytest.raises(ConfigurationError, match="'square' has no option 'exponent'"):
        make_balancer("square", num_tasks=3, exponent=3)


# ---------------------------------------------------------------------- composition


def test_the_second_method_sees_the_tasks_as_the_first_has_weighted_them_and_weights_multiply(register):
    register("spy", Spy)
    balancer = make_balancer("static+spy", num_tasks=3, weights=[1, 2, 3])
    given, seen = tasks(), None
    weights = balancer(given)
    first, seen = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64), balancer.parts[1].seen
    torch.testing.assert_close(seen.losses, given.losses * first)
    torch.testing.assert_close(seen.jacobian, given.jacobian * first[:, None])
    torch.testing.assert_close(seen.gramian, seen.jacobian @ seen.jacobian.T)
    torch.testing.assert_close(weights, first / (given.losses * first))
    assert seen.step == 0


def test_a_second_look_shows_every_method_the_losses_on_its_own_scale(register):
    register("spy", Spy)
    balancer = make_balancer("static+spy", num_tasks=3, weights=[1, 2, 3])
    balancer(tasks())
    assert Needs.SECOND_LOOK in balancer.needs
    balancer.observe(torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64))
    assert balancer.parts[1].after.tolist() == [1.0, 2.0, 3.0]


def test_composition_with_unitary_changes_nothing():
    for name in ("static+unitary", "unitary+static"):
        assert make_balancer(name, num_tasks=3, weights=[1, 2, 3])(tasks()).tolist() == [0.5, 1.0, 1.5]


def test_a_composition_needs_what_its_parts_need(register):
    class Greedy(Spy):
        needs = Needs.GRAMIAN | Needs.POSITIVE_LOSSES | Needs.SECOND_LOOK

    register("greedy", Greedy)
    balancer = make_balancer("unitary+greedy", num_tasks=3)
    assert balancer.needs == Needs.GRAMIAN | Needs.POSITIVE_LOSSES | Needs.SECOND_LOOK
    plain = make_balancer("unitary+rlw", num_tasks=3)
    assert plain.needs == Needs.NOTHING


def test_a_method_with_a_direction_of_its_own_stands_last(register):
    class Sum(Direction):
        def direction(self, tasks):
            return tasks.jacobian.sum(0)

    register("sum", Sum)
    given = tasks()
    balancer = make_balancer("static+sum", num_tasks=3, weights=[1, 2, 3])
    expected = (given.jacobian * torch.tensor([[0.5], [1.0], [1.5]], dtype=torch.float64)).sum(0)
    torch.testing.assert_close(balancer.balance(given).direction, expected)
    with pytest.raises(ConfigurationError, match="Sum composes its own direction and can only stand last"):
        make_balancer("sum+unitary", num_tasks=3)


def test_options_find_their_method_by_name_or_because_it_alone_has_them():
    for options in ({"weights": [1, 2, 3]}, {"static.weights": [1, 2, 3], "rlw.distribution": "dirichlet"}):
        balancer = make_balancer("static+rlw", num_tasks=3, **options)
        assert balancer.parts[0].fixed.tolist() == [0.5, 1.0, 1.5]
        assert balancer.parts[1].distribution == options.get("rlw.distribution", "normal")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"c": 1}, "Option 'c' belongs to no method of 'static\\+rlw'"),
        ({"famo.lr": 1}, "Option 'famo.lr' belongs to no method of 'static\\+rlw'"),
        ({"rlw.c": 1, "weights": [1, 2, 3]}, "'rlw' has no option 'c'"),
    ],
)
def test_an_option_that_belongs_to_no_method_is_refused(options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_balancer("static+rlw", num_tasks=3, **options)


def test_an_option_of_two_methods_must_say_whose_it_is(register):
    class Named(Weighting):
        def __init__(self, num_tasks, weights, generator=None):
            super().__init__(num_tasks, generator)

    register("named", Named)
    with pytest.raises(ConfigurationError, match="several methods: write 'static.weights' or 'named.weights'"):
        make_balancer("static+named", num_tasks=3, weights=[1, 2, 3])


def test_an_unknown_part_of_a_composition_gets_the_nearest():
    with pytest.raises(ConfigurationError, match="Unknown balancer 'rwl': .*did you mean 'rlw'"):
        make_balancer("unitary+rwl", num_tasks=3)


# ---------------------------------------------------------------------- the update


def objective(weights=(1.0, 2.0, 3.0)):
    """Losses ``(p - k)^2 / 2`` of one parameter p = 0 for tasks k = 1, 2, 3: gradients -1, -2, -3."""
    parameter = torch.zeros(1, 1, requires_grad=True)

    def losses(parameters, goal):
        return 0.5 * (parameters["p"][0, 0] - goal).square(), {}

    context = UpdateContext(Selection.whole(3), ("a", "b", "c"))
    return TaskObjective(losses, {"p": parameter}, [torch.tensor(weights)], context)


def test_the_update_is_the_mean_of_the_weighted_gradients_and_the_weights_are_reported():
    balancer, given = make_balancer("static", num_tasks=3, weights=[1, 0, 1]), objective()
    given.apply(balancer.balance(given))
    assert given.parameters["p"].grad.item() == pytest.approx(-(1.5 * 1 + 1.5 * 3) / 3)
    assert balancer.diagnostics()["weights"].tolist() == [1.5, 0.0, 1.5]


@pytest.mark.parametrize(("weights", "entropy"), [([1, 1, 1], 1.0), ([0, 1, 0], 0.0), ([1, 1, 0], 0.6309)])
def test_the_entropy_of_weights_is_one_where_all_are_equal_and_zero_where_one_task_has_all(weights, entropy):
    balancer = make_balancer("static", num_tasks=3, weights=weights)
    balancer.balance(objective())
    assert balancer.diagnostics()["weight_entropy"].item() == pytest.approx(entropy, abs=1e-4)


def test_a_method_that_uses_gradients_computes_the_losses_once(register):
    class Gradients(Weighting):
        needs = Needs.GRAMIAN

        def forward(self, tasks):
            return 1 / tasks.gramian.diagonal().sqrt()

    given, calls = objective(), []

    def counted(*inputs):
        calls.append(1)
        return given.loss_function(*inputs)

    register("gradients", Gradients)
    balancer, optimizer = make_balancer("unitary+gradients", num_tasks=3), torch.optim.SGD(given.parameters.values())
    learner = Learner("critic", given.parameters, counted, balancer, optimizer, given.layout, None)
    learner.step(given.batch, given.context, UpdateGuard(1))
    assert len(calls) == 1
    assert given.parameters["p"].grad.item() == pytest.approx(-1.0)  # three unit gradients of one sign


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["unitary", "rlw", "unitary+rlw"])
def test_a_loss_that_is_not_finite_is_refused_by_the_name_of_its_task(name, bad):
    with pytest.raises(BalancerError, match=f"needs finite losses: b has {bad:g}"):
        make_balancer(name, num_tasks=3).balance(objective((1.0, bad, 3.0)))


def test_the_state_of_a_composition_is_saved_and_restored():
    balancer, other = (make_balancer("igb_v1+rlw", num_tasks=3) for _ in range(2))
    for step in range(3):
        balancer(SimpleNamespace(losses=torch.tensor([1.0, 2.0, 3.0]) / (step + 1), num_tasks=3))
    fresh = {name: value.clone() for name, value in other.state_dict().items()}
    other.load_state_dict(balancer.state_dict())
    state = other.state_dict()
    assert any(not torch.equal(state[name], value) for name, value in fresh.items())
    assert all(torch.equal(state[name], value) for name, value in balancer.state_dict().items())
