"""How the environments of a suite are simulated: the arguments of ``make_vec_env`` as one value, checked."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import check_choice, check_integer, check_seed
from .episodes import GOAL_ORDERS, GoalOrder
from .errors import SuiteError

RENDER_MODES = (None, "rgb_array")


@dataclass(frozen=True)
class Simulation:
    """N = K x copies environments. What each field means is said by :meth:`envs.suite.TaskSuite.make_vec_env`.

    :raises SuiteError: for a value out of range.
    """

    seed: int
    copies: int = 1
    workers: int = 0
    goal_order: GoalOrder = "random"
    horizon: int | None = None
    stop_at_success: bool = False
    render_mode: str | None = None
    worker_timeout: float = 60.0
    max_restarts: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))  # NumPy's integers become Python's
        check_integer("copies", self.copies, least=1)
        check_integer("workers", self.workers, least=0)
        check_choice("goal_order", self.goal_order, GOAL_ORDERS)
        check_choice("render_mode", self.render_mode, RENDER_MODES)
        if self.worker_timeout <= 0:
            raise SuiteError(f"worker_timeout must be a positive number of seconds, found {self.worker_timeout!r}")
        check_integer("max_restarts", self.max_restarts, least=0)
        if self.max_restarts and self.goal_order == "sweep":
            raise SuiteError(f"max_restarts must be 0 for a sweep, which counts its goals, found {self.max_restarts}")
