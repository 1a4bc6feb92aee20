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

_CODES = {
    signal.SIGINT: INTERRUPTED,
    signal.SIGTERM: RESUMABLE,
    signal.SIGUSR1: RESUMABLE,  # what SLURM can be told to send
    signal.SIGHUP: RESUMABLE,  # the terminal was closed
}
_SHOW_CURSOR = b"\x1b[?25h"
_SAME_REQUEST = 0.25  # seconds within which a signal is the first one again, passed on by a launcher that got it too


class StopRequest:
    """Turns stop signals and the end of the wall time into a `RunStopped` at a moment that suits the run.

    As a context it takes over the signals, in the main thread. Within `patiently` the run asks `due` itself; elsewhere
    a signal raises at once. A second signal ends the process without any further step, unless it comes with the first.

    :param max_wall_time: seconds from now; None for no limit
    """

    def __init__(self, max_wall_time: float | None = None) -> None:
        self.deadline = None if max_wall_time is None else time.monotonic() + max_wall_time
        self.limit = max_wall_time
        self._asked: RunStopped | None = None
        self._signalled: float | None = None  # when the first signal came
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
            under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            heard = [number for number in _CODES if not (under_nohup and number == signal.SIGHUP)]
            self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name, code, now = signal.Signals(number).name, _CODES[signal.Signals(number)], time.monotonic()
        if self._signalled is not None:
            if now - self._signalled >= _SAME_REQUEST:
                _leave(f"{name} again: leaving at once; whatever checkpoint was written is whole.\n", code)
            return
        self._signalled = now
        by = "Stopped by you" if code == INTERRUPTED else f"Stopped by {name}"
        self._asked = RunStopped(by, code, by_signal=True)
        if not self._patient:
            raise self._asked
        _tell(f"{name}: stopping after this step, with a checkpoint. Once more leaves at once.\n")


def _tell(words: str) -> None:
    """Write to the terminal or the log, if it is still there: a stop must not fail for want of a reader."""
    # Not print(): the signal may have come in the middle of one.
    with contextlib.suppress(OSError):
        os.write(2, words.encode())


def _leave(words: str, code: int) -> None:
    """End the process now. Workers end by themselves when it is gone."""
    _tell(words)
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            os.write(1, _SHOW_CURSOR)
    os._exit(code)
