"""Networks for many tasks: one file per architecture, one calling convention, one registry."""

from agents.networks.base import NetworkShape, TaskNetwork
from agents.networks.bronet import BroNet
from agents.networks.layers import TASK_IDS
from agents.networks.mlp import MLP
from agents.networks.multihead import MultiHead
from agents.networks.registry import NETWORKS, make_network, options_of, register_network

__all__ = [
    "MLP",
    "NETWORKS",
    "TASK_IDS",
    "BroNet",
    "MultiHead",
    "NetworkShape",
    "TaskNetwork",
    "make_network",
    "options_of",
    "register_network",
]
