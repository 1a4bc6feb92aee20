"""Everything that learns; knows spaces and tensors, never an environment's name."""

from agents.algorithms import find_algorithm, list_algorithms, register_algorithm
from agents.balancers import (
    Balancer,
    BalancerError,
    Direction,
    GivenTasks,
    GramianWeighting,
    Needs,
    Scheduler,
    Tasks,
    Weighting,
    list_balancers,
    make_balancer,
    register_balancer,
)
from agents.errors import ConfigurationError, NonFiniteUpdate
from agents.files.agent_file import AgentFileError
from agents.files.policy_file import load_policy, save_policy
from agents.mtppo import MTPPO
from agents.mtsac import MTSAC
from agents.networks import NetworkShape, TaskNetwork, register_network
from agents.policies import ActingPolicy, MultiTaskPolicy

__all__ = [
    "MTPPO",
    "MTSAC",
    "ActingPolicy",
    "AgentFileError",
    "Balancer",
    "BalancerError",
    "ConfigurationError",
    "Direction",
    "GivenTasks",
    "GramianWeighting",
    "MultiTaskPolicy",
    "Needs",
    "NetworkShape",
    "NonFiniteUpdate",
    "Scheduler",
    "TaskNetwork",
    "Tasks",
    "Weighting",
    "find_algorithm",
    "list_algorithms",
    "list_balancers",
    "load_policy",
    "make_balancer",
    "register_algorithm",
    "register_balancer",
    "register_network",
    "save_policy",
]
