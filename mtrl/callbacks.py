"""What happens beside the learning, each by its own clock: evaluation, metrics, progress."""

import time
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from agents.tags import MEMORY
from mtrl.console import Reporter
from mtrl.evaluation import EvaluationResult, Policy
from mtrl.machine import resident_memory
from mtrl.tracking import evaluation_metrics


class Every:
    """A clock in env_steps: true once for every interval that has passed since it was asked last.

    :param env_steps: length of the interval
    """

    def __init__(self, env_steps: int) -> None:
        self.interval = self.next = env_steps

    def __call__(self, env_steps: int) -> bool:
        if env_steps < self.next:
            return False
        self.next = (env_steps // self.interval + 1) * self.interval
        return True

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"interval": self.interval, "next": self.next}

    def load_state(self, state: dict[str, int]) -> None:
        """Undo `state`; where the interval is another now, the next multiple of it after the last tick is next."""
        last = state["next"] - state["interval"]
        self.next = state["next"] if state["interval"] == self.interval else (last // self.interval + 1) * self.interval


class EvaluationCallback(BaseCallback):
    """Evaluates while training, and writes an evaluation line.

    :param measure: runs the evaluation
    :param clock: when; never at the very end of training, which the final evaluation measures better
    :param total_env_steps: where training ends
    :param reporter: is told the result
    """

    def __init__(
        self, measure: Callable[[Policy], EvaluationResult], clock: Every, total_env_steps: int, reporter: Reporter
    ) -> None:
        super().__init__()
        self.measure, self.clock, self.total, self.reporter = measure, clock, total_env_steps, reporter
        self.seconds = 0.0  # spent evaluating so far
        self.latest: float | None = None  # mean success, as measured last

    def _on_step(self) -> bool:
        if self.num_timesteps < self.total and self.clock(self.num_timesteps):
            started = time.monotonic()
            result = self.measure(self.model)
            self.seconds += time.monotonic() - started
            self.write(result, final=False)
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"clock": self.clock.state(), "seconds": self.seconds, "latest": self.latest}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.clock.load_state(state["clock"])
        self.seconds, self.latest = state["seconds"], state["latest"]

    def write(self, result: EvaluationResult, final: bool) -> None:
        """Write one evaluation line."""
        self.latest = result.success_rate
        for tag, value in evaluation_metrics(result, final).items():
            self.logger.record(tag, value)
        self.logger.dump(self.num_timesteps)
        self.reporter.evaluated(self.num_timesteps, result)


class MetricsCallback(BaseCallback):
    """Writes a line of training metrics by its clock, and shows progress at every step."""

    def __init__(self, clock: Every, reporter: Reporter) -> None:
        super().__init__()
        self.clock, self.reporter = clock, reporter
        self.written = 0  # env_steps at the last line

    def _on_step(self) -> bool:
        if self.clock(self.num_timesteps):
            self.write()
        self.reporter.step(self.num_timesteps, self.model._n_updates)
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"clock": self.clock.state(), "written": self.written}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.clock.load_state(state["clock"])
        self.written = state["written"]

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self.written:
            self.write()

    def write(self) -> None:
        """Write a line of what was measured since the last one."""
        self.logger.record(MEMORY, resident_memory() / 1e9)
        self.model.dump_logs()
        self.written = self.model.num_timesteps


def in_order(*callbacks: BaseCallback) -> CallbackList:
    """Callbacks that run one after the other at every step."""
    return CallbackList(list(callbacks))
