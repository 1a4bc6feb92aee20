"""What a balancer is: task losses in, task weights out; the registry; and composition by name.

Scale ("mean of tasks"): the update direction is ``d = (1/K) sum_k weights[k] g_k``; unitary scalarization returns ones.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from agents.balancing.late_verdict import LateVerdict
from agents.errors import ConfigurationError, nearest, unknown_name


class BalancerError(RuntimeError):
    """A loss or gradient that a method cannot take; names the task and the value."""


class NonFiniteError(BalancerError):
    """A loss or gradient that is not finite: no method can take it, and another batch may well be in order."""


class Tasks(Protocol):
    """What a balancer sees of an update; gradients are computed only when touched.

    `TaskObjective` is one; in a test a ``SimpleNamespace`` will do. An agent that keeps its gradients layer by layer
    has no `jacobian`: `gradient_blocks` goes through the task gradients of any.
    """

    @property
    def losses(self) -> Tensor: ...  # [K], detached
    @property
    def gramian(self) -> Tensor: ...  # [K, K]
    @property
    def jacobian(self) -> Tensor: ...  # [K, P]


def gradient_blocks(tasks: Tasks) -> Iterator[tuple[slice, Tensor]]:
    """The Jacobian column block by column block: columns and ``[K, M]`` numbers, read-only, void with the next block.

    :param tasks: with ``blocks()``, or with a `jacobian` that is taken as one block
    """
    if hasattr(tasks, "blocks"):
        yield from tasks.blocks()
    else:
        yield slice(None), tasks.jacobian.detach()


class Balancer(nn.Module):
    """Turns K tasks into one update. State lives in buffers, so it is saved, restored and moved like any module.

    A subclass implements `forward`; it never reaches into the agent. Randomness comes from `generator` only.

    :param num_tasks: K
    :param generator: source of the method's random numbers, on the CPU
    """

    wants_after: ClassVar[bool] = False  # call `observe` with the losses on the same batch after the step
    composes_direction: ClassVar[bool] = False  # `direction` replaces the weighted sum (GradDrop, MoCo, ...)
    uses_gradients: ClassVar[bool] = False  # touches `gramian` or `jacobian` at every update
    acts_on_host: ClassVar[bool] = (
        False  # an update changes more than tensors: it must not begin before its losses are known good
    )
    needs_jacobian: ClassVar[bool] = False  # touches `jacobian` as a whole, which is not there if kept layer by layer
    any_tasks: ClassVar[bool] = False  # balances any subset of the tasks by their gradients: a scheduler can hold it
    task_buffers: ClassVar[Mapping[str, int]] = {}  # buffers whose first so many dimensions count tasks
    stands_last: ClassVar[bool] = False  # leaves tasks out, so that no gradient method can follow it
    schedules: ClassVar[bool] = False  # picks the tasks of every update: `next_tasks` before it, `group` during it
    repeats_tasks: ClassVar[bool] = False  # gives a task several groups of a batch: nobody can ask for task gradients
    needs_positive_losses: ClassVar[bool] = False  # cannot balance actor losses, which may be negative

    def __init__(self, num_tasks: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ConfigurationError(f"A balancer needs at least one task, found num_tasks={num_tasks}.")
        self.num_tasks = num_tasks
        self.generator = generator or torch.Generator().manual_seed(0)
        self.register_buffer("_weights", torch.ones(num_tasks), persistent=False)
        self._late_verdict = LateVerdict()
        self.register_forward_pre_hook(_check_first)

    def forward(self, tasks: Tasks) -> Tensor:
        """Task weights ``[K]``.

        :param tasks: losses and, on touch, gradients of this update
        :raises BalancerError: for a loss that the method cannot take
        """
        raise NotImplementedError

    def direction(self, tasks: Tasks) -> Tensor:
        """Update direction ``[P]`` of the methods that are no weighting of the task gradients."""
        raise NotImplementedError

    def wants_gradients(self, present: Tensor | None = None) -> bool:
        """Whether the coming update touches gradients, for methods that do so at some updates only.

        :param present: the tasks of the update, boolean ``[K]`` on the host; None for all
        """
        return self.uses_gradients

    def next_tasks(self, progress: Any = None) -> Tensor | None:
        """Tasks whose samples the coming update needs, on the host; None for all. Schedulers say.

        :param progress: what is known beyond the losses, as ``tasks.progress`` has it during an update
        :return: boolean ``[K]``, or the task of each of K groups of samples, where ``repeats_tasks``
        """
        return None

    @property
    def group(self) -> Tensor | None:
        """Tasks of the update in progress, boolean ``[K]`` on the host; None for all. Known after the weights."""
        return None

    def within_group(self) -> "Balancer":
        """This method as it works on the tasks that another balancer picks, which ``tasks.present`` tells."""
        from agents.balancing.within_group import WithinGroup

        return WithinGroup(self)

    def observe(self, losses: Tensor) -> None:
        """Losses ``[K]`` on the same batch after the step; called only if `wants_after`."""

    def follow(self, leader: "Balancer") -> None:
        """Be the actor's side of a method that decides once for critic and actor; most decide for each, and do nothing.

        :param leader: the balancer of the critic, made by the same name with the same options
        """

    def backward(self, objective: Any) -> None:
        """Set the gradients of an objective's parameters as this method wants them."""
        if self.wants_gradients(getattr(objective, "present", None)):
            objective.take_gradients()  # one pass for gradients and losses, before the losses alone are asked for
        if self.composes_direction:
            self.check(objective)
            objective.backward_direction(self.direction(objective))
            return
        self._weights = self(objective).detach()
        objective.backward(self._weights)

    def diagnostics(self) -> dict[str, Tensor]:
        """What the method did at its last update, as tensors: ``weights [K]`` and their relative entropy in [0, 1]."""
        weights = self._weights
        shares = weights.abs() / weights.abs().sum().clamp(min=1e-12)
        entropy = torch.special.entr(shares).sum() / torch.tensor(float(max(self.num_tasks, 2))).log()
        return {"weights": weights, "weight_entropy": entropy}

    def check(self, tasks: Tasks) -> None:
        """Refuse losses that this method cannot take; runs by itself before every `forward`.

        :raises BalancerError: for a loss that is not finite, or not positive where `needs_positive_losses`
        """
        self.refuse_unusable(tasks.losses, getattr(tasks, "task_names", ()))

    def refuse_unusable(self, losses: Tensor, task_names: Sequence[str] = ()) -> None:
        """Raise for the first of ``losses [K]`` that is not finite, or not positive where `needs_positive_losses`."""
        if self.needs_positive_losses:
            self.refuse(~((losses > 0) & losses.isfinite()), losses, "needs positive, finite losses", task_names)
        else:
            self.refuse(~losses.isfinite(), losses, "needs finite losses", task_names)

    def refuse(self, bad: Tensor, values: Tensor, reason: str, task_names: Sequence[str] = ()) -> None:
        """Raise for the first task marked in ``bad [K]``; on an accelerator, at a later call, so that nothing waits.

        :raises BalancerError: naming the task, the value and the reason
        """
        verdict = self._late_verdict.exchange(bad, values)
        if verdict is not None and bool(verdict[0].any()):
            first = int(verdict[0].flatten().int().argmax())
            task = first % self.num_tasks
            name = task_names[task] if task_names else f"task {task}"
            value = verdict[1].flatten()[first].item()
            error = BalancerError if math.isfinite(value) else NonFiniteError
            raise error(f"{type(self).__name__} {reason}: {name} has {value:g}.")


def _check_first(balancer: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(balancer, Balancer)
    balancer.check(inputs[0])


@dataclass(frozen=True)
class BalancerRecord:
    """A registered method, as ``mtrl list balancers`` prints it."""

    name: str
    family: str  # loss | gradient | scheduler
    cost: str  # O(1): one backward pass; O(K): K gradients
    paper: str
    summary: str
    options: frozenset[str]
    make: Callable[..., Balancer]
    balancer: type[Balancer]


_REGISTRY: dict[str, BalancerRecord] = {}


def register_balancer(
    name: str, *, family: str, cost: str, paper: str, summary: str, **fixed: Any
) -> Callable[[type[Balancer]], type[Balancer]]:
    """Class decorator: make a method known by the name users type.

    :param fixed: options that this name fixes, for methods that are registered in several variants
    """

    def register(balancer: type[Balancer]) -> type[Balancer]:
        if name in _REGISTRY:
            raise ConfigurationError(f"A balancer named '{name}' is registered already.")

        parameters = inspect.signature(balancer).parameters
        known = frozenset(parameters) - {"num_tasks", "generator", "inner", *fixed}
        required = {option for option in known if parameters[option].default is inspect.Parameter.empty}

        def make(
            num_tasks: int,
            generator: torch.Generator | None = None,
            inner: Balancer | None = None,
            **options: Any,
        ) -> Balancer:
            for option in options:
                if option not in known:
                    takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
                    raise ConfigurationError(
                        f"Balancer '{name}' has no option '{option}': {takes}{nearest(option, known)}"
                    )
            missing = sorted(required - set(options))
            if missing:
                raise ConfigurationError(f"Balancer '{name}' needs the option '{missing[0]}'.")
            scheduled = {} if inner is None else {"inner": inner}
            return balancer(num_tasks, generator=generator, **fixed, **options, **scheduled)

        _REGISTRY[name] = BalancerRecord(name, family, cost, paper, summary, known, make, balancer)
        return balancer

    return register


def list_balancers() -> list[BalancerRecord]:
    """All registered methods, by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


def make_balancer(name: str, *, num_tasks: int, generator: torch.Generator | None = None, **options: Any) -> Balancer:
    """Build a balancer by name.

    ``a+b`` composes methods, b seeing the tasks as a has weighted them; ``scheduler:b`` balances with b the tasks that
    a scheduler picks. There every option is given as ``<method>.<option>``, or plainly if one method alone has it.

    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """
    parts = [part.split(":") for part in name.split("+")]
    words = [word for part in parts for word in part]
    for word in words:
        if word not in _REGISTRY:
            raise unknown_name("balancer", word, _REGISTRY)
    if len(words) == 1:
        return _REGISTRY[name].make(num_tasks, generator=generator, **options)
    from agents.balancing.composition import Composition, share_options

    shares = share_options(words, options)
    balancers = [_make_scheduled(part, shares, num_tasks, generator) for part in parts]
    return balancers[0] if len(balancers) == 1 else Composition(num_tasks, balancers)


def _make_scheduled(
    words: Sequence[str], shares: dict[str, dict[str, Any]], num_tasks: int, generator: torch.Generator | None
) -> Balancer:
    """Build ``scheduler:method``, from the inside out."""
    *schedulers, method = words
    balancer = _REGISTRY[method].make(num_tasks, generator=generator, **shares[method])
    for word in reversed(schedulers):
        if _REGISTRY[word].family != "scheduler":
            known = [record.name for record in list_balancers() if record.family == "scheduler"]
            raise ConfigurationError(f"'{word}:{method}': '{word}' is no scheduler; those are {', '.join(known)}.")
        balancer = _REGISTRY[word].make(num_tasks, generator=generator, inner=balancer, **shares[word])
    return balancer
