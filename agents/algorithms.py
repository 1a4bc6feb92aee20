"""The registry of algorithms: ``agent=`` names settings, and these the algorithm that is built from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from agents.errors import ConfigurationError, unknown_name
from agents.settings import AgentPreset

if TYPE_CHECKING:
    from agents.multitask import MultiTaskAlgorithm

DEFAULT = "mtsac"  # of configs that name none


@dataclass(frozen=True)
class AlgorithmRecord:
    """An algorithm that can be named.

    :param name: what users type
    :param agent: the class, with SB3's face
    :param preset: its settings as the command line has them
    :param summary: one line about it
    """

    name: str
    agent: "type[MultiTaskAlgorithm]"
    preset: type[AgentPreset]
    summary: str


_REGISTRY: dict[str, AlgorithmRecord] = {}
A = TypeVar("A", bound="type[MultiTaskAlgorithm]")


def register_algorithm(name: str, *, preset: type[AgentPreset], summary: str) -> Callable[[A], A]:
    """Class decorator: make an algorithm known by the name users type.

    :param preset: its settings as the command line has them; they name the algorithm in their field `algorithm`
    :raises ConfigurationError: for a name that is taken, or settings of another algorithm
    """
    if name in _REGISTRY:
        raise ConfigurationError(f"An algorithm named '{name}' is registered already.")
    if preset().algorithm != name:
        raise ConfigurationError(
            f"The settings of '{name}' must have algorithm='{name}', found '{preset().algorithm}'."
        )

    def register(agent: A) -> A:
        _REGISTRY[name] = AlgorithmRecord(name, agent, preset, summary)
        return agent

    return register


def list_algorithms() -> list[AlgorithmRecord]:
    """All registered algorithms, by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


def find_algorithm(name: str) -> AlgorithmRecord:
    """An algorithm by name.

    :raises ConfigurationError: for an unknown name, with the nearest known one
    """
    if name not in _REGISTRY:
        raise unknown_name("algorithm", name, _REGISTRY)
    return _REGISTRY[name]
