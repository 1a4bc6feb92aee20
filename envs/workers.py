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

from .backend import Backend, Request
from .episodes import EnvRecipe, StepArrays
from .errors import EnvironmentFault, SuiteError, WorkerTraceback
from .faults import Fault, rows_of
from .worker import DONE, STEP

# A simulator of this size gains nothing from threaded linear algebra, and W workers would fight over the cores.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
START_SECONDS = 60.0  # that a worker always has: it imports first, perhaps on a busy machine
BUILT_AT_START = 10  # environments that it must be able to build in that time
_CODE = "import sys; sys.path[:] = {path!r}; from envs.worker import main; main({pipe}, {memory}, {lifeline})"


class _Deadline:
    """A moment some seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._moment = time.monotonic() + seconds

    def milliseconds_left(self) -> float:
        return max(0.0, self._moment - time.monotonic()) * 1000


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
        self.recipes = list(recipes)
        self.indices = [recipe.index for recipe in recipes]
        self.lost = False  # hangs or has died: nothing more is to be expected of it
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


def _shut_all(workers: list[_Worker], memory_fd: int) -> None:
    os.close(memory_fd)
    remaining, workers[:] = list(workers), []
    deadline = time.monotonic() + 2.0
    for worker in remaining:
        worker.pipe.close()  # all before waiting for any, so that they end side by side
    for worker in remaining:
        worker.shut(max(0.0, deadline - time.monotonic()))


class WorkerPool(Backend):
    """Backend of a vector with W worker processes; worker w owns the rows w, w + W, w + 2W, ...

    :param recipes: one per environment of the vector.
    :param shape: (N, S + K, A).
    :param workers: W, at least 1.
    :param timeout: seconds after which a silent worker counts as hanging.
    """

    saved_whole = False

    def __init__(
        self, recipes: Sequence[EnvRecipe], shape: tuple[int, int, int], workers: int, timeout: float = 60.0
    ) -> None:
        if not hasattr(select, "poll"):
            raise SuiteError(f"worker processes need a Unix system, found {sys.platform!r}; use workers=0")
        self.workers, self.timeout, self.shape = workers, timeout, shape
        size = StepArrays.nbytes(*shape)
        self._memory_fd = _shared_file(size)
        self._workers: list[_Worker] = []
        self._early: list[Fault] = []  # noticed before a step was waited for, and reported then
        self._finalizer = weakref.finalize(self, _shut_all, self._workers, self._memory_fd)
        try:
            self.arrays = StepArrays(*shape, buffer=mmap.mmap(self._memory_fd, size))
            for w in range(workers):
                self._workers.append(_Worker(recipes[w::workers], shape, self._memory_fd))
            faults = self._wait("building", self._until_built(len(recipes) / workers))
        except BaseException:
            self.close()
            raise
        if faults:
            self.close()
            raise faults[0].error()

    def reset(self, seed: int | None = None) -> list[Fault]:
        """Begin an episode everywhere; ``seed`` restarts the goal streams first."""
        early, self._early = self._early, []
        return early + self._tell(self._workers, "reset", seed) + self._wait("resetting")

    def start_step(self) -> None:
        """Tell every worker to step with the actions in the arrays."""
        for worker in self._workers:
            self._early += self._send(worker, STEP)

    def wait_step(self) -> list[Fault]:
        """Wait until every worker has stepped."""
        early, self._early = self._early, []
        return early + self._wait("stepping")

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> list[Fault]:
        """Rebuild environments, with new streams of goals, and begin an episode in each.

        A lost worker is replaced by a new process with all its environments.

        :param rows: rows of the vector; all of a lost worker's.
        :param seeds: of the new streams, one per row.
        """
        seed_of, faults = dict(zip(rows, seeds, strict=True)), []
        for place, worker in enumerate(self._workers):
            share = [row for row in worker.indices if row in seed_of]
            if not share:
                continue
            if worker.lost:
                worker = self._replace(place, seed_of)
                faults += self._faults(worker, "building", self._until_built(len(worker.indices)))
                faults += self._tell([worker], "reset", None)
            else:
                faults += self._tell([worker], "restart", share, [seed_of[row] for row in share])
            faults += self._faults(worker, "building", self._until_built(len(worker.indices)))
        return faults

    def _replace(self, place: int, seed_of: dict[int, int]) -> _Worker:
        worker = self._workers[place]
        worker.shut(patience=0.0)
        for recipe in worker.recipes:
            recipe.schedule.reseed(seed_of[recipe.index])
        self.arrays.busy[worker.indices] = False
        self._workers[place] = _Worker(worker.recipes, self.shape, self._memory_fd)
        return self._workers[place]

    def call(self, request: Request, rows: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Have the owning blocks answer; what the environment raises is raised here.

        :raises EnvironmentFault: for workers that are lost, once the others have answered; the next step or reset
            reports them
        """
        import cloudpickle

        wanted = set(rows)
        shares = [(worker, [row for row in worker.indices if row in wanted]) for worker in self._workers]
        shares = [(worker, share) for worker, share in shares if share]
        faults: list[Fault] = []
        for worker, share in shares:
            faults += self._send(worker, cloudpickle.dumps((request, share, args, kwargs)))
        values: dict[int, Any] = {}
        failure: Exception | None = None
        for worker, share in shares:
            if worker.lost:
                continue
            message = self._receive(worker, f"in {request!r}", self._deadline())
            if isinstance(message, Fault):
                faults.append(message)
                continue
            reply = pickle.loads(message)
            if reply[0] == "value":
                values.update(zip(share, reply[1], strict=True))
            elif failure is None:
                failure = reply[1]
                failure.__cause__ = WorkerTraceback(reply[2])
        self._early += faults
        lost = [fault for fault in self._early if wanted.intersection(fault.rows)]
        if lost:
            raise EnvironmentFault(lost[0].sentence, rows_of(lost))
        if failure is not None:
            raise failure
        return [values[row] for row in rows]

    def close(self) -> None:
        """End every worker; safe to call twice."""
        self._finalizer()

    def _deadline(self) -> _Deadline:
        return _Deadline(self.timeout)

    def _until_built(self, environments: float) -> _Deadline:
        return _Deadline(max(self.timeout, START_SECONDS) * max(1.0, environments / BUILT_AT_START))

    def _tell(self, workers: Sequence[_Worker], command: str, *args: Any) -> list[Fault]:
        message = pickle.dumps((command, (), args, {}))
        return [fault for worker in workers for fault in self._send(worker, message)]

    def _send(self, worker: _Worker, message: bytes) -> list[Fault]:
        if not worker.lost:
            try:
                worker.pipe.send_bytes(message)
            except (BrokenPipeError, ConnectionResetError):
                return [self._died(worker)]
        return []

    def _wait(self, doing: str, deadline: _Deadline | None = None) -> list[Fault]:
        """What went wrong in the workers until all of them were done, all having the same time for it."""
        deadline = deadline or self._deadline()
        return [fault for worker in self._workers for fault in self._faults(worker, doing, deadline)]

    def _faults(self, worker: _Worker, doing: str, deadline: _Deadline) -> list[Fault]:
        if worker.lost:
            return []
        message = self._receive(worker, doing, deadline)
        if message == DONE:
            return []
        if isinstance(message, Fault):
            return [message]
        kind, *said = pickle.loads(message)
        if kind == "faults":
            return said[0]
        worker.lost = True  # it could not build its environments, and ends
        error, trace = said
        what = str(error)  # of a block it names the task
        if not isinstance(error, EnvironmentFault):
            what = f"the worker with {_names(worker.tasks)} could not be set up: {type(error).__name__}: {error}"
        return [Fault(tuple(worker.indices), tuple(worker.tasks), what, trace=trace)]

    def _receive(self, worker: _Worker, doing: str, deadline: _Deadline) -> bytes | Fault:
        if not worker.poller.poll(deadline.milliseconds_left()):
            silence = f"gave no sign of life for {deadline.seconds:g} s while {doing}{self._culprit(worker)[1]}"
            return self._lose(worker, f"{silence}; raise worker_timeout if the simulator is that slow")
        try:
            return worker.pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            return self._died(worker)

    def _died(self, worker: _Worker) -> Fault:
        try:
            code: Any = worker.process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = "unknown"
        return self._lose(worker, f"died (exit code {code}){self._culprit(worker)[1]}")

    def _lose(self, worker: _Worker, what: str) -> Fault:
        worker.lost = True
        named, _ = self._culprit(worker)
        return Fault(tuple(worker.indices), named, f"the worker with {_names(worker.tasks)} {what}")

    def _culprit(self, worker: _Worker) -> tuple[tuple[str, ...], str]:
        """The task that the worker was busy with, and the words for it; all its tasks where it was with none."""
        busy = [recipe.task for recipe in worker.recipes if self.arrays.busy[recipe.index]]
        if busy and len(worker.tasks) > 1:
            return (busy[0],), f", in task {busy[0]!r}"
        return tuple(worker.tasks), ""
