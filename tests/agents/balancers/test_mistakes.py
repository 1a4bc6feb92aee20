"""What an author of a balancer gets wrong is named, with what would be right."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.balancers import Direction, Weighting, make_balancer, register_balancer
from agents.balancing.guard import UpdateGuard
from agents.balancing.registry import BALANCERS
from agents.balancing.unsaved import UnsavedState
from agents.errors import ConfigurationError
from tests.agents.balancers.balancer_cases import random_tasks

K, P = 3, 5


@pytest.fixture
def register() -> Iterator[Any]:
    """Registers a class as 'mine' for one test."""

    def add(balancer: type, family: str = "loss") -> Any:
        register_balancer("mine", family=family, cost="O(1)", paper="none", summary="a test's own")(balancer)
        return lambda **options: make_balancer("mine", num_tasks=K, **options)

    yield add
    BALANCERS._records.pop("mine", None)


def returning(answer: Any) -> type[Weighting]:
    class Mine(Weighting):
        def forward(self, tasks: Any) -> Tensor:
            return answer

    return Mine


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (torch.ones(K, 1), r"shape \[3, 1\]"),
        (torch.ones(()), r"shape \[\]"),
        (torch.ones(K + 1), r"shape \[4\]"),
        ([1.0, 1.0, 1.0], r"\[1.0, 1.0, 1.0\]"),
        (None, "None"),
    ],
)
def test_weights_of_another_shape_are_named(register: Any, answer: Any, found: str) -> None:
    balancer = register(returning(answer))()
    expected = rf"Mine.forward must return one weight per task, a tensor of shape \[3\], found {found}\."
    with pytest.raises(ConfigurationError, match=expected):
        balancer.balance(random_tasks(K, P, 0))


def test_a_direction_must_be_a_tensor_and_set_one_weight_per_task(register: Any) -> None:
    class Mine(Direction):
        answer: Any = None

        def direction(self, tasks: Any) -> Tensor:
            self._weights = torch.ones(K + 1)
            return self.answer

    balancer = register(Mine, "gradient")()
    with pytest.raises(ConfigurationError, match=r"Mine.direction must return a tensor \[P\], found None"):
        balancer.balance(random_tasks(K, P, 0))
    balancer.answer = torch.ones(P)
    with pytest.raises(ConfigurationError, match=r"must set self._weights to one weight per task"):
        balancer.balance(random_tasks(K, P, 0))


def test_a_constructor_without_generator_is_refused_when_it_is_registered(register: Any) -> None:
    class Mine(Weighting):
        def __init__(self, num_tasks: int, speed: float = 1.0) -> None:
            super().__init__(num_tasks)

    with pytest.raises(ConfigurationError, match="constructor of balancer 'mine' must take 'generator'"):
        register(Mine)
    assert "mine" not in BALANCERS


def test_a_generator_that_is_taken_and_dropped_is_refused(register: Any) -> None:
    class Mine(Weighting):
        def __init__(self, num_tasks: int, generator: torch.Generator | None = None) -> None:
            super().__init__(num_tasks)

    with pytest.raises(ConfigurationError, match=r"must call super\(\).__init__\(num_tasks, generator\)"):
        register(Mine)(generator=torch.Generator())


def test_a_constructor_that_skips_its_base_class_is_refused(register: Any) -> None:
    class Mine(Weighting):
        def __init__(self, num_tasks: int, generator: torch.Generator | None = None) -> None:
            torch.nn.Module.__init__(self)

    with pytest.raises(ConfigurationError, match=r"must call super\(\).__init__\(num_tasks, generator\)"):
        register(Mine)()


@pytest.mark.parametrize("family", ["losses", "gradients", ""])
def test_an_unknown_family_is_refused_with_the_known_ones(register: Any, family: str) -> None:
    with pytest.raises(ConfigurationError, match="family of balancer 'mine'.*gradient, loss, scheduler"):
        register(returning(torch.ones(K)), family)


class Remembering(Weighting):
    """Keeps in Python what belongs into a buffer."""

    def __init__(self, num_tasks: int, what: str = "count", generator: torch.Generator | None = None) -> None:
        super().__init__(num_tasks, generator)
        self.what, self.count, self.history = what, 0, [0.0]
        self.mean = torch.zeros(num_tasks)
        self.register_buffer("kept", torch.zeros(num_tasks))

    def forward(self, tasks: Any) -> Tensor:
        self.kept = self.kept + tasks.losses.detach()
        if self.what == "count":
            self.count += 1
        if self.what == "history":
            self.history.append(float(tasks.losses.sum()))
        if self.what == "mean":
            self.mean.mul_(0.9).add_(0.1)
        if self.what == "_late":
            self._late = tasks.losses.detach()
        return torch.ones_like(tasks.losses)


@pytest.mark.parametrize("what", ["count", "history", "mean", "_late"])
def test_state_outside_buffers_is_named_before_a_checkpoint_loses_it(what: str) -> None:
    balancer = Remembering(K, what)
    watch = UnsavedState(balancer)
    balancer.balance(random_tasks(K, P, 0))
    with pytest.raises(ConfigurationError, match=rf"Remembering remembers '{what}' outside its.*register_buffer"):
        watch.refuse()


def test_buffers_and_what_a_class_calls_scratch_may_change() -> None:
    class Scratching(Remembering):
        scratch = frozenset({"count"})

    for balancer in (Remembering(K, "nothing"), Scratching(K, "count")):
        watch = UnsavedState(balancer)
        balancer.balance(random_tasks(K, P, 0))
        watch.refuse()


def test_a_part_of_a_composition_is_watched_too(register: Any) -> None:
    class Mine(Remembering):
        pass

    register(Mine)
    balancer = make_balancer("mine+uncertainty", num_tasks=K)
    watch = UnsavedState(balancer)
    balancer.balance(random_tasks(K, P, 0))
    with pytest.raises(ConfigurationError, match="Mine remembers 'count'"):
        watch.refuse()


def test_the_error_that_ends_a_training_names_what_made_the_gradient_bad() -> None:
    guard = UpdateGuard(1)
    guard.begin(task=torch.arange(K))
    guard.passes("critic gradient", torch.tensor(float("nan")))
    guard.blame("weight that Mine gives the critic loss", torch.tensor([1.0, float("nan"), 1.0]))
    guard.end()
    error = guard.error(["a", "b", "c"], 7, lambda name: torch.ones(K))
    assert str(error).endswith("the weight that Mine gives the critic loss of 'b' is nan")
