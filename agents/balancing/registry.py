"""Balancers by name: the registry, and the one place that reads ``a+b`` and ``scheduler:b``."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agents.balancing.balancer import Balancer, Direction, Scheduler, Weighting
from agents.balancing.composition import compose
from agents.errors import ConfigurationError, nearest, unknown_name
from agents.registry import Record, Registry


@dataclass(frozen=True)
class BalancerRecord(Record[Balancer]):
    """A registered method, as ``mtrl list balancers`` prints it.

    :param family: ``loss``, ``gradient`` or ``scheduler``
    :param cost: ``O(1)``, one backward pass, or ``O(K)``, K gradients
    """

    family: str
    cost: str
    paper: str
    balancer: type[Balancer]

    @property
    def module(self) -> str:
        return self.balancer.__module__

    @property
    def declaration(self) -> type:
        return declaration(self.balancer)


FAMILIES = ("loss", "gradient", "scheduler")
BALANCERS: Registry[BalancerRecord] = Registry("balancer")


def declaration(balancer: type[Balancer]) -> type:
    """The class whose parameters are a method's options, and whose ``:param`` lines explain them."""
    return balancer.Options or balancer


def register_balancer(
    name: str, *, family: str, cost: str, paper: str, summary: str, **fixed: Any
) -> Callable[[type[Balancer]], type[Balancer]]:
    """Class decorator: make a method known by the name users type.

    :param fixed: options that this name fixes, for methods that are registered in several variants
    """

    def register(balancer: type[Balancer]) -> type[Balancer]:
        if not issubclass(balancer, (Weighting, Direction, Scheduler)):
            raise ConfigurationError(
                f"Balancer '{name}' must be a Weighting, a Direction or a Scheduler, and {balancer.__name__} is none."
            )
        if family not in FAMILIES:
            raise unknown_name(f"family of balancer '{name}'", family, FAMILIES)
        _refuse_odd_constructor(name, balancer)
        parameters = inspect.signature(declaration(balancer)).parameters
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
            chosen = {**fixed, **options}
            given = chosen if balancer.Options is None else {"options": balancer.Options(**chosen)}
            made = balancer(num_tasks, generator=generator, **given, **scheduled)
            _refuse_unfinished(name, made, num_tasks, generator)
            return made.as_it_acts()

        BALANCERS.add(BalancerRecord(name, summary, known, make, family, cost, paper, balancer))
        return balancer

    return register


def _refuse_odd_constructor(name: str, balancer: type[Balancer]) -> None:
    """:raises ConfigurationError: for a constructor that cannot be called as every balancer's is"""
    parameters = inspect.signature(balancer).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    needed = ["generator", *(["inner"] if issubclass(balancer, Scheduler) else [])]
    missing = [one for one in needed if one not in parameters and not open_ended]
    if next(iter(parameters), None) != "num_tasks" or missing:
        wanted = "num_tasks first" if not missing else f"'{missing[0]}'"
        raise ConfigurationError(
            f"The constructor of balancer '{name}' must take {wanted}, as in def __init__(self, num_tasks, *, "
            f"{', '.join(f'{one}=None' for one in needed)}): "
            f"{balancer.__name__} takes {', '.join(parameters) or 'none'}."
        )


def _refuse_unfinished(name: str, made: Balancer, num_tasks: int, generator: torch.Generator | None) -> None:
    """:raises ConfigurationError: for a constructor that did not call the one of its base class, with both arguments"""
    own = vars(made).get("num_tasks"), vars(made).get("generator")
    if own[0] != num_tasks or (generator is not None and own[1] is not generator):
        raise ConfigurationError(
            f"The constructor of balancer '{name}' must call super().__init__(num_tasks, generator): its randomness "
            "comes from that generator alone."
        )


def list_balancers() -> list[BalancerRecord]:
    """All registered methods, by name."""
    return BALANCERS.listed()


def parse(name: str) -> list[list[str]]:
    """``a+s:b`` as ``[["a"], ["s", "b"]]``: the parts of a composition, each a method behind its schedulers."""
    return [part.split(":") for part in name.split("+")]


def methods_of(name: str) -> list[str]:
    """The methods that a balancer's name is made of, in order."""
    return [word for part in parse(name) for word in part]


def make_balancer(name: str, *, num_tasks: int, generator: torch.Generator | None = None, **options: Any) -> Balancer:
    """Build a balancer by name.

    ``a+b`` composes methods, b seeing the tasks as a has weighted them; ``scheduler:b`` balances with b the tasks that
    a scheduler picks. There every option is given as ``<method>.<option>``, or plainly if one method alone has it.

    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """
    words = methods_of(name)
    for word in words:
        BALANCERS.find(word)
    if len(words) == 1:
        return BALANCERS[name].make(num_tasks, generator=generator, **options)
    shares, parts = _share_options(words, options), parse(name)
    balancers = [_make_scheduled(part, shares, num_tasks, generator) for part in parts]
    names = [":".join(part) for part in parts]
    return balancers[0] if len(balancers) == 1 else compose(num_tasks, balancers, names)


def _make_scheduled(
    words: Sequence[str], shares: dict[str, dict[str, Any]], num_tasks: int, generator: torch.Generator | None
) -> Balancer:
    """Build ``scheduler:method``, from the inside out."""
    *schedulers, method = words
    balancer = BALANCERS[method].make(num_tasks, generator=generator, **shares[method])
    for word in reversed(schedulers):
        if BALANCERS[word].family != "scheduler":
            known = [record.name for record in list_balancers() if record.family == "scheduler"]
            raise ConfigurationError(f"'{word}:{method}': '{word}' is no scheduler; those are {', '.join(known)}.")
        balancer = BALANCERS[word].make(num_tasks, generator=generator, inner=balancer, **shares[word])
    return balancer


def options_by_method(name: str, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of a balancer by the method of its name that takes them.

    :raises ConfigurationError: for an option that no method, or more than one, can take
    """
    words = methods_of(name)
    return {name: dict(options)} if len(words) == 1 else _share_options(words, dict(options))


def _share_options(names: Sequence[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give every option of a composition to the method it belongs to.

    :param options: ``{"cagrad.c": 0.4}``, or ``{"c": 0.4}`` where one method alone has the option
    :raises ConfigurationError: for an option that no method, or more than one, can take
    """
    shares: dict[str, dict[str, Any]] = {name: {} for name in names}
    for option, value in options.items():
        owner, _, plain = option.rpartition(".")
        owners = [owner] if owner else [name for name in dict.fromkeys(names) if plain in BALANCERS[name].options]
        whole = "+".join(names)
        if not owners or owners[0] not in shares:
            raise ConfigurationError(f"Option '{option}' belongs to no method of '{whole}'.")
        if len(owners) > 1:
            choices = " or ".join(f"'{name}.{plain}'" for name in owners)
            raise ConfigurationError(f"Option '{option}' of '{whole}' belongs to several methods: write {choices}.")
        shares[owners[0]][plain] = value
    return shares
