"""Jobs on Ray Tune: every job is a trial, processes stay warm between trials, and one that dies is started again.

Nothing is ever restored from Ray's own files: what a search or sweep must remember is in its folder, and what a run
must remember in its own. So Ray may lose everything at any moment.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mtrl.errors import INTERRUPTED, RESUMABLE, ConfigError, MissingExtra, RunStopped
from mtrl.tune.evolution import Outcome
from mtrl.tune.jobs import Job, Jobs, toolkit_version, work

OBJECT_STORE = 80 * 2**20  # bytes; jobs and outcomes are a few kilobytes each, and Ray wants 75 MB at least
_PLACE, _PREFIX = "ray-is-in.txt", "mtrl-ray-"
KNOCK_SECONDS = 15.0  # for the head of a cluster to answer
NODE_SECONDS = 120.0  # for a node to say which version it has
STARTS = 3  # of a job whose process dies, the first one included
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing
    "RAY_AIR_NEW_OUTPUT": "0",  # whose frames ignore verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # no GPU asked for, none seen
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
}


@dataclass(frozen=True)
class Resources:
    """Where the jobs are done.

    :param workers: how many at a time on this machine; None takes what there is
    :param cpus: cores of a job
    :param gpus: of a job; a fraction lets several share one
    :param address: of a running cluster, or ``auto``; None starts Ray here
    """

    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None


def do_all(jobs: Jobs, resources: Resources, scratch: Path) -> None:
    """Do jobs until there are none.

    :param scratch: folder for Ray's own files, removed at the end
    :raises MissingExtra: if Ray is not installed
    :raises RunStopped: if it was interrupted
    """
    if jobs.done:
        return
    clear(scratch)  # of a process that was killed
    scratch.mkdir(parents=True)
    try:
        with _ray(resources, scratch):
            _tune(jobs, resources, scratch)
    finally:
        clear(scratch)
    if not jobs.done:
        raise RunStopped("Stopped by you", INTERRUPTED)


def clear(scratch: Path) -> None:
    """Remove Ray's own files: those in the scratch folder, and those in the temporary folder that is named there."""
    with contextlib.suppress(OSError):
        place = Path((scratch / _PLACE).read_text(encoding="utf-8"))
        if place.parent == Path(tempfile.gettempdir()) and place.name.startswith(_PREFIX):
            shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)


def _tune(jobs: Jobs, resources: Resources, scratch: Path) -> None:
    from ray import tune

    bundle = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
    source = _searcher(jobs)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(), bundle),
        tune_config=tune.TuneConfig(
            search_alg=source,
            num_samples=jobs.jobs_left,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch.resolve()),
            failure_config=tune.FailureConfig(max_failures=STARTS - 1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
            verbose=0,
        ),
    )
    tuner.fit()
    if source.error is not None:
        raise source.error


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _searcher(jobs: Jobs) -> Any:
    """Ray's view of the jobs: it asks for the next one, and tells what became of each."""
    from ray.tune.search import Searcher

    class Source(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="metric", mode="max")
            self.given: dict[str, Job] = {}
            self.error: Exception | None = None  # of whoever has the jobs: Ray would bury it in one of its own

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if jobs.done or self.error is not None:
                return Searcher.FINISHED
            job = jobs.next_job()
            if job is None:
                return None
            self.given[trial_id] = job
            # As text: Ray looks for search spaces within dictionaries.
            return {"job": json.dumps(dataclasses.asdict(job))}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            outcome, seconds = Outcome(None, None, f"failed: its process died {STARTS} times"), 0.0
            if not error and result is not None:
                outcome, seconds = Outcome(result["metric"], result["worst"], result["fault"]), result["seconds"]
            try:
                jobs.tell(self.given.pop(trial_id), outcome, seconds)
            except Exception as problem:
                self.error = problem

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the jobs remember for themselves."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: see `save`."""

    return Source()


def _trainable() -> type:
    from ray import tune

    class Worker(tune.Trainable):
        """A process that does one job after the other."""

        def setup(self, config: dict[str, Any]) -> None:
            self.job = Job(**json.loads(config["job"]))

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            cpus = self.trial_resources.required_resources.get("CPU", 1)
            return {**work(self.job, threads=max(int(cpus), 1)), "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: a run's checkpoints are in its folder."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing: see `save_checkpoint`."""

    return Worker


@contextlib.contextmanager
def _ray(resources: Resources, scratch: Path) -> Iterator[None]:
    """Context in which Ray runs: started here without dashboard and telemetry, or joined."""
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    ray = require_ray()
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if resources.address is not None:
        _join(ray, resources.address, quiet)
    else:
        place = tempfile.mkdtemp(prefix=_PREFIX)  # a short path: sockets lie in it
        (scratch / _PLACE).write_text(place, encoding="utf-8")
        cores = None if resources.workers is None else max(round(resources.workers * resources.cpus), 1)
        ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE, _temp_dir=place, **quiet)
    before = signal.signal(signal.SIGTERM, _stop)  # Ray's own handler leaves its files behind
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def _join(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    """Join a cluster whose nodes have this version of the toolkit.

    :raises ConfigError: if none answers, or a node has no toolkit, or one of another version
    """
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--address must be that of a running Ray cluster, found {address!r}, where none answers: "
            "`ray start --head` starts one."
        ) from error
    try:
        _check_nodes(ray)
    except ConfigError:
        ray.shutdown()
        raise


def _knock(address: str) -> None:
    """:raises OSError: if nobody listens at ``host:port``; Ray itself would try for minutes"""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def _check_nodes(ray: Any) -> None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def version_there() -> str | None:  # travels as code: the toolkit need not be there
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("mtrl-toolkit")
        except PackageNotFoundError:
            return None

    here = toolkit_version()
    asked = ray.remote(version_there)
    answers = {
        node["NodeManagerAddress"]: asked.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in ray.nodes()
        if node["Alive"]
    }
    for node, answer in answers.items():
        try:
            found = ray.get(answer, timeout=NODE_SECONDS)
        except Exception:  # a node that has gone since: its jobs are done by others
            continue
        if found != here:
            raise ConfigError(
                f"Every node needs mtrl-toolkit {here}, as where the command was given; found "
                f"{'no toolkit' if found is None else found} on {node}."
            )


def _stop(number: int, frame: FrameType | None) -> None:
    raise RunStopped("Stopped by SIGTERM", RESUMABLE)


def require_ray() -> Any:
    """Ray itself.

    :raises MissingExtra: if Ray Tune is not installed
    """
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise MissingExtra(
            f"mtrl tune and mtrl sweep need Ray Tune, and {error.name} is not installed: "
            "pip install 'mtrl-toolkit[tune]'."
        ) from error
    return ray
