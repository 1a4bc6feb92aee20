"""Makes the runs of a block: what is finished is skipped, what was stopped resumes, what fails is counted."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.verdict.design import BLOCKS, PILOT_SEEDS, PRIMARY, Agent, Block, Overrides, points
from mtrl.compose import Composed, compose
from mtrl.console import say
from mtrl.machine import available_cores
from mtrl.run_folder import FINISHED, RunFolder

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Study:
    """Where a study lies, and how much of it is made.

    :param folder: of its runs, one folder inside for every suite
    :param seeds: of every method, in place of the numbers of the protocol; pilots keep theirs
    :param extra: settings for all runs, after those of the protocol; such a study is another one
    """

    folder: Path
    seeds: int | None = None
    extra: Overrides = ()

    def seeds_of(self, block: Block) -> tuple[int, ...]:
        """The seeds of a block."""
        if self.seeds is None or block.seeds == PILOT_SEEDS:
            return block.seeds
        return tuple(range(1, self.seeds + 1))

    def place(self, block: Block) -> Path:
        """The folder of the runs of a block; a pilot has one of its own, so that no comparison finds its runs."""
        return self.folder / (block.name if block.pilot else block.suite)


@dataclass(frozen=True)
class Planned:
    """A run of the study.

    :param overrides: as ``train.py`` takes them
    :param point: what they compose to
    """

    overrides: Overrides
    point: Composed

    @property
    def run(self) -> RunFolder:
        """Its folder, read again."""
        return RunFolder.of(self.point.config)


def plan(study: Study, block: Block) -> list[Planned]:
    """Every run of a block, seed by seed, so that a block that was stopped has whole seeds.

    :raises ValueError: if its methods depend on a screen that is not finished
    """
    place = f"runs_dir={study.place(block)}"
    settings = [
        (*overrides, *study.extra, place)
        for seed in study.seeds_of(block)
        for agent in block.agents
        for overrides in points(block, agent, methods_of(study, block, agent), [seed])
    ]
    configs = [compose(list(overrides)) for overrides in settings]
    return [
        Planned(overrides, Composed(RunFolder.of(config).path.name, config))
        for overrides, config in zip(settings, configs, strict=True)
    ]


def methods_of(study: Study, block: Block, agent: Agent) -> tuple[str, ...]:
    """The methods of a block: those that it names, and the best of its screen."""
    if block.screen is None:
        return block.methods
    (screen,) = (one for one in BLOCKS if one.name == block.screen)
    (judge,) = (one for one in screen.agents if one.algorithm == agent.algorithm)
    ranked = rank(study, screen, judge)
    others = [method for method in ranked if method not in block.methods]
    return (*block.methods, *others[: block.best])


def rank(study: Study, block: Block, agent: Agent) -> list[str]:
    """The methods of a finished block by their mean final success, best first; ties in the order of the protocol.

    :raises ValueError: if the block is not finished
    """
    scores: dict[str, list[float]] = {}
    for method in methods_of(study, block, agent):
        for overrides in points(block, agent, [method], study.seeds_of(block)):
            run = RunFolder.of(compose([*overrides, *study.extra, f"runs_dir={study.place(block)}"]))
            if run.status != FINISHED:
                raise ValueError(f"block {block.name} must be finished first: '{run.path.name}' is not.")
            scores.setdefault(method, []).append(float(run.record["success_rate"]))
    assert PRIMARY == "final", "the record of a run holds its final success"
    return list(pd.Series(scores).map(_mean).sort_values(ascending=False, kind="stable").index)


def make(planned: Sequence[Planned], workers: int = 1, address: str | None = None) -> int:
    """Make the runs that are not finished.

    :param workers: at a time
    :param address: of a Ray cluster; without one, runs are processes of this machine, or of Ray where more workers are
        asked for than this machine has cores
    :return: how many failed
    """
    left = [one for one in planned if one.run.status != FINISHED]
    say(f"{len(planned)} runs, {len(planned) - len(left)} of them finished.")
    if not left:
        return 0
    if address is not None or workers > available_cores():
        return _on_ray([one.point for one in left], workers, address or "auto")
    began, failed = time.monotonic(), 0
    pool = ThreadPoolExecutor(workers)
    try:
        for done, (one, code) in enumerate(pool.map(_make, left), start=1):
            failed += code != 0
            _tell(one, code, done, len(left), time.monotonic() - began)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C ends the block, and not one run of it
    return failed


def _make(one: Planned) -> tuple[Planned, int]:
    """One run as a process of its own, whose output lies beside it."""
    folder = one.run.path
    log = folder.parent.parent / "logs" / f"{folder.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *one.overrides],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    return one, process.returncode


def _tell(one: Planned, code: int, done: int, total: int, seconds: float) -> None:
    run = one.run
    what = f"success {run.record['success_rate']:.2f}" if code == 0 else f"failed, exit code {code}"
    left = seconds / done * (total - done) / 60
    say(f"{done} of {total}: {run.path.name}: {what}; about {left:.0f} min left")


def _on_ray(open_points: Iterable[Composed], workers: int, address: str) -> int:
    from mtrl.tune.commands import make_points
    from mtrl.tune.on_ray import Resources

    return make_points(list(open_points), Resources(workers=workers, address=address))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
