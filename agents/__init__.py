"""Everything that learns; knows spaces and tensors, never an environment's name."""

from agents.agent_file import AgentFileError
from agents.balancers import Balancer, BalancerError, list_balancers, make_balancer, register_balancer
from agents.errors import ConfigurationError, NonFiniteUpdate
from agents.mtsac import MTSAC
from agents.policies import MultiTaskPolicy

__all__ = [
    "MTSAC",
    "AgentFileError",
    "Balancer",
    "BalancerError",
    "ConfigurationError",
    "MultiTaskPolicy",
    "NonFiniteUpdate",
    "list_balancers",
    "make_balancer",
    "register_balancer",
]
