"""What pausing costs: a checkpoint of a run in MT10's shape with a million transitions, and resuming from it.

``python -m benchmarks.checkpoint``. No simulator: environments of Meta-World's sizes, and a ring filled with noise. The
first checkpoint writes the whole ring; those that follow write what a hundredth of the run adds, as a run does.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from stable_baselines3.common.logger import Logger

from agents import MTSAC
from benchmarks.timing import markdown
from benchmarks.update import shapes_env
from envs import MultiTaskVecEnv
from mtrl.callbacks import EvaluationCallback, Every, MetricsCallback
from mtrl.checkpoint import CheckpointStore
from mtrl.checkpoint_callback import Checkpointer
from mtrl.config import CheckpointConfig, RunConfig
from mtrl.console import Quiet
from mtrl.run_state import LearningRun
from mtrl.signals import StopRequest
from mtrl.tracking import JsonlWriter

TASKS, TRANSITIONS = 10, 1_000_000


@dataclass(frozen=True)
class Costs:
    """Seconds.

    :param first_blocked: training was blocked by the first checkpoint, of the whole ring
    :param first_written: until it was on disk
    :param later_blocked: training was blocked by one that adds a hundredth of the ring
    :param later_written: until it was on disk
    :param resume: from an agent just built to the one that was paused
    :param megabytes: of a checkpoint
    """

    first_blocked: float
    first_written: float
    later_blocked: float
    later_written: float
    resume: float
    megabytes: float


def measure(
    transitions: int = TRANSITIONS, folder: Path | None = None, hidden_sizes: tuple[int, ...] = (400,) * 3
) -> Costs:
    """Write two checkpoints and resume from the second.

    :param transitions: in the ring, over all tasks
    :param folder: a place on the disk to be measured; None takes one for temporary files
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        run, checkpoints = _run(place, transitions, hidden_sizes)
        _fill(run.agent, transitions)
        first = _save(run, checkpoints)
        _fill(run.agent, transitions // 100)
        later = _save(run, checkpoints)
        checkpoints.close()
        other, _ = _run(place, transitions, hidden_sizes)
        began = time.perf_counter()
        newest = CheckpointStore(place / "checkpoints").newest(print)
        assert newest is not None
        other.restore(newest, newest.read())
        resume = time.perf_counter() - began
        size = sum(path.stat().st_size for path in newest.path.iterdir())
        return Costs(*first, *later, resume, size / 1e6)
    finally:
        shutil.rmtree(place)


def _run(place: Path, transitions: int, hidden_sizes: tuple[int, ...]) -> tuple[LearningRun, Checkpointer]:
    env = shapes_env(TASKS)
    agent = MTSAC(
        "MultiTaskPolicy",
        env,
        buffer_size=transitions,
        learning_starts=0,
        policy_kwargs={"hidden_sizes": list(hidden_sizes), "critic_layer_norm": True},
        seed=0,
    )
    agent.set_logger(Logger(None, []))
    metrics, clock = JsonlWriter(place / "metrics.jsonl"), Every(transitions)
    callbacks = {
        "metrics": MetricsCallback(clock, Quiet()),
        "evaluations": EvaluationCallback(_never, clock, transitions, Quiet()),
    }
    run = LearningRun(RunConfig(), agent, env, metrics, dict(callbacks))
    checkpoints = Checkpointer(
        run, CheckpointStore(place / "checkpoints"), CheckpointConfig(), transitions, StopRequest()
    )
    checkpoints.init_callback(agent)
    run.clocks["checkpoints"] = checkpoints
    return run, checkpoints


def _never(model: object) -> None:
    raise AssertionError("nothing is evaluated here")


def _fill(agent: MTSAC, transitions: int) -> None:
    """Store noise, and make an update so that optimisers have a state."""
    buffer, env = agent.replay_buffer, agent.get_env()
    assert buffer is not None and isinstance(env, MultiTaskVecEnv)
    generator = np.random.default_rng(0)
    observations = generator.random((env.num_envs, env.observation_space.shape[0]), np.float32)  # type: ignore[index]
    actions = generator.random((env.num_envs, 4), np.float32)
    flat = np.zeros(env.num_envs, np.float32)
    infos: list[dict[str, bool]] = [{} for _ in flat]
    for _ in range(max(transitions // env.num_envs, 1)):
        buffer.add(observations, observations, actions, flat, flat, infos)
    agent.num_timesteps += transitions
    agent.train(1)


def _save(run: LearningRun, checkpoints: Checkpointer) -> tuple[float, float]:
    """Seconds for which training is blocked, and until the checkpoint is written."""
    began, before = time.perf_counter(), checkpoints.seconds
    checkpoints.save()
    blocked = checkpoints.seconds - before
    checkpoints.finish()
    return blocked, time.perf_counter() - began


def report() -> str:
    """The measured table in Markdown."""
    costs = measure()
    rows = [
        [f"first checkpoint, {costs.megabytes:,.0f} MB: training blocked", f"{costs.first_blocked:.2f} s"],
        ["until it is on disk", f"{costs.first_written:.2f} s"],
        ["a later one, with 10,000 new transitions: training blocked", f"{costs.later_blocked:.3f} s"],
        ["until it is on disk", f"{costs.later_written:.2f} s"],
        ["resuming from it: checks and reads everything", f"{costs.resume:.2f} s"],
        ["share of the wall time, one a minute at most: blocked", f"{costs.later_blocked / 60:.2%}"],
        ["the same, all work of the writing thread counted", f"{costs.later_written / 60:.2%}"],
    ]
    return markdown([f"pausing, {TASKS} tasks, {TRANSITIONS:,} transitions", "measured"], rows)


if __name__ == "__main__":
    print(report())
