"""Networks by name: the registry, and what a user can set of each."""

from collections.abc import Callable
from typing import Any, TypeVar

from agents.networks.base import NetworkShape, TaskNetwork
from agents.registry import Record, Registry, describe

Network = TypeVar("Network", bound=type[TaskNetwork])

NETWORKS: Registry[Record[TaskNetwork]] = Registry("network")


def register_network(name: str) -> Callable[[Network], Network]:
    """Class decorator: make an architecture known by the name users type; the docstring's first line describes it.

    :raises ConfigurationError: if the name is taken
    """

    def register(network: Network) -> Network:
        NETWORKS.add(describe(name, network, settled={"shape"}))
        return network

    return register


def options_of(name: str) -> frozenset[str]:
    """What a user can set of an architecture.

    :raises ConfigurationError: for an unknown name, with the nearest known one
    """
    return NETWORKS.find(name).options


def make_network(name: str, shape: NetworkShape, **options: Any) -> TaskNetwork:
    """Build a network by its registered name.

    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """
    NETWORKS.refuse_options(name, options)
    return NETWORKS[name].make(shape, **options)
