"""Train one agent on many tasks at once, and find out which way of balancing the tasks works."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents import MTPPO, MTSAC, register_algorithm, register_balancer, register_network
    from agents.balancers import make_balancer
    from envs import MultiTaskVecEnv, register_suite
    from mtrl import compare
    from mtrl.evaluation import evaluate

__all__ = [
    "MTPPO",
    "MTSAC",
    "compare",
    "evaluate",
    "make_balancer",
    "make_env",
    "register_algorithm",
    "register_balancer",
    "register_network",
    "register_suite",
]

_REGISTERING = {
    "register_algorithm": "agents",
    "register_balancer": "agents",
    "register_network": "agents",
    "register_suite": "envs",
}
_HOME = {
    "MTPPO": "agents",
    "MTSAC": "agents",
    "make_balancer": "agents.balancers",
    "evaluate": "mtrl.evaluation",
    **_REGISTERING,
}


def make_env(
    name: str,
    *,
    seed: int = 0,
    copies: int = 1,
    workers: int = 0,
    horizon: int | None = None,
    max_restarts: int = 0,
    **options: Any,
) -> "MultiTaskVecEnv":
    """The environments of a suite as one Stable-Baselines3 ``VecEnv``, ready to be learnt in.

    :param name: ``mt10``, ``mt25``, ``mt50``, ``metaworld``, ``gym``, ``pointmass``
    :param seed: fixes the goals of every task and the order they come in
    :param copies: environments per task
    :param workers: simulating processes; 0 simulates in this one
    :param horizon: steps per episode; None is the suite's own
    :param max_restarts: faults of environments to get over by rebuilding them; the next one raises
    :param options: of the suite, such as ``tasks=["reach-v3", "push-v3"]``
    :raises SuiteError: for an unknown suite, task or option
    """
    from mtrl.plugins import load_plugins
    from mtrl.shadowing import refuse_foreign_packages

    refuse_foreign_packages()
    load_plugins()
    from envs import make_suite, takes_option

    if horizon is not None and takes_option(name, "fallback_horizon"):
        options = {"fallback_horizon": horizon, **options}
    suite = make_suite(name, **options)
    return suite.make_vec_env(seed=seed, copies=copies, workers=workers, horizon=horizon, max_restarts=max_restarts)


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line must be able to say what is wrong before torch is imported.
    if name in _HOME:
        from mtrl.shadowing import refuse_foreign_packages

        refuse_foreign_packages()
        found = getattr(importlib.import_module(_HOME[name]), name)
        if name not in _REGISTERING:  # which plug-ins themselves ask for
            from mtrl.plugins import load_plugins

            load_plugins()
        return found
    if name == "compare":  # a package of functions: compare.compare_runs(...), compare.write_report(...)
        return importlib.import_module("mtrl.compare")
    raise AttributeError(f"module 'mtrl' has no attribute '{name}'")
