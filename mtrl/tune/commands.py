"""``mtrl tune`` and ``mtrl sweep``: from a command line to runs on Ray, with one line of progress after another."""

import dataclasses
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from agents.temperature import target_entropy_of
from mtrl.command_line import readable
from mtrl.compose import Composed, compose, compose_grid
from mtrl.config import RunConfig
from mtrl.console import say
from mtrl.errors import FAULT, ConfigError, RunStopped
from mtrl.lock import RunLock
from mtrl.places import require_folder
from mtrl.run_folder import RunFolder, safe_name
from mtrl.run_state import is_finished
from mtrl.sweep import FAILED, FINISHED, SKIPPED, Sweep
from mtrl.tune.bandit import require_bandit
from mtrl.tune.evolution import Outcome, ranking
from mtrl.tune.jobs import Job, Runs, toolkit_version
from mtrl.tune.on_ray import Resources, clear, do_all, require_ray
from mtrl.tune.outcome import read_finals, write_comparison, write_findings
from mtrl.tune.population import SEARCHED, Book, Settings, read_book
from mtrl.tune.search import Search
from mtrl.tune.storage import Storage

BASELINES = "baselines"


def tune(options: Namespace) -> None:
    """Search task weights, or resume a search; then train what it is compared with, and write what was found."""
    require_ray()
    folder = options.out.resolve()
    require_folder(folder, "--out")
    if not options.resume:
        settings = _settings(options)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        settings = read_book(folder).settings
        _refuse_changes(options, settings)
    lock = RunLock(folder, options.takeover)
    try:
        _search(options, folder, settings)
    finally:
        lock.release()


def _search(options: Namespace, folder: Path, settings: Settings) -> None:
    progress = _Progress()
    if options.resume:
        search = Search.resume(folder, progress.generation)
    else:
        search = Search.begin(folder, settings, progress.generation)
    resources, scratch = _resources(options), folder / "ray"
    try:
        do_all(search, resources, scratch)
    except RunStopped as stop:
        stop.then = f"mtrl tune --resume --out {options.out} resumes the search"
        raise
    search.fetch_results()
    names = [*write_findings(search), *_compare(search, resources, scratch, progress)]
    say(f"Best: member {search.best}. Written to {options.out}: {', '.join(names)}")


def _refuse_changes(options: Namespace, settings: Settings) -> None:
    """:raises ConfigError: if the command asks for another search than the one it resumes"""
    asked = list(options.overrides)
    for field in dataclasses.fields(Settings):
        value = getattr(options, field.name, None)
        value = tuple(value) if isinstance(value, list) else value
        if value not in (None, field.default, getattr(settings, field.name)):
            words = value if isinstance(value, tuple) else (value,)
            asked.append(f"--{field.name.replace('_', '-')} {' '.join(map(str, words))}")
    if asked:
        raise ConfigError(f"A search resumes with the settings it has, found {' '.join(asked)} beside --resume.")


def _settings(options: Namespace) -> Settings:
    config = compose(options.overrides)
    suite = config.make_suite()
    agent, also = config.agent, tuple(dict.fromkeys(options.also))
    settings = dataclasses.asdict(agent)
    if missing := [name for name in also if name not in settings]:
        raise ConfigError(f"--also takes settings of the agent, and agent={agent.name} has no {missing[0]}.")
    if "target_entropy" in also:  # a search moves a number
        size = fmean(suite.sizes_of_actions())  # one number for all tasks, also where their sizes differ
        entropy = target_entropy_of(settings["target_entropy"], size)
        number: dict[str, Any] = {"target_entropy": entropy}
        config = dataclasses.replace(config, agent=dataclasses.replace(agent, **number))
    _check(options, config.budget(suite.num_tasks))
    _check_config(config, options.baselines)
    if options.algorithm == "pb2":
        require_bandit()
    return Settings(
        config=config.to_dict(),
        tasks=tuple(suite.task_names),
        total_env_steps=config.budget(suite.num_tasks),
        population=options.population,
        algorithm=options.algorithm,
        metric=options.metric,
        intervals=options.intervals,
        quantile=options.quantile,
        floor=options.floor,
        weights_on=options.weights_on,
        also=also,
        baselines=tuple(dict.fromkeys(options.baselines)),
        storage=_checked_storage(options.storage),
    )


def _checked_storage(uri: str | None) -> str | None:
    """The URI of a storage that can be written.

    :raises ConfigError: if it cannot
    """
    if uri is None:
        return None
    storage = Storage(uri)
    storage.check()
    return storage.uri


def _check(options: Namespace, budget: int) -> None:
    """:raises ConfigError: for a number that no search can have"""
    if options.population < 2:
        raise ConfigError(f"--population must be at least 2, found {options.population}.")
    if not 1 <= options.intervals <= budget:
        raise ConfigError(
            f"--intervals must be from 1 to the {budget:,} env steps of a member, found {options.intervals}."
        )
    if not 0 < options.quantile <= 0.5:
        raise ConfigError(f"--quantile must be above 0 and at most 0.5, found {options.quantile:g}.")
    if not 0 <= options.floor < 1:
        raise ConfigError(f"--floor must be from 0 to below 1, found {options.floor:g}.")
    unknown = [name for name in options.also if name not in SEARCHED]
    if unknown:
        raise ConfigError(f"--also takes {' and '.join(SEARCHED)}, found {unknown[0]!r}.")


def _check_config(config: RunConfig, baselines: Sequence[str]) -> None:
    """:raises ConfigError: for what a search gives its members itself, and for a baseline that cannot be made"""
    if config.run_dir is not None:
        raise ConfigError(f"run_dir is given to members by the search, found {config.run_dir}: choose --out instead.")
    if config.balancer.name != "unitary":
        raise ConfigError(
            f"Members get their weights from the search, found balancer={config.balancer.name}: "
            "leave it out, or make it one of --baselines."
        )
    for name in baselines:
        RunConfig.from_dict({**config.to_dict(), "balancer": {"name": name}}).make_suite()


def _compare(search: Search, resources: Resources, scratch: Path, progress: "_Progress") -> list[str]:
    """Train the baselines, and write the comparison; without baselines, of the population alone."""
    book, outcomes = search.book, {}
    configs = {name: _baseline_configs(book.settings, name, search.folder) for name in book.settings.baselines}
    jobs = [
        Job(
            f"{name} seed={config.seed}",
            config.to_dict(),
            book.settings.metric,
            None,
            _log(search.folder, name, config),
            storage=book.settings.storage,
            run=_name_within(config, search.folder),
            version=toolkit_version(),
        )
        for name, group in configs.items()
        for config in group
    ]

    def told(job: Job, outcome: Outcome) -> None:
        outcomes[job.name] = outcome
        progress.run(job, outcome, len(outcomes), len(jobs))

    do_all(Runs(jobs, told), resources, scratch)
    if search.storage is not None:
        for job in jobs:
            search.storage.fetch(job.run, search.folder / job.run, checkpoints=False)
    members = [search.config(member) for member in range(book.settings.population)]
    finals = {book.settings.algorithm: read_finals(members, book.ended[-1])}
    for name, group in configs.items():
        finals[name] = read_finals(group, [outcomes[f"{name} seed={config.seed}"] for config in group])
    return write_comparison(finals, book, search.folder)


def _baseline_configs(settings: Settings, balancer: str, folder: Path) -> list[RunConfig]:
    """N seeds of a method, with the budget and all other settings of the members."""
    place = folder / BASELINES
    return [
        RunConfig.from_dict(
            {
                **settings.config,
                "balancer": {"name": balancer},
                "seed": seed,
                "run_dir": str(place / f"{safe_name(balancer)}-seed{seed}"),
            }
        )
        for seed in range(settings.seed, settings.seed + settings.population)
    ]


def _name_within(config: RunConfig, folder: Path) -> str:
    """The name of a run within a storage: its path within the folder of the search or sweep.

    :raises ConfigError: for a run whose folder is elsewhere
    """
    path = RunFolder.of(config).path.resolve()
    if not path.is_relative_to(folder):
        raise ConfigError(f"With --storage every run lies within '{folder}', found '{path}': leave run_dir out.")
    return path.relative_to(folder).as_posix()


def _log(folder: Path, name: str, config: RunConfig) -> str:
    return str(folder / "logs" / f"{safe_name(name)}-seed{config.seed}.txt")


def _resources(options: Namespace) -> Resources:
    return Resources(options.workers, options.cpus, options.gpus, options.address)


class _Progress:
    """Says how far a search is."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.heard = 0

    def generation(self, book: Book) -> None:
        """A generation has ended."""
        self.heard += 1
        intervals = book.settings.intervals
        ended, outcomes = len(book.ended), book.ended[-1]
        best = ranking(outcomes)[0]
        copies = sum(member.parent is not None for member in book.generations[-1].members) if not book.finished else 0
        faults = sum(outcome.fault is not None for outcome in outcomes)
        left = (time.monotonic() - self.began) / self.heard * (intervals - ended) / 60
        say(
            f"Generation {ended} of {intervals}: best member {best}, "
            f"{book.settings.metric} {_number(outcomes[best].metric)} "
            f"(worst task {_number(outcomes[best].worst)}); {copies} replaced"
            + (f", {faults} of them for a fault" if faults else "")
            + (f"; about {left:.1f} min left" if ended < intervals else "")
        )
        for member, outcome in enumerate(outcomes):
            if outcome.fault is not None:
                say(f"Member {member} {outcome.fault}")

    def run(self, job: Job, outcome: Outcome, count: int, total: int) -> None:
        """A run of a baseline has ended."""
        what = outcome.fault or f"{_number(outcome.metric)} by its training episodes"
        say(f"Baselines: {count} of {total} ({job.name}): {what}")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def sweep(options: Namespace) -> None:
    """Train every combination of the settings; what is finished is skipped, what is not is resumed."""
    require_ray()
    overrides = readable(options.overrides)
    points = compose_grid(overrides)
    uri = _checked_storage(options.storage)
    journal = Sweep.begin(_runs_dir(points), overrides)
    if code := _make(points, journal, _resources(options), uri):
        sys.exit(code)


def make_points(points: Sequence[Composed], resources: Resources) -> int:
    """Train runs that no single grid describes; what is finished is skipped, what is not is resumed.

    :param points: of any settings, with one ``runs_dir``
    :return: how many failed
    :raises MissingExtra: if Ray is not installed
    """
    require_ray()
    journal = Sweep.begin(_runs_dir(points), [], total=len(points))
    _make(points, journal, resources)
    return sum(not is_finished(point.config) for point in points)


def _runs_dir(points: Sequence[Composed]) -> Path:
    folders = {str(RunFolder.of(point.config).path) for point in points}
    if len(folders) < len(points):
        raise ConfigError("Runs of a sweep need a folder each: leave run_dir out.")
    return Path(points[0].config.runs_dir).resolve()


def _make(points: Sequence[Composed], journal: Sweep, resources: Resources, uri: str | None = None) -> int:
    """Make the runs that are not finished, here or in a storage; returns the exit code of the sweep."""
    runs_dir = _runs_dir(points)
    storage = None if uri is None else Storage(uri)

    def bring_results(config: RunConfig) -> None:
        if storage is not None:
            storage.fetch(_name_within(config, runs_dir), RunFolder.of(config).path, checkpoints=False)

    for point in points:
        bring_results(point.config)
    open_points = _skip_finished(points, journal)
    by_name = {point.overrides: point for point in open_points}

    def told(job: Job, outcome: Outcome) -> None:
        bring_results(by_name[job.name].config)
        journal.note(job.name, FAILED if outcome.fault else FINISHED, FAULT if outcome.fault else 0)
        say(journal.describe_run(job.name, outcome.fault or _success(by_name[job.name].config)))

    try:
        do_all(Runs(_jobs(open_points, runs_dir, uri), told), resources, _scratch(runs_dir))
    finally:
        say(journal.describe_end())
        code = journal.end()
    return code


def _skip_finished(points: Sequence[Composed], journal: Sweep) -> list[Composed]:
    left = []
    for point in points:
        if is_finished(point.config):
            journal.note(point.overrides, SKIPPED)
        else:
            left.append(point)
    if len(left) < len(points):
        say(f"Sweep: {len(points) - len(left)} of {len(points)} runs are finished already.")
    return left


def _jobs(points: Sequence[Composed], runs_dir: Path, storage: str | None) -> list[Job]:
    return [
        Job(
            name=point.overrides,
            # In full: a process elsewhere may have another working directory.
            config={**point.config.to_dict(), "run_dir": str(RunFolder.of(point.config).path.resolve())},
            metric="mean_success",
            pause_at=None,
            log=str(runs_dir / ".logs" / f"{RunFolder.of(point.config).path.name}.txt"),
            storage=storage,
            run="" if storage is None else _name_within(point.config, runs_dir),
            version=toolkit_version(),
        )
        for point in points
    ]


def _scratch(runs_dir: Path) -> Path:
    """A folder for Ray's own files; those of sweeps that were killed are removed."""
    for left in runs_dir.glob(".ray-*"):
        if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
            clear(left)
    return runs_dir / f".ray-{os.getpid()}"


def _success(config: RunConfig) -> str:
    return f"success {RunFolder.of(config).record['success_rate']:.2f}"
