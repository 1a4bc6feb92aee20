"""Networks by name: the registry, and what a user can set of each."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from agents.errors import unknown_name
from agents.networks.bronet import BroNet
from agents.networks.mlp import MLP
from agents.networks.multihead import MultiHead

NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "multihead": MultiHead, "bronet": BroNet}
_NOT_OPTIONS = {"inputs", "outputs", "num_tasks", "members", "generator"}  # given by the policy, not by the user


def options_of(name: str) -> set[str]:
    """What a user can set of an architecture.

    :raises ConfigurationError: for an unknown name, with the nearest known one
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    return set(inspect.signature(NETWORKS[name]).parameters) - _NOT_OPTIONS


def make_network(name: str, inputs: int, outputs: int, num_tasks: int, **options: Any) -> nn.Module:
    """Build a network by its registered name.

    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """
    known = options_of(name)
    for option in options:
        if option not in known | _NOT_OPTIONS:
            raise unknown_name(f"option of network '{name}'", option, known)
    return NETWORKS[name](inputs, outputs, num_tasks, **options)
