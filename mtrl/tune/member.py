"""A member of a population is an ordinary run: trained for an interval by its own command's way, copied on the disk.

Everything about a member is in its run folder. So a process that dies loses what it did since the last checkpoint, and
whoever comes next finds out there how far the member is.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from agents import NonFiniteUpdate
from mtrl.checkpoint import Checkpoint, CheckpointStore, Snapshot
from mtrl.config import RunConfig
from mtrl.errors import CheckpointError, RunPaused, sentence
from mtrl.experiment import run
from mtrl.replay_chunks import ReplaySnapshot
from mtrl.run_folder import CHECKPOINTS, FINISHED, RunFolder
from mtrl.tune.evolution import Outcome

# What a population is ranked by, from the training episodes of the last window (20 of each task): how the K values of
# the tasks become one, and which values they are.
METRICS: dict[str, tuple[str, Callable[[list[float]], Any]]] = {
    "mean_success": ("successes", np.mean),
    "worst_success": ("successes", np.min),
    "mean_return": ("returns", np.mean),
}


def newest(config: RunConfig) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None without one."""
    return CheckpointStore(RunFolder.of(config).path / CHECKPOINTS).newest(_ignore)


def train(config: RunConfig, pause_at: int | None, metric: str) -> Outcome:
    """Bring a member to the end of an interval, from wherever it stands.

    :param pause_at: env_steps at the end of the interval; None for that of the run, with its final evaluation
    :param metric: a name of `METRICS`
    """
    try:
        _advance(config, pause_at)
    except NonFiniteUpdate as error:
        return Outcome(None, None, f"diverged: {sentence(error)}")
    return measure(config, metric)


def _advance(config: RunConfig, pause_at: int | None) -> None:
    folder = RunFolder.of(config)
    if pause_at is None:
        if folder.status != FINISHED:
            run(config)
        return
    checkpoint = newest(config)
    if checkpoint is None or checkpoint.env_steps < pause_at:
        try:
            run(replace(config, tracking=replace(config.tracking, plots=False)), pause_at)
        except RunPaused:
            checkpoint = newest(config)
            if checkpoint is None or checkpoint.env_steps < pause_at:
                raise CheckpointError(
                    f"The checkpoint of step {pause_at:,} in '{folder.path}' was not written."
                ) from None


def measure(config: RunConfig, metric: str) -> Outcome:
    """How a member stands, by the training episodes that its newest checkpoint remembers."""
    checkpoint = newest(config)
    if checkpoint is None:
        return Outcome(None, None)
    values, summary = METRICS[metric]
    windows = checkpoint.read()["agent"]["progress"][values]
    if not all(windows):
        return Outcome(None, None)  # no episode of some task has ended yet
    tasks = [float(np.mean(window)) for window in windows]
    return Outcome(float(summary(tasks)), min(tasks))


def adopt(child: RunConfig, parent: RunConfig) -> None:
    """Make a member a copy of another one: its newest checkpoint becomes the other's, under the member's own config.

    Networks, optimisers, temperatures, normalisers, counters and replay are the parent's, the replay by hard links
    where the file system has them. The generators of the agent and the environments with their episodes and goals stay
    the member's own, so that two copies do not do the same. A member that has none yet takes the parent's environments,
    and generators of its own seed. While the parent stands where it stood, doing it twice changes nothing.

    :param child: with the weights that the copy continues with
    :param parent: another run of the same tasks, networks and budget
    :raises CheckpointError: if the parent has no checkpoint
    """
    source = newest(parent)
    if source is None:
        raise CheckpointError(f"'{RunFolder.of(parent).path}' holds no checkpoint to copy.")
    folder = RunFolder.of(child)
    with folder.owned(takeover=True):
        if folder.status is None:
            folder.begin(child)
        store = CheckpointStore(folder.path / CHECKPOINTS)
        store.clean()
        own = store.newest(_ignore)
        before = store.folders()
        store.latest = source  # its files are linked
        written = store.write(_copy(child, source, own))
        for path in before:
            if path != written.path:
                store.remove(path)


def _copy(child: RunConfig, source: Checkpoint, own: Checkpoint | None) -> Snapshot:
    theirs = source.read()
    ours: Mapping[str, Any] = theirs if own is None else own.read()
    generators = ours["agent"]["generators"] if own is not None else _fresh(theirs["agent"]["generators"], child.seed)
    state = dict(ours["state"])
    if own is None:
        state["metrics"] = {"bytes": 0, "unwritten": [], "seconds": state["metrics"]["seconds"]}
    replay = source.manifest["replay"]
    return Snapshot(
        env_steps=source.env_steps,
        exact=source.exact if own is None else own.exact,
        score=source.manifest["score"],
        config=child.to_dict(),
        state=state,
        agent={**theirs["agent"], "generators": generators},
        replay=ReplaySnapshot(tuple(replay["stored"]), replay["capacity"], source.chunks, None, None),
    )


def _fresh(generators: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The streams of a run of another seed, at their start."""
    from agents.randomness import Generators

    fresh = Generators(seed)
    for name in generators["streams"]:
        fresh.torch(name)
    streams = fresh.state()["streams"]
    # The state of an accelerator's stream has another form, which is only known there: it stays the parent's.
    kept = {name: state for name, state in generators["streams"].items() if len(state) != len(streams[name])}
    return {"seed": seed, "streams": {**streams, **kept}}


def _ignore(text: str) -> None:
    """A broken checkpoint is reported by the run that resumes from the one before it."""
