"""A worker process: builds its share of the environments, then obeys the parent until the pipe closes.

Started as ``python -c "from envs.worker import main; main(...)"`` rather than through ``multiprocessing``: the user's
script is not imported again (no ``if __name__ == "__main__"`` needed, no torch in the workers), and nothing is forked
from a parent that may have threads.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .block import EnvBlock
    from .faults import Fault

# One byte each for the calls of the inner loop; everything else is a pickled tuple.
STEP, DONE = b"s", b"d"


def main(pipe_fd: int, memory_fd: int, lifeline_fd: int) -> None:
    """Entry point of the worker.

    :param pipe_fd: our end of the two-way pipe of commands and replies.
    :param memory_fd: file descriptor of the shared arrays.
    :param lifeline_fd: read end of a pipe that nobody writes to; it closes when the parent is gone.
    """
    # A stop signal often reaches every process of a job; the parent decides what it means and closes the pipe.
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, args=(lifeline_fd,), daemon=True).start()
    pipe = Connection(pipe_fd)
    # The parent closing the pipe is the normal way to end.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(pipe, memory_fd)


def _follow_parent(lifeline_fd: int) -> None:
    # A worker stuck inside a simulator never reads the pipe again, so a thread waits for the parent's death.
    os.read(lifeline_fd, 1)
    os._exit(0)


def _serve(pipe: Connection, memory_fd: int) -> None:
    block = None
    try:
        block = _build(pipe, memory_fd)
        if block is None:
            return
        while True:
            message = pipe.recv_bytes()
            if message == STEP:
                _tell(pipe, block.wait_step())
            else:
                _obey(pipe, block, pickle.loads(message))
    finally:
        if block is not None:
            block.close()


def _build(pipe: Connection, memory_fd: int) -> EnvBlock | None:
    """Receive the share, build it, say that it is ready. None when that failed (the parent has been told)."""
    setup = pickle.loads(pipe.recv_bytes())
    try:
        import cloudpickle

        from .block import EnvBlock
        from .episodes import StepArrays

        shape: tuple[int, int, int] = setup["shape"]
        recipes = cloudpickle.loads(setup["recipes"])
        arrays = StepArrays(*shape, buffer=mmap.mmap(memory_fd, StepArrays.nbytes(*shape)))
        block = EnvBlock(recipes, arrays)
    except Exception as error:
        pipe.send_bytes(_error_reply(error))
        return None
    pipe.send_bytes(DONE)
    return block


def _tell(pipe: Connection, faults: list[Fault]) -> None:
    """Say that it is done, or what went wrong."""
    pipe.send_bytes(pickle.dumps(("faults", [fault.to_travel() for fault in faults])) if faults else DONE)


def _obey(pipe: Connection, block: EnvBlock, command: tuple[Any, Any, tuple[Any, ...], dict[str, Any]]) -> None:
    name, _, args, _ = command
    if name == "reset":
        _tell(pipe, block.reset(*args))
    elif name == "restart":
        _tell(pipe, block.restart(*args))
    else:
        _answer(pipe, block, command)


def _answer(pipe: Connection, block: EnvBlock, command: tuple[Any, Any, tuple[Any, ...], dict[str, Any]]) -> None:
    request, rows, args, kwargs = command
    try:
        reply = pickle.dumps(("value", block.call(request, rows, *args, **kwargs)))
    except Exception as error:
        reply = _error_reply(error)
    pipe.send_bytes(reply)


def _error_reply(error: Exception) -> bytes:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some exceptions cannot travel; their words can
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return pickle.dumps(("error", error, text))
