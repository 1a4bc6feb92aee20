"""What a balancer is: K task losses in, one update out. Its kinds are types, and what it needs is one object.

Scale ("mean of tasks"): the update direction is ``d = (1/K) sum_k weights[k] g_k``; unitary scalarization returns ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents.balancing.tasks import Progress, Tasks, as_tasks
from agents.errors import ConfigurationError
from agents.selection import Selection


class BalancerError(RuntimeError):
    """A loss or gradient that a method cannot take; names the task and the value."""


class NonFiniteError(BalancerError):
    """A loss or gradient that is not finite: no method can take it, and another batch may well be in order."""


class Needs(Flag):
    """What a method needs of an update; combined with ``|``."""

    NOTHING = 0
    GRAMIAN = auto()  # inner products of the task gradients
    GRADIENTS = auto()  # the task gradients, block by block
    JACOBIAN = auto()  # the task gradients as one matrix, which is not there if they are kept layer by layer
    SECOND_LOOK = auto()  # `observe`: the losses on the same batch after the step
    POSITIVE_LOSSES = auto()  # takes logarithms or ratios: not for actor losses, which may be negative
    TASK_GRADIENTS = GRAMIAN | GRADIENTS | JACOBIAN


@dataclass(frozen=True)
class Balanced:
    """One balanced update.

    :param weights: ``[K]``: the direction is ``(1/K) sum_k weights[k] g_k`` unless there is another
    :param selection: the tasks that the update is for; a scheduler may have chosen them only now
    :param direction: ``[P]`` of a method that is no weighting of the task gradients
    """

    weights: Tensor
    selection: Selection
    direction: Tensor | None = None


# What earlier versions said by class attributes: in silence, a method that still does would not get what it asks for.
_REPLACED = {
    "wants_after": "needs = Needs.SECOND_LOOK",
    "uses_gradients": "needs = Needs.GRAMIAN, or Needs.GRADIENTS",
    "needs_jacobian": "needs = Needs.JACOBIAN",
    "needs_positive_losses": "needs = Needs.POSITIVE_LOSSES",
    "composes_direction": "the base class Direction",
    "schedules": "the base class Scheduler",
    "acts_on_host": "nothing: losses are finite when a balancer sees them",
}


class Balancer(nn.Module):
    """Turns K tasks into one update. State lives in buffers, so it is saved, restored and moved like any module.

    A method is a `Weighting`, a `Direction` or a `Scheduler`; it never reaches into the agent. It sees finite losses
    only, so nothing that it remembers is ever undone. Randomness comes from `generator` only.

    A method of many options lists them in a frozen dataclass, names it in `Options`, and takes one as ``options``.

    :param num_tasks: K
    :param generator: source of the method's random numbers, on the CPU
    """

    Options: ClassVar[type[Any] | None] = None  # None: the options are parameters of the constructor
    _weights: Tensor
    task_buffers: ClassVar[Mapping[str, int]] = {}  # buffers whose first so many dimensions count tasks
    scratch: ClassVar[frozenset[str]] = frozenset()  # attributes that no later update depends on

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in _REPLACED.items():
            if old in vars(cls):
                raise ConfigurationError(f"{cls.__name__} sets {old}, which is now said by {new}.")

    def __init__(self, num_tasks: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ConfigurationError(f"A balancer needs at least one task, found num_tasks={num_tasks}.")
        self.num_tasks = num_tasks
        self.generator = generator or torch.Generator().manual_seed(0)
        self.register_buffer("_weights", torch.ones(num_tasks), persistent=False)
        self.register_forward_pre_hook(_check_first)

    @property
    def title(self) -> str:
        """What errors call it."""
        return type(self).__name__

    @property
    def needs(self) -> Needs:
        """What the method needs of its updates."""
        return Needs.NOTHING

    def needs_now(self, selection: Selection) -> Needs:
        """What the coming update needs, for methods that touch gradients at some updates only.

        :param selection: the tasks of the update
        """
        return self.needs

    def next_selection(self, progress: Progress | None = None) -> Selection:
        """The tasks whose samples the coming update needs: all of them, but for schedulers.

        :param progress: what is known beyond the losses
        """
        return Selection.whole(self.num_tasks)

    def balance(self, tasks: Tasks) -> Balanced:
        """Turn the tasks of one update into weights or a direction.

        :raises BalancerError: for a loss that the method cannot take
        """
        raise NotImplementedError

    def forward(self, tasks: Tasks) -> Tensor:
        """Task weights ``[K]``: what an author of a `Weighting` writes.

        :param tasks: losses and, on touch, gradients of this update
        """
        return self.balance(tasks).weights

    def observe(self, losses: Tensor) -> None:
        """Losses ``[K]`` on the same batch after the step; called only where `needs` has ``SECOND_LOOK``."""

    def for_actor(self, own: "Balancer") -> "Balancer":
        """The actor's side where critic and actor have the same method, and this one is the critic's.

        :param own: another one, made in the same way; a method that decides once for both returns something else
        """
        return own

    def as_it_acts(self) -> "Balancer":
        """What the registry hands out for this method: itself, or a scheduler that samples by its weights."""
        return self

    def _checked(self, method: str, weights: Any, tasks: Tasks) -> Tensor:
        """The weights that an author's code made.

        :raises ConfigurationError: for anything but one number per task
        """
        # One problem has weights [K]; of a batch of problems all may share theirs.
        if isinstance(weights, Tensor) and weights.shape in (tasks.losses.shape, tasks.losses.shape[-1:]):
            return weights
        verb = "return" if method == "forward" else "set self._weights to"
        raise ConfigurationError(
            f"{self.title}.{method} must {verb} one weight per task, a tensor of shape {list(tasks.losses.shape)}, "
            f"found {_shape_of(weights)}."
        )

    def diagnostics(self) -> dict[str, Tensor]:
        """What the method did at its last update, as tensors: ``weights [K]`` and their relative entropy in [0, 1]."""
        weights = self._weights
        shares = weights.abs() / weights.abs().sum().clamp(min=1e-12)
        entropy = torch.special.entr(shares).sum() / torch.tensor(float(max(self.num_tasks, 2))).log()
        return {"weights": weights, "weight_entropy": entropy}

    def check(self, tasks: Tasks) -> None:
        """Refuse losses that this method cannot take; runs by itself before every `forward`.

        :raises BalancerError: for a loss that is not finite, or not positive where `needs` has ``POSITIVE_LOSSES``
        """
        self.refuse_unusable(tasks.losses, tasks)

    def refuse_unusable(self, losses: Tensor, tasks: Tasks | None = None) -> None:
        """Raise for the first of ``losses [K]`` that is not finite, or not positive where that is needed.

        :param tasks: tell the names
        """
        if Needs.POSITIVE_LOSSES in self.needs:
            self.refuse(~((losses > 0) & losses.isfinite()), losses, "needs positive, finite losses", tasks)
        else:
            self.refuse(~losses.isfinite(), losses, "needs finite losses", tasks)

    def refuse_gradients(self, norms: Tensor, tasks: Tasks) -> None:
        """:raises BalancerError: for the first task whose gradient norm in ``[K]`` is not finite"""
        self.refuse(~norms.isfinite(), norms, "needs finite gradients", tasks)

    def refuse(self, bad: Tensor, values: Tensor, reason: str, tasks: Tasks | None = None) -> None:
        """Raise for the first task marked in ``bad [K]``.

        :raises BalancerError: naming the task, the value and the reason
        """
        if not bool(bad.any()):
            return
        first = int(bad.flatten().int().argmax())
        task = first % bad.shape[-1]
        name = f"task {task}" if tasks is None else tasks.task_name(task)
        value = values.flatten()[first].item()
        error = BalancerError if math.isfinite(value) else NonFiniteError
        raise error(f"{type(self).__name__} {reason}: {name} has {value:g}.")


def _shape_of(value: Any) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.80}"


def _check_first(balancer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tasks]:
    assert isinstance(balancer, Balancer)
    tasks = as_tasks(inputs[0])
    balancer.check(tasks)
    return (tasks,)


class Weighting(Balancer):
    """A method that weighs the task losses: it implements `forward`, from the losses or from the gradients."""

    def forward(self, tasks: Tasks) -> Tensor:
        """Task weights ``[K]``.

        :param tasks: losses and, on touch, gradients of this update
        :raises BalancerError: for a loss that the method cannot take
        """
        raise NotImplementedError

    def balance(self, tasks: Tasks) -> Balanced:
        tasks = as_tasks(tasks)
        self._weights = self._checked("forward", self(tasks), tasks).detach()
        return Balanced(self._weights, tasks.selection)


class Direction(Balancer):
    """A method that is no weighting of the task gradients: it implements `direction`, and can only stand last."""

    @property
    def needs(self) -> Needs:
        return Needs.GRADIENTS

    def direction(self, tasks: Tasks) -> Tensor:
        """Update direction ``[P]``; sets ``self._weights [K]`` for the log.

        A method with a memory asks for `gradient_norms` first, which refuses what is not finite.
        """
        raise NotImplementedError

    def balance(self, tasks: Tasks) -> Balanced:
        tasks = as_tasks(tasks)
        self.check(tasks)
        direction = self.direction(tasks)
        if not isinstance(direction, Tensor) or direction.ndim == 0:
            raise ConfigurationError(f"{self.title}.direction must return a tensor [P], found {_shape_of(direction)}.")
        self._checked("direction", self._weights, tasks)
        return Balanced(self._weights, tasks.selection, direction)


class Scheduler(Balancer):
    """A method that picks the tasks of every update: it implements `next_selection` and `balance`."""

    def check(self, tasks: Tasks) -> None:
        """Nothing here: the method within refuses what it cannot take of the tasks that it sees."""

    @property
    def within_group(self) -> Balancer:
        """What balances the tasks that were picked: the actor's side where the critic has a scheduler of its own."""
        raise NotImplementedError
