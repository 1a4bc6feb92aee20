"""Options of a network from a config: known ones alone, each of the type that the architecture wants."""

import inspect
from collections.abc import Mapping
from typing import Any

from agents.networks import NETWORKS
from mtrl.errors import ConfigError, nearest
from mtrl.schema import convert_scalar

# Options that have settings of their own.
_SETTINGS = {
    "hidden_sizes": "network.hidden_sizes or network.actor_hidden_sizes",
    "task_id": "network.task_id",
    "layer_norm": "agent.critic_layer_norm or agent.actor_layer_norm",
}


def known_options(network: str) -> list[str]:
    """What ``network.options`` may set of a registered network."""
    return sorted(NETWORKS[network].options - _SETTINGS.keys())


def checked_options(network: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a registered network; None leaves one at its default.

    :raises ConfigError: for an option that it does not have, that is a setting, or that is of another type
    """
    known, parameters = known_options(network), inspect.signature(NETWORKS[network].make).parameters
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name in _SETTINGS:
            raise ConfigError(f"network.options.{name} is no option of a network: give it as {_SETTINGS[name]}.")
        if name not in known:
            hint = nearest(name, known) if known else ", which takes none."
            raise ConfigError(f"'network.options.{name}' is no option of {network}{hint}")
        if value is not None:
            checked[name] = convert_scalar(parameters[name].annotation, value, f"network.options.{name}")
    return checked
