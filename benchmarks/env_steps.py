"""Environment steps per second on MT10: ours with 0, 1 and 2 workers against Meta-World's own vector environments.

``fast=false`` is our vector over Meta-World's stock steps; what the others gain is due to ``envs/metaworld_fast.py``.

``python -m benchmarks.env_steps``. All contenders are built first and then take turns within one process run, so that a
change of the machine's speed meets all of them alike. A step of the vector counts as ten environment steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

BASELINE = "metaworld sync"
Stepper = Callable[[np.ndarray], Any]


@contextmanager
def _official(strategy: str) -> Iterator[Stepper]:
    import gymnasium
    import metaworld  # noqa: F401  (registers the ids)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Meta-World's one-hot wrapper mixes float types and says so per environment
        env = gymnasium.make_vec("Meta-World/MT10", seed=1, vector_strategy=strategy, use_one_hot=True)
    env.reset()
    try:
        yield env.step
    finally:
        env.close()


@contextmanager
def _ours(workers: int, fast: bool = True) -> Iterator[Stepper]:
    from envs import make_suite

    env = make_suite("mt10", fast=fast).make_vec_env(seed=1, workers=workers)
    env.reset()
    try:
        yield env.step
    finally:
        env.close()


def _contenders(workers: tuple[int, ...]) -> dict[str, Any]:
    official = {f"metaworld {strategy}": _official(strategy) for strategy in ("sync", "async")}
    ours = {f"ours W={count}": _ours(count) for count in workers}
    return {**official, "ours W=0, fast=false": _ours(0, fast=False), **ours}


def _time(step: Stepper, actions: np.ndarray) -> float:
    began = time.perf_counter()
    for action in actions:
        step(action)
    return actions.shape[0] * actions.shape[1] / (time.perf_counter() - began)


def measure(rounds: int = 7, vector_steps: int = 200, workers: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, Any]]:
    """Time every contender ``rounds`` times, in turns.

    :param rounds: turns per contender; the median counts.
    :param vector_steps: steps of the vector per turn, resets included where an episode of 500 ends.
    :param workers: worker counts of ours to measure.
    :return: one row per contender: ``name``, ``env_steps_per_second`` (median), ``lowest``, ``highest``, and ``ratio``:
        the median over rounds of the ratio to Meta-World's sync vector environment in the same round.
    """
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (vector_steps, 10, 4)).astype(np.float32)
    speeds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        steppers = {name: stack.enter_context(build) for name, build in _contenders(workers).items()}
        for step in steppers.values():
            _time(step, actions[:20])  # warm caches, not counted
        for _ in range(rounds):
            for name, step in steppers.items():
                speeds.setdefault(name, []).append(_time(step, actions))
    return [_row(name, measured, speeds[BASELINE]) for name, measured in speeds.items()]


def _row(name: str, measured: list[float], baseline: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "env_steps_per_second": statistics.median(measured),
        "lowest": min(measured),
        "highest": max(measured),
        "ratio": statistics.median(mine / theirs for mine, theirs in zip(measured, baseline, strict=True)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of :func:`measure` as a Markdown table."""
    lines = [
        f"| MT10, random actions | env steps/s (median) | range | ratio to {BASELINE} |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        span = f"{row['lowest']:.0f} to {row['highest']:.0f}"
        lines.append(f"| {row['name']} | {row['env_steps_per_second']:.0f} | {span} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns per contender (default 7)")
    parser.add_argument("--vector-steps", type=int, default=200, help="steps of the vector per turn (default 200)")
    arguments = parser.parse_args()
    print(table(measure(arguments.rounds, arguments.vector_steps)))


if __name__ == "__main__":
    main()
