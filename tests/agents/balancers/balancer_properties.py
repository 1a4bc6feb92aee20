"""What holds for every balancer, written once. A method inherits it by naming itself in a class of its own:
``class TestMine(BalancerProperties): name = "mine"; traits = Traits()``.
"""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.balancers import BalancerError, Needs, make_balancer
from agents.balancing.objective import TaskObjective
from agents.balancing.tasks import GivenTasks, UpdateContext
from agents.selection import Selection
from tests.agents.balancers.balancer_cases import (
    direction_of,
    progress_of,
    random_tasks,
    relabelled,
    rescaled,
    tasks_of,
)
from tests.grids import grid

# A tenth of what others take: every method has a dozen of these tests.
CHECKED = settings(max_examples=settings().max_examples // 10, suppress_health_check=[HealthCheck.differing_executors])
SCALES = (0.0, 1e-10, 1e-3, 1.0, 1e5, 1e10, 1e15)
SEEDS = st.integers(0, 2**16)


@dataclass(frozen=True)
class Traits:
    """What a method promises beyond what all promise.

    :param options: options for the tests: what must be given, and windows short enough to be left
    :param equivariant: relabelling the tasks relabels the weights
    :param degree: all losses and gradients times c: the first direction times ``c^degree``; None promises nothing
    :param task_scale_free: each task's loss and gradient times its own constant: the same direction, up to length
    :param convex: the weights are not negative and sum to K
    :param plain_single: with one task the first direction is that task's gradient; otherwise parallel to it
    """

    options: dict = field(default_factory=dict)
    equivariant: bool = True
    degree: float | None = 1.0
    task_scale_free: bool = False
    convex: bool = False
    plain_single: bool = True


class BalancerProperties:
    """The promises of every balancer; `traits` says which of the optional ones hold."""

    name: str
    traits = Traits()

    def make(self, num_tasks, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        options = {key: value(num_tasks) if callable(value) else value for key, value in self.traits.options.items()}
        return make_balancer(self.name, num_tasks=num_tasks, generator=generator, **options).to(dtype)

    def run(self, balancer, course):
        """Directions over a course of tasks, with second looks at losses that fell."""
        directions = []
        for tasks in course:
            directions.append(direction_of(balancer, tasks).clone())
            if Needs.SECOND_LOOK in balancer.needs:
                balancer.observe(tasks.improvement * tasks.losses)
        return directions

    # -------------------------------------------------------------- shape and size

    @CHECKED
    @given(num_tasks=st.integers(1, 6), num_parameters=st.integers(1, 12), rank=st.integers(0, 6), seed=SEEDS)
    def test_every_update_has_the_right_shape_and_is_finite(self, num_tasks, num_parameters, rank, seed):
        rank = min(rank, num_tasks, num_parameters)
        balancer = self.make(num_tasks)
        course = [random_tasks(num_tasks, num_parameters, seed + step, rank=rank) for step in range(4)]
        for direction in self.run(balancer, course):
            assert direction.shape == (num_parameters,)
            assert direction.isfinite().all()
        diagnostics = balancer.diagnostics()
        assert diagnostics["weights"].shape == (num_tasks,)
        assert all(value.isfinite().all() for value in diagnostics.values())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @grid("scale", SCALES, always=[0.0, 1e-10, 1e15])
    def test_gradients_of_any_size_leave_the_update_finite(self, scale, dtype):
        for seed, rank in ((0, 3), (1, 1), (2, 4)):
            tasks = random_tasks(4, 7, seed, rank=rank, scale=scale, dtype=dtype)
            for direction in self.run(self.make(4, dtype=dtype), [tasks] * 3):
                assert direction.isfinite().all(), (scale, rank)

    @grid("scale", [1e-10, 1e-3, 1e5, 1e10], always=[1e-10, 1e10])
    def test_losses_of_any_size_leave_the_update_finite(self, scale):
        for dtype in (torch.float32, torch.float64):
            tasks = random_tasks(4, 7, 5, dtype=dtype)
            tasks.losses = tasks.losses * scale
            for direction in self.run(self.make(4, dtype=dtype), [tasks] * 3):
                assert direction.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_update_has_the_type_and_place_of_the_gradients(self, dtype):
        tasks = random_tasks(3, 5, 0, dtype=dtype)
        balancer = self.make(3, dtype=torch.float32)  # as an agent makes it, whatever the losses are
        for direction in self.run(balancer, [tasks] * 3):
            assert direction.dtype == dtype and direction.device == tasks.losses.device

    # -------------------------------------------------------------- special cases

    @CHECKED
    @given(num_parameters=st.integers(1, 12), seed=SEEDS)
    def test_one_task_gets_its_plain_gradient(self, num_parameters, seed):
        tasks = random_tasks(1, num_parameters, seed)
        (direction,) = self.run(self.make(1), [tasks])
        gradient = tasks.jacobian[0]
        if self.traits.plain_single:
            torch.testing.assert_close(direction, gradient, rtol=1e-5, atol=1e-9)
        else:
            assert direction @ gradient > (1 - 1e-6) * direction.norm() * gradient.norm()

    @CHECKED
    @given(num_tasks=st.integers(2, 5), zeros=st.integers(1, 4), seed=SEEDS)
    def test_tasks_without_gradient_do_no_harm(self, num_tasks, zeros, seed):
        tasks = random_tasks(num_tasks, 6, seed)
        jacobian = tasks.jacobian.clone()
        jacobian[:zeros] = 0
        for direction in self.run(self.make(num_tasks), [tasks_of(tasks.losses, jacobian)] * 2):
            assert direction.isfinite().all()

    @CHECKED
    @given(num_tasks=st.integers(1, 6), seed=SEEDS)
    def test_weights_are_convex_where_promised(self, num_tasks, seed):
        balancer = self.make(num_tasks)
        if not self.traits.convex:
            return
        for step in range(4):
            weights = balancer(random_tasks(num_tasks, 8, seed + step))
            assert (weights >= -1e-9).all()
            torch.testing.assert_close(weights.sum().item(), float(num_tasks), rtol=1e-5, atol=0)

    # -------------------------------------------------------------- symmetries

    @CHECKED
    @given(num_tasks=st.integers(2, 6), seed=SEEDS)
    def test_relabelling_the_tasks_changes_nothing(self, num_tasks, seed):
        if not self.traits.equivariant:
            return
        order = torch.randperm(num_tasks, generator=torch.Generator().manual_seed(seed))
        course = [random_tasks(num_tasks, 9, seed + step) for step in range(4)]
        others = [relabelled(tasks, order) for tasks in course]
        pairs = zip(self.run(self.make(num_tasks), course), self.run(self.make(num_tasks), others), strict=True)
        for plain, other in pairs:
            torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-6 * float(plain.norm()))

    @CHECKED
    @given(num_tasks=st.integers(2, 5), factor=st.sampled_from([1e-3, 0.1, 7.0, 1e4]), seed=SEEDS)
    def test_a_common_factor_scales_the_direction_as_documented(self, num_tasks, factor, seed):
        if self.traits.degree is None:
            return
        tasks = random_tasks(num_tasks, 9, seed)
        (plain,) = self.run(self.make(num_tasks), [tasks])
        (other,) = self.run(self.make(num_tasks), [rescaled(tasks, factor)])
        expected = factor**self.traits.degree * plain
        torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-6 * float(expected.norm()))

    @CHECKED
    @given(num_tasks=st.integers(2, 4), seed=SEEDS)
    def test_the_scale_of_a_task_is_invisible_where_promised(self, num_tasks, seed):
        if not self.traits.task_scale_free:
            return
        factors = 10 ** torch.linspace(-1, 1, num_tasks)
        course = [random_tasks(num_tasks, 9, seed + step) for step in range(4)]
        scaled = [rescaled(tasks, factors) for tasks in course]
        pairs = zip(self.run(self.make(num_tasks), course), self.run(self.make(num_tasks), scaled), strict=True)
        for plain, other in pairs:
            assert torch.cosine_similarity(plain, other, dim=0) > 1 - 1e-5

    # -------------------------------------------------------------- state and randomness

    @CHECKED
    @given(before=st.integers(0, 5), seed=SEEDS)
    def test_a_restored_balancer_continues_identically(self, before, seed):
        course = [random_tasks(3, 6, seed + step) for step in range(before + 4)]
        one = self.make(3, seed=seed)
        self.run(one, course[:before])
        other = self.make(3, seed=seed + 1)
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        other.generator.set_state(one.generator.get_state())
        for left, right in zip(self.run(one, course[before:]), self.run(other, course[before:]), strict=True):
            assert torch.equal(left, right)

    @CHECKED
    @given(seed=SEEDS)
    def test_its_own_generator_is_its_only_source_of_randomness(self, seed):
        course = [random_tasks(4, 6, seed + step) for step in range(4)]
        untouched = torch.get_rng_state()
        first = self.run(self.make(4, seed=seed), course)
        assert torch.equal(torch.get_rng_state(), untouched)
        torch.manual_seed(seed)
        second = self.run(self.make(4, seed=seed), course)
        torch.set_rng_state(untouched)
        assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))

    # -------------------------------------------------------------- bad input

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_a_loss_that_is_not_finite_is_refused_by_the_name_of_its_task(self, bad):
        tasks = random_tasks(3, 5, 0)
        tasks.losses[1] = bad
        tasks.task_names = ("reach", "push", "pull")
        with pytest.raises(BalancerError, match=f"push has {bad:g}"):
            self.run(self.make(3), [tasks])

    @pytest.mark.parametrize("bad", [0.0, -1.5])
    def test_a_loss_that_is_not_positive_is_refused_where_the_method_needs_it(self, bad):
        tasks = random_tasks(3, 5, 0)
        tasks.losses[2] = bad
        if Needs.POSITIVE_LOSSES in self.make(3).needs:
            with pytest.raises(BalancerError, match=f"task 2 has {bad:g}"):
                self.run(self.make(3), [tasks])
        else:
            assert self.run(self.make(3), [tasks])[0].isfinite().all()

    # -------------------------------------------------------------- in an agent

    def test_an_objective_gets_the_direction_as_its_gradients(self):
        generator = torch.Generator().manual_seed(3)
        states = torch.randn(3, 8, 4, generator=generator)
        targets = torch.randn(3, 8, generator=generator)
        parameters = {name: torch.nn.Parameter(torch.randn(4, 1, generator=generator)) for name in ("first", "second")}

        def losses(parameters, states, targets):
            values = (states @ parameters["first"] + (states @ parameters["second"]).tanh()).squeeze(-1)
            return (values - targets).square().mean(-1), {}

        def objective():
            known = {"temperatures": torch.full((3,), 0.2), "progress": progress_of([0.0] * 3)}
            context = UpdateContext(Selection.whole(3), **known)
            return TaskObjective(losses, parameters, (states, targets), context)

        seen = objective()
        expected = direction_of(
            self.make(3, dtype=torch.float32),
            GivenTasks(seen.losses, seen.jacobian, seen.gramian, context=seen.context),
        )
        applied = objective()
        applied.apply(self.make(3, dtype=torch.float32).balance(applied))
        gradients = torch.cat([parameter.grad.flatten() for parameter in parameters.values()])
        torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5 * float(expected.norm()) + 1e-7)
