"""What simulation takes, alone and beside the learner; threads and workers; a run of four minutes."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import tags
from benchmarks.accelerator.setup import Row, Setup
from benchmarks.accelerator.updates import agent_of, update_of
from benchmarks.pipeline import WARMUP, LearningLoop, changed
from mtrl.build import make_training_env, use_threads
from mtrl.compose import compose
from mtrl.errors import RunStopped
from mtrl.experiment import run
from mtrl.machine import available_cores, learning_threads
from mtrl.run_folder import RunFolder
from mtrl.tracking import METRICS_FILE

Measurement = tuple[str, Callable[[], Any]]
SHORT = {"replay_per_task": 5_000, "warmup_steps_per_task": WARMUP}


def env_steps(setup: Setup) -> Iterator[Measurement]:
    """Steps of random actions, by the number of workers."""
    for name, suite in setup.suites.items():
        for workers in setup.workers:
            yield f"{name}, W = {workers}", partial(_step, setup, suite, workers)


def _step(setup: Setup, suite: tuple[str, ...], workers: int) -> Row:
    config = compose([*suite, f"env.workers={workers}", *setup.overrides])
    env = make_training_env(config, config.make_suite())
    try:
        size = (4 * setup.vector_steps, env.num_envs, env.action_space.shape[0])
        actions = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
        env.reset()
        began = time.perf_counter()
        for action in actions:
            env.step(action)
        seconds = time.perf_counter() - began
    finally:
        env.close()
    return {"env steps/s": round(size[0] * size[1] / seconds)}


def end_to_end(setup: Setup) -> Iterator[Measurement]:
    """The presets for an accelerator, as they train."""
    for name, overrides in setup.presets.items():
        yield name, partial(_learn, setup, overrides)


def _learn(setup: Setup, overrides: tuple[str, ...], workers: int | None = None) -> Row:
    chosen = [] if workers is None else [f"env.workers={workers}"]
    config = changed(compose([*overrides, *chosen, *setup.overrides]), {"agent": SHORT})
    use_threads(config)
    loop = LearningLoop(config)
    try:
        began = time.perf_counter()
        loop.learn(setup.vector_steps)
        seconds = time.perf_counter() - began
        return {
            "env steps/s": round(setup.vector_steps * loop.env.num_envs / seconds),
            "ms per vector step": round(seconds / setup.vector_steps * 1e3, 1),
            "workers": loop.env.workers,
            "threads": torch.get_num_threads(),
        }
    finally:
        loop.close()


def choices(setup: Setup) -> Iterator[Measurement]:
    """Threads of a learner on the CPU, and workers beside one on the device, on the cores that this process has."""
    cores, name = available_cores(), next(iter(setup.suites))
    learner = (*setup.suites[name], "agent=mtsac", *setup.overrides)

    def update(threads: int) -> Row:
        torch.set_num_threads(threads)
        agent = agent_of(setup, (*setup.suites[name], "agent=mtsac", "device=cpu"), "float32")
        chosen = "chosen" if threads == learning_threads(cores) else ""
        return {"ms": Setup.time(_on_cpu(setup), update_of(agent))["ms"], "note": chosen}

    for threads in sorted({max(cores // 4, 1), max(cores // 2, 1), max(cores * 3 // 4, 1), cores}):
        yield f"update on the CPU, {threads} threads", partial(update, threads)
    for workers in sorted({1, max(cores // 4, 1), max(cores // 2, 1), max(cores - 1, 1)}):
        yield f"training on {setup.device}, {workers} workers", partial(_learn, setup, learner, workers)


def _on_cpu(setup: Setup) -> Setup:
    return Setup(device="cpu", rounds=setup.rounds, calls=setup.calls)


def training(setup: Setup, out: Path) -> Iterator[Measurement]:
    """One run, with its curve of success in training episodes and evaluations."""

    def train() -> list[Row]:
        config = compose([*setup.training, *setup.overrides, f"run_dir={out / 'training'}", *QUIET])
        with contextlib.suppress(RunStopped):  # at the end of its time
            run(config, setup.pause_at)
        return curve(RunFolder.of(config).path)

    yield "the run", train


QUIET = ("tracking.progress=false", "tracking.tensorboard=false", "tracking.plots=false", "takeover=true")


def curve(folder: Path, points: int = 20) -> list[Row]:
    """Mean success of the training episodes of a run, at some env steps; and every evaluation."""
    rows: list[Row] = []
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    learned = [line for line in lines if any(key.startswith(tags.ROLLOUT_SUCCESS) for key in line)]
    for line in learned[:: max(len(learned) // points, 1)] + [line for line in lines if tags.EVAL_SUCCESS_RATE in line]:
        found = [value for key, value in line.items() if key.startswith(tags.ROLLOUT_SUCCESS)]
        success = line.get(tags.EVAL_SUCCESS_RATE, float(np.mean(found)) if found else None)
        rows.append(
            {
                "what": "evaluation" if tags.EVAL_SUCCESS_RATE in line else "training episodes",
                "env steps": line[tags.ENV_STEPS],
                "seconds": round(line.get(tags.WALL_TIME, 0.0), 1),
                "success": round(success, 3),
            }
        )
    return sorted(rows, key=lambda row: row["env steps"])
