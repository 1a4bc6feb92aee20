"""Every registered method keeps the promises of `BalancerProperties`, and those that its traits name."""

import torch

from agents.balancers import list_balancers
from tests.agents.balancers.balancer_cases import recorded_run
from tests.agents.balancers.balancer_properties import BalancerProperties, Traits

torch.set_num_threads(1)

DECIDES = {"weights_on": "loss", "hold": 1, "hold_episodes": 1}
RECORDED = {"source": recorded_run, "weights_on": "loss"}
TRAITS = {
    # loss space
    "unitary": Traits(convex=True),
    "static": Traits(
        options={"weights": lambda num_tasks: [2.0] + [1.0] * (num_tasks - 1)}, equivariant=False, convex=True
    ),
    "schedule": Traits(
        options={"times": [0.0], "weights": lambda num_tasks: [[2.0] + [1.0] * (num_tasks - 1)]},
        equivariant=False,
        convex=True,
    ),
    "rlw": Traits(equivariant=False, convex=True),
    "uncertainty": Traits(degree=1.0),
    "dwa": Traits(options={"iteration_window": 1}, convex=True),
    "scale_invariant": Traits(degree=0.0, task_scale_free=True, plain_single=False),
    "gls": Traits(degree=1.0, task_scale_free=True),
    "stch": Traits({"warmup": 0, "nadir_window": 1}, degree=0.0, task_scale_free=True, plain_single=False),
    "go4align": Traits(degree=None),
    "temperature": Traits(convex=True),
    "famo": Traits(degree=1.0, task_scale_free=True, convex=True),
    "igb_v1": Traits({"base_start": 0, "base_window": 1}, degree=0.0, task_scale_free=True, plain_single=False),
    "igb_v1_rl": Traits(DECIDES, convex=True),
    "igb_v2": Traits({"epoch": 1}, equivariant=False, degree=None, plain_single=False),
    "igb_rl": Traits(DECIDES, convex=True),
    "igb_rl_random": Traits(DECIDES, equivariant=False, convex=True),
    "igb_rl_frozen": Traits(RECORDED, equivariant=False, convex=True),
    "igb_rl_permuted": Traits(RECORDED, equivariant=False, convex=True),
    "imtl_l": Traits(),
    # gradient space
    "mgda": Traits(degree=0.0, task_scale_free=True, plain_single=True),
    "pcgrad": Traits(equivariant=False),
    "gradvac": Traits(equivariant=False),
    "graddrop": Traits(equivariant=False),
    "cagrad": Traits(),
    "imtl_g": Traits(),
    "imtl": Traits(),
    "nash_mtl": Traits(degree=0.0, task_scale_free=True),
    "aligned_mtl": Traits(),
    "gradnorm": Traits(),
    "fairgrad": Traits(degree=None),
    "upgrad": Traits(),
    "dualproj": Traits(),
    "config": Traits(task_scale_free=True),
    "sdmgrad": Traits(),
    "moco": Traits(degree=None),
    "db_mtl": Traits(degree=None),
    # schedulers
    "son_goku": Traits({"refresh_every": 1, "warmup": 0.0, "anneal": 0.0}, equivariant=False),
}


def test_every_registered_method_says_what_it_promises():
    assert {record.name for record in list_balancers()} == set(TRAITS)


for _name, _traits in TRAITS.items():
    _case = f"Test_{_name}"
    globals()[_case] = type(_case, (BalancerProperties,), {"name": _name, "traits": _traits})
