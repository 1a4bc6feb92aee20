"""How many parameters an architecture has, and the widths of one that has as many as another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from agents.errors import ConfigurationError
from agents.networks.base import NetworkShape, TaskNetwork
from agents.networks.registry import make_network, options_of

WIDEST = 2**16
STATES, ACTIONS = 39, 4  # of Meta-World


def parameter_count(make: Callable[..., nn.Module], shape: NetworkShape, **options: Any) -> int:
    """Parameters of ``make(shape, **options)``, counted without making them; the shape's generator stays as it is."""
    with torch.device("meta"):
        network = make(replace(shape, generator=torch.Generator("cpu")), **options)
    return sum(parameter.numel() for parameter in network.parameters())


def network_parameter_count(name: str, shape: NetworkShape, **options: Any) -> int:
    """The same of an architecture by its registered name.

    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """

    def make(shape: NetworkShape, **options: Any) -> nn.Module:
        return make_network(name, shape, **options)

    return parameter_count(make, shape, **options)


def metaworld_parameter_counts(name: str) -> dict[str, int]:
    """Parameters of an architecture with its default options, as the actor and as the twin critics of MT10 and MT50."""
    found = {}
    for num_tasks in (10, 50):
        actor = NetworkShape(STATES, 2 * ACTIONS, num_tasks, 1, torch.Generator())
        critics = NetworkShape(STATES + ACTIONS, 1, num_tasks, 2, torch.Generator())
        found[f"MT{num_tasks} actor"] = network_parameter_count(name, actor)
        found[f"MT{num_tasks} critics"] = network_parameter_count(name, critics)
    return found


def matched_widths(
    make: Callable[..., TaskNetwork],
    shape: NetworkShape,
    hidden_sizes: Sequence[int],
    match: str,
    options: Mapping[str, Any],
) -> tuple[int, ...]:
    """Widths in the proportions of `hidden_sizes` with which a network has as many parameters as another.

    :param make: builds the network from a shape and ``hidden_sizes=``
    :param match: the other one, by its registered name
    :param options: of the other one; `layer_norm` is left out where it has no such option
    :return: those whose number of parameters is nearest
    :raises ConfigurationError: for an unknown name or option, with the nearest known one, and for a network that is too
        large to be matched
    """
    known = options_of(match)
    taken = {name: value for name, value in options.items() if name in known or name != "layer_norm"}
    wanted = network_parameter_count(match, shape, **taken)

    def widths(first: int) -> tuple[int, ...]:
        return tuple(max(1, round(size * first / hidden_sizes[0])) for size in hidden_sizes)

    def count(first: int) -> int:
        return parameter_count(make, shape, hidden_sizes=widths(first))

    def distance(first: int) -> int:
        return abs(count(first) - wanted)

    low, high = 1, 2
    while count(high) < wanted:
        low, high = high, 2 * high
        if high > WIDEST:
            raise ConfigurationError(f"match='{match}' has {wanted:,} parameters: no layers this wide are made.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= wanted else (middle, high)
    return widths(min(low, high, key=distance))
