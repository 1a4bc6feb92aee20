"""The registry of algorithms: ``agent=`` names settings, and these the algorithm that is built from them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from agents.errors import ConfigurationError
from agents.registry import Record, Registry
from agents.settings import AgentPreset

if TYPE_CHECKING:
    from agents.multitask import MultiTaskAlgorithm
    from agents.policies import MultiTaskPolicy

DEFAULT = "mtsac"  # of configs that name none
A = TypeVar("A", bound="type[MultiTaskAlgorithm]")


@dataclass(frozen=True)
class AlgorithmRecord(Record["MultiTaskAlgorithm"]):
    """An algorithm that can be named.

    :param agent: the class, with SB3's face
    :param preset: its settings as the command line has them
    """

    agent: "type[MultiTaskAlgorithm]"
    preset: type[AgentPreset]


ALGORITHMS: Registry[AlgorithmRecord] = Registry("algorithm")


def register_algorithm(name: str, *, preset: type[AgentPreset], summary: str) -> Callable[[A], A]:
    """Class decorator: make an algorithm known by the name users type.

    :param preset: its settings as the command line has them; they name the algorithm in their field `algorithm`
    :raises ConfigurationError: for a name that is taken, or settings of another algorithm
    """
    ALGORITHMS.refuse_taken(name)
    if preset().algorithm != name:
        raise ConfigurationError(
            f"The settings of '{name}' must have algorithm='{name}', found '{preset().algorithm}'."
        )
    options = frozenset(field.name for field in dataclasses.fields(preset))

    def register(agent: A) -> A:
        ALGORITHMS.add(AlgorithmRecord(name, summary, options, agent, agent, preset))
        return agent

    return register


def list_algorithms() -> list[AlgorithmRecord]:
    """All registered algorithms, by name."""
    return ALGORITHMS.listed()


def acting_types() -> dict[str, "type[MultiTaskPolicy]"]:
    """The policies of all algorithms as they act, without critics, by the names that exported files have for them."""
    types = {record.agent.policy_type.acting_type for record in list_algorithms()}
    return {policy.__name__: policy for policy in types}


def find_algorithm(name: str) -> AlgorithmRecord:
    """An algorithm by name.

    :raises ConfigurationError: for an unknown name, with the nearest known one
    """
    return ALGORITHMS.find(name)
