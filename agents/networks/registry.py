"""Networks by name: the registry, and what a user can set of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from agents.networks.base import NetworkShape, TaskNetwork
from agents.registry import Registry, option_names, summary_of

Network = TypeVar("Network", bound=TaskNetwork)


@dataclass(frozen=True)
class NetworkRecord:
    """A registered architecture, as ``mtrl list networks`` prints it.

    :param options: what a user can set of it
    :param make: ``(shape, **options)`` builds one
    """

    name: str
    summary: str
    options: frozenset[str]
    make: Callable[..., TaskNetwork]


NETWORKS: Registry[NetworkRecord] = Registry("network")


def register_network(name: str) -> Callable[[type[Network]], type[Network]]:
    """Class decorator: make an architecture known by the name users type; the docstring's first line describes it.

    :raises ConfigurationError: if the name is taken
    """

    def register(network: type[Network]) -> type[Network]:
        NETWORKS.add(name, NetworkRecord(name, summary_of(network), option_names(network, {"shape"}), network))
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
    record = NETWORKS.find(name)
    NETWORKS.refuse_options(name, options, record.options)
    return record.make(shape, **options)
