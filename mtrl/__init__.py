"""Train one agent on many tasks at once, and find out which way of balancing the tasks works."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv
    from stable_baselines3.common.vec_env import VecEnv

    from agents import MTPPO, MTSAC, register_algorithm, register_balancer, register_network
    from agents.balancers import make_balancer
    from envs import TaskVecEnv, register_suite
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
    name: "str | VectorEnv[Any, Any, Any] | VecEnv",
    *,
    seed: int | None = None,
    copies: int = 1,
    workers: int = 0,
    horizon: int | None = None,
    max_restarts: int = 0,
    **options: Any,
) -> Any:
    """Environments of many tasks as one Stable-Baselines3 ``VecEnv``, ready to be learnt in.

    :param name: ``mt10``, ``mt25``, ``mt50``, ``metaworld``, ``gym``, ``pointmass``; or a vector of tasks: a Gymnasium
        ``VectorEnv`` or an SB3 ``VecEnv``, see `envs.vector_env.as_task_vec_env`
    :param seed: fixes the goals of every task and the order they come in; None is 0 for a suite, and leaves a vector as
        it is
    :param copies: environments per task
    :param workers: simulating processes; 0 simulates in this one
    :param horizon: steps per episode; None is the suite's own
    :param max_restarts: faults of environments to get over by rebuilding them; the next one raises
    :param options: of the suite, such as ``tasks=["reach-v3", "push-v3"]``; of a vector ``task_names`` and
        ``task_of_env``
    :return: a `MultiTaskVecEnv` of a suite, another `TaskVecEnv` of a vector
    :raises SuiteError: for an unknown suite, task or option
    """
    from mtrl.plugins import load_plugins
    from mtrl.shadowing import refuse_foreign_packages

    refuse_foreign_packages()
    load_plugins()
    from envs import make_suite, takes_option

    if not isinstance(name, str):
        its_own = {"copies": copies != 1, "workers": workers != 0, "horizon": horizon is not None}
        return _of_vector(name, seed, its_own | {"max_restarts": max_restarts != 0}, options)
    if horizon is not None and takes_option(name, "fallback_horizon"):
        options = {"fallback_horizon": horizon, **options}
    suite = make_suite(name, **options)
    return suite.make_vec_env(
        seed=0 if seed is None else seed, copies=copies, workers=workers, horizon=horizon, max_restarts=max_restarts
    )


def _of_vector(vector: Any, seed: int | None, its_own: dict[str, bool], options: dict[str, Any]) -> "TaskVecEnv":
    from gymnasium.vector import VectorEnv
    from stable_baselines3.common.vec_env import VecEnv

    from envs import SuiteError, as_task_vec_env

    if not isinstance(vector, (VectorEnv, VecEnv)):
        raise SuiteError(
            "make_env takes the name of a suite, a Gymnasium VectorEnv or a Stable-Baselines3 VecEnv, found "
            f"{type(vector).__name__}; single tasks are make_env('gym', tasks=[...])"
        )
    given = [name for name, is_given in its_own.items() if is_given]
    unknown = [name for name in options if name not in ("task_names", "task_of_env")]
    if given or unknown:
        raise SuiteError(f"a vector of tasks takes task_names, task_of_env and seed, found {(given + unknown)[0]}")
    env: Any = as_task_vec_env(vector, **options)
    if seed is not None:
        env.seed(seed)
    return env


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
