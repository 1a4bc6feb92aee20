"""A piece of work for a process somewhere: a run, or a run up to an env step. It travels as plain data."""

import contextlib
import dataclasses
import gc
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mtrl.errors import ConfigError
from mtrl.plugins import load_plugins, loaded_plugins
from mtrl.tune.evolution import Outcome

if TYPE_CHECKING:
    from mtrl.config import RunConfig


@dataclass(frozen=True)
class Job:
    """What is to be done.

    :param name: for people
    :param config: of a run, as a plain dict
    :param metric: what the outcome is measured by; a name of `mtrl.tune.member.METRICS`
    :param pause_at: env_steps at which the run pauses; None finishes it
    :param log: file that takes what the run prints
    :param key: whose job it is
    :param storage: URI of what machines share; None where they share a disk
    :param run: name of the run within the storage
    :param version: of the toolkit that gives the job away; None does not ask
    :param plugins: that the process has to load: those of whoever gives the job away
    """

    name: str
    config: dict[str, Any]
    metric: str
    pause_at: int | None
    log: str
    key: int = 0
    storage: str | None = None
    run: str = ""
    version: str | None = None
    plugins: tuple[str, ...] = field(default_factory=lambda: tuple(loaded_plugins()))


class Jobs(Protocol):
    """Whoever has work to give away."""

    @property
    def done(self) -> bool:
        """Whether there will be no more of it."""

    @property
    def jobs_left(self) -> int:
        """How many are still to be given away or heard of."""

    def next_job(self) -> Job | None:
        """One that nobody has; None where those that are being done have to be waited for."""

    def tell(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """What became of a job, and how long it took."""


class Runs:
    """Whole runs, each of which is a job; what becomes of one does not concern the others.

    :param jobs: in the order they are given away
    :param told: is told what became of each
    """

    def __init__(self, jobs: Iterable[Job], told: Callable[[Job, Outcome], None]) -> None:
        self._waiting = list(jobs)
        self._away = 0
        self.told = told

    @property
    def done(self) -> bool:
        return self.jobs_left == 0

    @property
    def jobs_left(self) -> int:
        return len(self._waiting) + self._away

    def next_job(self) -> Job | None:
        if not self._waiting:
            return None
        self._away += 1
        return self._waiting.pop(0)

    def tell(self, job: Job, outcome: Outcome, seconds: float = 0.0) -> None:
        self._away -= 1
        self.told(job, outcome)


def work(job: Job, threads: int) -> dict[str, Any]:
    """Do a job, in this process.

    :param threads: of the run, where its config does not say
    :return: an `Outcome` as a plain dict, with the ``seconds`` it took
    """
    from mtrl.errors import sentence

    began = time.monotonic()
    try:
        refuse_other_version(job.version)
        outcome = _train(job, threads) if job.storage is None else _train_in_storage(job, threads, job.storage)
    except Exception as error:
        outcome = Outcome(None, None, f"failed: {sentence(error)}")
    gc.collect()  # the run's simulators, hundreds of megabytes in cycles that Python would let pile up
    return {**dataclasses.asdict(outcome), "seconds": round(time.monotonic() - began, 3)}


def _train(job: Job, threads: int) -> Outcome:
    """Do a job in the folder that its config names."""
    from mtrl.config import RunConfig
    from mtrl.tune.member import train

    with _into(Path(job.log)):
        load_plugins(job.plugins)
        return train(_at_home(RunConfig.from_dict(job.config), threads), job.pause_at, job.metric)


def _train_in_storage(job: Job, threads: int, uri: str) -> Outcome:
    """Do a job in a copy of its folder on this machine."""
    from mtrl.tune.storage import Storage

    storage = Storage(uri)
    log = storage.cache / "logs" / f"{job.run}.txt"
    with storage.at_hand(job.run) as folder:
        try:
            here = {**job.config, "run_dir": str(folder)}
            return _train(dataclasses.replace(job, config=here, log=str(log)), threads)
        finally:
            storage.keep_log(job.run, log)


def toolkit_version() -> str | None:
    """The installed version of the toolkit, as its package says."""
    from mtrl.provenance import versions

    return versions()["mtrl-toolkit"]


def refuse_other_version(wanted: str | None) -> None:
    """:raises ConfigError: if the toolkit here is of another version than where the job comes from"""
    found = toolkit_version()
    if wanted is not None and found != wanted:
        raise ConfigError(
            f"Every node needs mtrl-toolkit {wanted}, as where the command was given; found {found} on "
            f"{socket.gethostname()}."
        )


def _at_home(config: "RunConfig", threads: int) -> "RunConfig":
    """The config within the cores of its job, where it does not say; the machine may have more. It shows no bars."""
    workers = threads - 1 if config.env.workers is None else config.env.workers
    return dataclasses.replace(
        config,
        env=dataclasses.replace(config.env, workers=workers),
        threads=config.threads or threads,
        tracking=dataclasses.replace(config.tracking, progress=False),
        takeover=True,
    )


@contextlib.contextmanager
def _into(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield
