"""Networks for many tasks: one file per architecture, one calling convention, one registry."""

from agents.networks.base import NetworkShape, TaskNetwork
from agents.networks.bronet import BroNet
from agents.networks.care import CARE
from agents.networks.film import FiLM
from agents.networks.layers import TASK_IDS
from agents.networks.mlp import MLP
from agents.networks.moore import MOORE
from agents.networks.multihead import MultiHead
from agents.networks.paco import PaCo
from agents.networks.registry import NETWORKS, make_network, options_of, register_network
from agents.networks.soft_modules import SoftModules

__all__ = [
    "CARE",
    "MLP",
    "MOORE",
    "NETWORKS",
    "TASK_IDS",
    "BroNet",
    "FiLM",
    "MultiHead",
    "NetworkShape",
    "PaCo",
    "SoftModules",
    "TaskNetwork",
    "make_network",
    "options_of",
    "register_network",
]
