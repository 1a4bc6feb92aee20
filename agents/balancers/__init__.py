"""Balancers: one small file per method or family, built by name with `make_balancer`."""

from agents.balancers import losses as _losses
from agents.balancers.base import (
    Balancer,
    BalancerError,
    BalancerRecord,
    Tasks,
    list_balancers,
    make_balancer,
    register_balancer,
)

__all__ = [
    "Balancer",
    "BalancerError",
    "BalancerRecord",
    "Tasks",
    "list_balancers",
    "make_balancer",
    "register_balancer",
]
