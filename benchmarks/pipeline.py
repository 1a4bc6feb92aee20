"""Where each millisecond of a vector step goes while MTSAC learns MT10 and MT50, and what the overlap is worth.

``python -m benchmarks.pipeline [--picture FILE]``; with ``--experiment mt10_laptop`` only what the overlap is worth to
that preset. The loop is the real one (`MTSAC.learn`, with the callback that writes metrics); its parts are timed from
outside, some thirty spans of a microsecond each, and every worker notes when its environments were stepped. The table
gives the time of each part that is in none of its own parts.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from agents import MTSAC, mtsac
from agents.balancing.objective import TaskObjective
from benchmarks.spans import Part, Spans, TimedMaker, average, repetitions
from benchmarks.timing import machine, markdown, take_turns, timing_table
from envs import MultiTaskVecEnv
from mtrl.build import make_agent, make_training_env, use_threads
from mtrl.callbacks import Every, MetricsCallback, in_order
from mtrl.compose import compose
from mtrl.config import RunConfig
from mtrl.console import Quiet
from mtrl.places import require_file

Settings = Mapping[str, Mapping[str, Any]]  # of the groups of a config

STEP = "vector step"
PATIENCE = 600.0  # seconds for a worker: fifty simulators are built in one
WARMUP = 60  # random actions in each task before the first update
SHORT: Settings = {"agent": {"warmup_steps_per_task": WARMUP, "replay_per_task": 5_000}}
SEQUENTIAL: Settings = {
    "env": {"workers": 0, "fast": False},
    "agent": {"pipeline": False, "precision": "float32", "compile": False},
}

# What the leaf of a path is called in the table; forward and backward passes are told apart by whose they are.
_REST = {STEP: "the loop itself", "update": "metrics and the rest of the update"}
_PLACES = ("critic", "actor")


class LearningLoop:
    """An agent that learns in its environments, a number of vector steps at a time.

    :param config: of a run
    :param timed: note in every worker when environments are stepped
    """

    def __init__(self, config: RunConfig, timed: bool = False) -> None:
        suite = config.make_suite()
        if timed:
            suite = dataclasses.replace(suite, makers=[TimedMaker(maker) for maker in suite.makers])
        self.env: MultiTaskVecEnv = make_training_env(config, suite)
        self.agent: MTSAC = make_agent(config, self.env)
        self.agent.set_logger(Logger(None, []))
        self.callback = in_order(MetricsCallback(Every(50 * self.env.num_envs), Quiet()))
        self.learn(WARMUP * suite.num_tasks // self.env.num_envs + 20)

    def learn(self, vector_steps: int) -> None:
        """Learn further."""
        total = vector_steps * self.env.num_envs
        self.agent.learn(total, callback=self.callback, log_interval=None, reset_num_timesteps=False)

    def update(self) -> None:
        """One update, without a step of the environments."""
        self.agent.train(1)

    def close(self) -> None:
        """End the environments."""
        self.env.close()


def loop_config(env: Mapping[str, Any], samples: int) -> RunConfig:
    """The config of ``agent=mtsac`` in some environments.

    :param env: settings of the group `env`
    :param samples: B
    """
    config = RunConfig.from_dict({"env": {"worker_timeout": PATIENCE, **env}, "agent": {"samples_per_task": samples}})
    return changed(config, SHORT)


def changed(config: RunConfig, settings: Settings) -> RunConfig:
    """A config with other settings in some of its groups."""
    groups = {name: dataclasses.replace(getattr(config, name), **values) for name, values in settings.items()}
    return dataclasses.replace(config, **groups)


@dataclass(frozen=True)
class Breakdown:
    """An average vector step.

    :param name: of the suite
    :param num_envs: N
    :param parts: of the learning process
    :param simulation: first begin and last end of every worker, seconds after the vector step began; none without
    :param steps: vector steps that were averaged
    """

    name: str
    num_envs: int
    parts: list[Part]
    simulation: list[tuple[float, float]]
    steps: int

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.parts[0].end

    def rows(self) -> list[tuple[str, float]]:
        """Name and own seconds of every part, in order; then those of every worker."""
        named: dict[str, float] = {}
        for part in self.parts:
            named[label(part)] = named.get(label(part), 0.0) + part.own
        workers = {
            f"worker {w + 1} simulates, meanwhile": end - begin for w, (begin, end) in enumerate(self.simulation)
        }
        return [*named.items(), *workers.items()]


def label(part: Part) -> str:
    """What a part is called in the table."""
    leaf = part.path[-1]
    owner = next((place for place in _PLACES if place in part.path), None)
    if owner is None:
        return _REST.get(leaf, leaf)
    return f"{owner}: {'checks' if leaf == owner else leaf}"


def watch(spans: Spans, stack: ExitStack, loop: LearningLoop) -> None:
    """Record the parts of the loop until the stack is left."""
    agent, env = loop.agent, loop.env
    for owner, attribute, name in [
        (agent, "_vector_step", STEP),
        (agent, "_sample_action", "act"),
        (env, "step_async", "send actions"),
        (agent, "train", "update"),
        (agent.replay_buffer, "sample", "sample"),
        (mtsac, "critic_target", "target"),
        (agent.critic_learner, "step", "critic"),
        (agent.actor_learner, "step", "actor"),
        (TaskObjective, "_forward", "forward"),
        (TaskObjective, "_differentiate", "task gradients"),
        (TaskObjective, "backward", "backward"),
        (agent.critic_balancer, "balance", "balancer"),
        (agent.actor_balancer, "balance", "balancer"),
        (torch.nn.utils, "clip_grad_norm_", "clip"),
        (agent.critic_optimizer, "step", "optimiser"),
        (agent.actor_optimizer, "step", "optimiser"),
        (agent.temperature, "step", "temperature"),
        (torch, "_foreach_lerp_", "Polyak"),
        (env, "step_wait", "collect"),
        (env._backend, "wait_step", "wait for workers" if env.workers else "simulate"),
        (agent, "_store_transition", "store"),
        (agent, "_update_info_buffer", "store"),
        (agent.progress, "observe", "store"),
        (loop.callback, "on_step", "callbacks"),
    ]:
        spans.watch(stack, owner, attribute, name)


def break_down(loop: LearningLoop, name: str, vector_steps: int) -> Breakdown:
    """Measure where the time of a vector step goes.

    The tenth of the steps that took longest is left out, and the tenth that took least: a step that another process
    interrupted tells nothing about the program.

    :param loop: made with ``timed=True``
    """
    spans = Spans()
    with ExitStack() as stack:
        watch(spans, stack, loop)
        loop.learn(vector_steps)
    steps = repetitions(spans.recorded, STEP)
    seconds = [step[-1].end - step[-1].begin for step in steps]
    edge = len(steps) // 10
    kept = sorted(np.argsort(seconds)[edge : len(steps) - edge].tolist())
    parts = average([steps[i] for i in kept])
    return Breakdown(
        name, loop.env.num_envs, parts, _simulation(loop.env, [s[-1].begin for s in steps], kept), len(kept)
    )


def _simulation(env: MultiTaskVecEnv, begins: Sequence[float], kept: Sequence[int]) -> list[tuple[float, float]]:
    if not env.workers:
        return []
    stretches = np.array([notes[-len(begins) :] for notes in env.get_attr("stretches")])  # [N, steps, 2]
    offsets = (stretches - np.array(begins)[:, None])[:, kept]
    shares = [offsets[w :: env.workers] for w in range(env.workers)]
    return [(float(share[..., 0].min(0).mean()), float(share[..., 1].max(0).mean())) for share in shares]


def table(breakdown: Breakdown) -> str:
    """Milliseconds and share of every part, in Markdown."""
    whole = breakdown.seconds
    rows = [[name, f"{own * 1e3:.2f}", f"{own / whole:.1%}"] for name, own in breakdown.rows()]
    speed = f"{breakdown.num_envs / whole:.0f} env steps/s"
    rows.append(["whole vector step", f"{whole * 1e3:.2f}", speed])
    return markdown([f"{breakdown.name}, mean of {breakdown.steps} vector steps", "ms", "share"], rows)


def overlap(
    name: str, config: RunConfig, rounds: int, vector_steps: int, variants: Mapping[str, Settings] | None = None
) -> str:
    """Time the loop as it comes against the same work done in sequence, in turns; the table in Markdown.

    :param name: of the config
    :param vector_steps: of each turn
    :param variants: settings to time the loop with, beside its own, by what they are called
    """
    configs = {
        "in sequence: stock environments, float32, pipeline=false, uncompiled": changed(config, SEQUENTIAL),
        "as it comes": config,
        **{label: changed(config, settings) for label, settings in (variants or {}).items()},
    }
    loops = {label: LearningLoop(config) for label, config in configs.items()}
    next(iter(loops.values())).agent.float32_mode = "highest"  # PyTorch's default
    timings = take_turns({label: partial(loop.learn, vector_steps) for label, loop in loops.items()}, rounds)
    for loop in loops.values():
        loop.close()
    turns = timing_table(f"{name}, {vector_steps} vector steps", timings)
    return f"{turns}\n\n{1 / timings[1].ratio:.2f} times the env steps per second of the same work done in sequence."


def overlap_of_preset(experiment: str, rounds: int = 7, vector_steps: int = 60) -> str:
    """`overlap` of a preset, by the name of its file in ``configs/experiment``, with and without compiling."""
    choice = f"experiment={experiment}"
    config = changed(compose([choice]), SHORT)
    use_threads(config)
    other = not config.agent.compile
    variants: dict[str, Settings] = {f"with agent.compile={str(other).lower()}": {"agent": {"compile": other}}}
    return overlap(choice, config, rounds, vector_steps, variants)


def report(
    suites: Sequence[str] = ("mt10", "mt50"),
    samples: int = 32,
    vector_steps: int = 300,
    rounds: int = 7,
    picture: Path | None = None,
) -> str:
    """The measured tables in Markdown, and the picture as a file.

    :param suites: names; of the first, the loop is also compared with the same work done in sequence
    :param samples: B
    :param vector_steps: of each suite
    :param rounds: of the comparisons
    :param picture: the PNG to write; None draws none
    """
    environments = {name: {"suite": name} for name in suites}
    return describe(environments, samples, vector_steps, rounds, picture)


def describe(
    environments: Mapping[str, Mapping[str, Any]],
    samples: int,
    vector_steps: int,
    rounds: int,
    picture: Path | None = None,
) -> str:
    """As `report`, for any environments.

    :param environments: settings of the group `env` by name
    """
    use_threads(RunConfig())
    loops = {name: LearningLoop(loop_config(env, samples), timed=True) for name, env in environments.items()}
    breakdowns = [break_down(loop, name, vector_steps) for name, loop in loops.items()]
    updates = take_turns({f"an update of {name}": loop.update for name, loop in loops.items()}, rounds)
    for loop in loops.values():
        loop.close()
    first, env = next(iter(environments.items()))
    gain = overlap(f"{first}, {samples} samples per task", loop_config(env, samples), rounds, max(vector_steps // 5, 1))
    if picture is not None:
        from benchmarks.timeline import draw

        draw(breakdowns, picture)
    return "\n\n".join(
        [
            *(table(breakdown) for breakdown in breakdowns),
            gain,
            timing_table(f"{samples} samples per task", updates),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=["mt10", "mt50"], help="suites (default mt10 mt50)")
    parser.add_argument("--samples", type=int, default=32, help="transitions per task (default 32)")
    parser.add_argument("--vector-steps", type=int, default=300, help="of each suite (default 300)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of the comparisons (default 7)")
    parser.add_argument("--picture", type=Path, help="PNG of the timelines to write")
    parser.add_argument("--experiment", metavar="NAME", help="measure what the overlap is worth to this preset, alone")
    arguments = parser.parse_args()
    if arguments.experiment:
        print(machine(), overlap_of_preset(arguments.experiment, arguments.rounds), sep="\n\n")
        return
    if arguments.picture is not None:
        require_file(arguments.picture, "--picture")
    tables = report(arguments.suites, arguments.samples, arguments.vector_steps, arguments.rounds, arguments.picture)
    print(machine(), tables, sep="\n\n")


if __name__ == "__main__":
    main()
