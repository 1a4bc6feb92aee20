"""When a run is written down: by its clock, at an exact moment, beside the training; and before it stops."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from mtrl.callbacks import Every
from mtrl.checkpoint import Checkpoint, CheckpointStore, Snapshot
from mtrl.config import CheckpointConfig
from mtrl.console import say, without_harm
from mtrl.errors import CheckpointError, RunPaused
from mtrl.run_state import LearningRun
from mtrl.signals import StopRequest

CHECKPOINTS_PER_RUN = 100  # in a run whose config names no interval
LEAST_SECONDS = 60.0  # between two of them, there
RETRY_SECONDS = 60.0  # after one that could not be written
PATIENCE = 1000  # rounds of learning that are waited for an exact moment, at most


class Checkpointer(BaseCallback):
    """Takes snapshots between two rounds of learning, where nothing is in flight, and writes them in a thread.

    Training is blocked while the snapshot is copied, not while it is written. A checkpoint that cannot be written is
    tried again; training continues.

    :param run: what is written down
    :param store: where
    :param settings: when
    :param total_env_steps: where training ends
    :param stop: may ask for a last checkpoint
    :param pause_at: env_steps from which on the run pauses, at the next exact moment; None for never
    """

    def __init__(
        self,
        run: LearningRun,
        store: CheckpointStore,
        settings: CheckpointConfig,
        total_env_steps: int,
        stop: StopRequest,
        pause_at: int | None = None,
    ) -> None:
        super().__init__()
        self.run, self.store, self.stop, self.pause_at = run, store, stop, pause_at
        self.clock = Every(settings.every_env_steps or max(total_env_steps // CHECKPOINTS_PER_RUN, 1))
        self.least_seconds = LEAST_SECONDS if settings.every_env_steps is None else 0.0
        self.patience = min(run.env.horizon, PATIENCE) if settings.exact else 0
        self.seconds = 0.0  # for which training was blocked
        self.written = 0
        self._wanted, self._waited, self._failing = False, 0, False
        self._not_before = time.monotonic() + self.least_seconds
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Checkpoint] | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"clock": self.clock.state(), "seconds": self.seconds, "written": self.written}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.clock.load_state(state["clock"])
        self.seconds, self.written = state["seconds"], state["written"]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._writing is not None and self._writing.done():
            self.finish()
        if self.stop.due() is not None:
            self.save(wait=True)
            self.stop.check()
        pausing = self.pause_at is not None and self.model.num_timesteps >= self.pause_at
        self._wanted |= self.clock(self.model.num_timesteps)
        if pausing or (self._wanted and self._writing is None and time.monotonic() >= self._not_before):
            if self.run.env.restorable or self._waited >= self.patience:
                self.save(wait=pausing)
                if pausing:
                    raise RunPaused(self.model.num_timesteps)
            else:
                self._waited += 1

    def _on_training_end(self) -> None:
        self.save()

    def after_fault(self) -> None:
        """Write down what there is when the environments have ended the training; not exact, for a step was lost."""
        if self.run.env.ended_by_fault:
            without_harm("Writing the last checkpoint", self.save, wait=True)

    def close(self) -> None:
        """Wait for the checkpoint that is being written."""
        if self._writing is not None:
            self.finish()
        self._writer.shutdown()

    def save(self, wait: bool = False) -> None:
        """Take a snapshot and have it written, unless this very moment is written already.

        :param wait: until it is written
        """
        began = time.monotonic()
        if self._writing is not None:
            self.finish()
        latest = self.store.latest
        if self.model.num_timesteps > (0 if latest is None else latest.env_steps):
            self._wanted, self._waited = False, 0
            self._not_before = began + self.least_seconds
            snapshot = self.run.snapshot(() if latest is None else latest.chunks)
            self._writing = self._writer.submit(self._write, snapshot)
            if wait and not self.finish() and self.store.latest is None:
                # What was to be linked is gone: this time all is written.
                self._writing = self._writer.submit(self._write, self.run.snapshot(()))
                self.finish()
        self.seconds += time.monotonic() - began

    def _write(self, snapshot: Snapshot) -> Checkpoint:
        self.run.metrics.sync()  # the checkpoint will say how much of it there is
        return self.store.write(snapshot)

    def finish(self) -> bool:
        """Hear what became of the checkpoint that was being written; whether it was."""
        assert self._writing is not None
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except (OSError, CheckpointError) as error:
            if not self._failing:
                reason = getattr(error, "strerror", None) or error
                say(f"Warning: no checkpoint can be written ({reason}); {self._fallback()}")
            self._failing, self._wanted = True, True
            self._not_before = time.monotonic() + RETRY_SECONDS
            return False
        self.written += 1
        if self._failing:
            say("Checkpoints can be written again.")
        self._failing = False
        return True

    def _fallback(self) -> str:
        latest = self.store.latest
        last = "there is none before it" if latest is None else f"the last one is of step {latest.env_steps:,}"
        return f"training continues and tries again every minute; {last}."
