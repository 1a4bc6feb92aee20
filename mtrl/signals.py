"""A stop that is asked for once waits for a checkpoint; asked for twice, it does not wait."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from mtrl.errors import INTERRUPTED, RESUMABLE, RunStopped

_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: RESUMABLE, signal.SIGUSR1: RESUMABLE}
_SHOW_CURSOR = b"\x1b[?25h"


class StopRequest:
    """Turns stop signals and the end of the wall time into a `RunStopped` at a moment that suits the run.

    As a context it takes over the signals, in the main thread. Within `patiently` the run asks `due` itself; elsewhere
    a signal raises at once. A second signal ends the process without any further step.

    :param max_wall_time: seconds from now; None for no limit
    """

    def __init__(self, max_wall_time: float | None = None) -> None:
        self.deadline = None if max_wall_time is None else time.monotonic() + max_wall_time
        self.limit = max_wall_time
        self._asked: RunStopped | None = None
        self._patient = False
        self._before: dict[signal.Signals, Any] = {}

    def due(self) -> RunStopped | None:
        """The reason to stop, if there is one."""
        if self._asked is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self._asked = RunStopped(f"Stopped: max_wall_time={self.limit:g} seconds have passed", RESUMABLE)
        return self._asked

    def check(self) -> None:
        """:raises RunStopped: if there is a reason to stop"""
        if (reason := self.due()) is not None:
            raise reason

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Context that a first signal does not leave; it ends with the stop that was asked for within."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False
        self.check()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name, code = signal.Signals(number).name, _CODES[signal.Signals(number)]
        if self._asked is not None:
            _leave(f"{name} again: leaving at once; the last checkpoint is whole.\n", code)
        self._asked = RunStopped("Stopped by you" if code == INTERRUPTED else f"Stopped by {name}", code)
        if not self._patient:
            raise self._asked
        # Not print(): the signal may have come in the middle of one.
        os.write(2, f"{name}: stopping after this step, with a checkpoint. Once more leaves at once.\n".encode())


def _leave(words: str, code: int) -> None:
    """End the process now. Workers end by themselves when it is gone."""
    os.write(2, words.encode())
    if sys.stdout.isatty():
        os.write(1, _SHOW_CURSOR)
    os._exit(code)
