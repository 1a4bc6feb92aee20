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
    igb_rl,
    igb_v2,
    imtl,
    losses,
    mgda,
    moco,
    nash,
    pcgrad,
    recorded,
    son_goku,
    stch,
    uncertainty,
    upgrad,
)
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
