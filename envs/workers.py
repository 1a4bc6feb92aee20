"""The parent's side of the worker processes: start, step, notice hangs and deaths, close without leaving anything."""

from __future__ import annotations

import mmap
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from .episodes import EnvRecipe, StepArrays
from .errors import EnvironmentFault, SuiteError
from .worker import DONE, STEP

# A simulator of this size gains nothing from threaded linear algebra, and W workers would fight over the cores.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_CODE = "import sys; sys.path[:] = {path!r}; from envs.worker import main; main({pipe}, {memory}, {lifeline})"


def _shared_file(size: int) -> int:
    """File descriptor of zeroed memory without a name: nothing can be left behind in /dev/shm, however we die."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mtrl-envs")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class _Worker:
    """One process, its pipe and its tasks."""

    def __init__(self, recipes: Sequence[EnvRecipe], shape: tuple[int, int, int], memory_fd: int) -> None:
        import cloudpickle

        # First, so that a task that cannot travel leaves no process behind.
        setup = pickle.dumps({"shape": shape, "recipes": cloudpickle.dumps(list(recipes))})
        self.indices = [recipe.index for recipe in recipes]
        self.tasks = list(dict.fromkeys(recipe.task for recipe in recipes))
        ours, theirs = socket.socketpair()
        lifeline_read, self.lifeline = os.pipe()
        path = [entry or os.getcwd() for entry in sys.path]
        code = _CODE.format(path=path, pipe=theirs.fileno(), memory=memory_fd, lifeline=lifeline_read)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(theirs.fileno(), memory_fd, lifeline_read),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        theirs.close()
        os.close(lifeline_read)
        self.pipe = Connection(ours.detach())
        self.poller = select.poll()
        self.poller.register(self.pipe.fileno(), select.POLLIN)
        self.pipe.send_bytes(setup)

    def shut(self, patience: float) -> None:
        """Close the pipe (the worker then ends by itself), and kill it when it has not ended in time."""
        self.pipe.close()
        os.close(self.lifeline)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _names(tasks: Sequence[str]) -> str:
    return ("task " if len(tasks) == 1 else "tasks ") + ", ".join(repr(task) for task in tasks)


def _shut_all(workers: list[_Worker]) -> None:
    remaining, workers[:] = list(workers), []
    deadline = time.monotonic() + 2.0
    for worker in remaining:
        worker.pipe.close()  # all before waiting for any, so that they end side by side
    for worker in remaining:
        worker.shut(max(0.0, deadline - time.monotonic()))


class WorkerPool:
    """Backend of a vector with W worker processes; worker w owns the rows w, w + W, w + 2W, ...

    :param recipes: one per environment of the vector.
    :param shape: (N, S + K, A).
    :param workers: W, at least 1.
    :param timeout: seconds after which a silent worker counts as hanging.
    """

    def __init__(
        self, recipes: Sequence[EnvRecipe], shape: tuple[int, int, int], workers: int, timeout: float = 60.0
    ) -> None:
        if not hasattr(select, "poll"):
            raise SuiteError(f"worker processes need a Unix system, found {sys.platform!r}; use workers=0")
        self.timeout = timeout
        size = StepArrays.nbytes(*shape)
        memory_fd = _shared_file(size)
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _shut_all, self._workers)
        try:
            self.arrays = StepArrays(*shape, buffer=mmap.mmap(memory_fd, size))
            for w in range(workers):
                self._workers.append(_Worker(recipes[w::workers], shape, memory_fd))
        finally:
            os.close(memory_fd)
        self._broadcast_done("building")

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode everywhere; ``seed`` restarts the goal streams first."""
        message = pickle.dumps(("reset", (), (seed,), {}))
        for worker in self._workers:
            self._send(worker, message)
        self._broadcast_done("resetting")

    def start_step(self) -> None:
        """Tell every worker to step with the actions in the arrays."""
        for worker in self._workers:
            self._send(worker, STEP)

    def wait_step(self) -> None:
        """Wait until every worker has stepped."""
        self._broadcast_done("stepping")

    def call(self, method: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call a ``do_*`` method of the owning blocks; what the environment raises is raised here."""
        import cloudpickle

        wanted = set(indices)
        shares = [(worker, [index for index in worker.indices if index in wanted]) for worker in self._workers]
        shares = [(worker, share) for worker, share in shares if share]
        for worker, share in shares:
            self._send(worker, cloudpickle.dumps((method, share, args, kwargs)))
        values: dict[int, Any] = {}
        failure: Exception | None = None
        for worker, share in shares:
            reply = pickle.loads(self._receive(worker, f"in {method!r}"))
            if reply[0] == "value":
                values.update(zip(share, reply[1], strict=True))
            else:
                failure = failure or reply[1]
        if failure is not None:
            raise failure
        return [values[index] for index in indices]

    def close(self) -> None:
        """End every worker; safe to call twice."""
        self._finalizer()

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.pipe.send_bytes(message)
        except (BrokenPipeError, ConnectionResetError):
            self._died(worker)

    def _receive(self, worker: _Worker, doing: str) -> bytes:
        if not worker.poller.poll(self.timeout * 1000):
            tasks = _names(worker.tasks)
            raise EnvironmentFault(
                f"the worker with {tasks} gave no sign of life for {self.timeout:g} s while {doing}; "
                "raise worker_timeout if the simulator is that slow"
            )
        try:
            return worker.pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            self._died(worker)
            raise AssertionError("unreachable") from None

    def _died(self, worker: _Worker) -> None:
        try:
            code: Any = worker.process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = "unknown"
        raise EnvironmentFault(f"the worker with {_names(worker.tasks)} died (exit code {code})")

    def _broadcast_done(self, doing: str) -> None:
        for worker in self._workers:
            message = self._receive(worker, doing)
            if message != DONE:
                _, error, text = pickle.loads(message)
                raise EnvironmentFault(f"{error}\n\nIn the worker:\n{text}")
