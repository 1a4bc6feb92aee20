"""Everything that is simulated: suites of tasks as one Stable-Baselines3 VecEnv. Knows nothing of agents."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ContractError, EnvironmentFault, SuiteError
    from .suite import TaskSuite, find_suite, list_suites, make_suite, register_suite, takes_option
    from .task_vec_env import TaskVecEnv
    from .vector import MultiTaskVecEnv
    from .vector_env import as_task_vec_env

__all__ = [
    "ContractError",
    "EnvironmentFault",
    "MultiTaskVecEnv",
    "SuiteError",
    "TaskSuite",
    "TaskVecEnv",
    "as_task_vec_env",
    "find_suite",
    "list_suites",
    "make_suite",
    "register_suite",
    "takes_option",
]

_HOME = {
    "ContractError": "errors",
    "EnvironmentFault": "errors",
    "MultiTaskVecEnv": "vector",
    "SuiteError": "errors",
    "TaskSuite": "suite",
    "TaskVecEnv": "task_vec_env",
    "as_task_vec_env": "vector_env",
    "find_suite": "suite",
    "list_suites": "suite",
    "make_suite": "suite",
    "register_suite": "suite",
    "takes_option": "suite",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: a worker process imports this package too, and must not pay for SB3 and torch.
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
