"""Balancers: one small file per method or family, built by name with `make_balancer`."""

from agents.balancers import (  # noqa: F401  importing a file registers its methods
    aligned_mtl,
    cagrad,
    conflict_free,
    db_mtl,
    dwa,
    fairgrad,
    famo,
    given,
    go4align,
    graddrop,
    gradnorm,
    igb,
    imtl,
    losses,
    mgda,
    moco,
    nash,
    pcgrad,
    son_goku,
    stch,
    uncertainty,
    upgrad,
)
from agents.balancing.balancer import Balancer, BalancerError, Direction, Needs, Scheduler, Weighting
from agents.balancing.gramian import GramianWeighting
from agents.balancing.registry import BalancerRecord, list_balancers, make_balancer, register_balancer
from agents.balancing.tasks import GivenTasks, Tasks

__all__ = [
    "Balancer",
    "BalancerError",
    "BalancerRecord",
    "Direction",
    "GivenTasks",
    "GramianWeighting",
    "Needs",
    "Scheduler",
    "Tasks",
    "Weighting",
    "list_balancers",
    "make_balancer",
    "register_balancer",
]
