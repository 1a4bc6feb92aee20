"""What updates take: MTSAC and MTPPO in three precisions, with every balancer, compiled, captured as CUDA graphs."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch

from agents import MTPPO, MTSAC
from agents.compiler import Compiler
from agents.precision import float32_products
from agents.rollout import RolloutSample
from benchmarks.accelerator.setup import Row, Setup
from benchmarks.balancers import BASELINE, Contest, methods, random_batch
from benchmarks.update import ACTIONS, STATES, shapes_env
from mtrl.build import make_agent
from mtrl.compose import compose
from mtrl.config import RunConfig

Measurement = tuple[str, Callable[[], Row]]
PRECISIONS = {"float32": "highest", "TF32": "high", "bfloat16": "highest"}  # and the mode of float32 products


def agent_of(setup: Setup, overrides: tuple[str, ...], precision: str, **settings: Any) -> Any:
    """An agent of Meta-World's shapes with a small replay buffer, in one of `PRECISIONS`."""
    config = compose([*overrides, *setup.overrides])
    if hasattr(config.agent, "replay_per_task"):
        settings |= {"replay_per_task": 1_000, "warmup_steps_per_task": 0}
    settings = {"compile": False, **settings, "precision": "float32" if precision == "TF32" else precision}
    config = dataclasses.replace(config, agent=dataclasses.replace(config.agent, **settings))
    agent = make_agent(config, shapes_env(_tasks(config)))
    agent.float32_mode = PRECISIONS[precision]
    return agent


def _tasks(config: RunConfig) -> int:
    return len(config.make_suite().task_names)


def update_of(agent: Any) -> Callable[[], object]:
    """One update of an agent on random transitions, as a call without arguments."""
    samples, device = agent.batch_size // agent.num_tasks, str(agent.device)
    batch: tuple[Any, ...] = random_batch(agent.num_tasks, samples, device)
    if isinstance(agent, MTPPO):
        batch = (_rollout(agent, samples),)

    def update() -> None:
        with float32_products(agent.float32_mode):
            agent.update(*batch)

    return update


def _rollout(agent: MTPPO, samples: int) -> RolloutSample:
    generator = torch.Generator().manual_seed(0)
    sizes = ((STATES,), (ACTIONS,), (), (), (), ())
    numbers = [torch.randn(agent.num_tasks, samples, *size, generator=generator) for size in sizes]
    return RolloutSample(*(number.to(agent.device) for number in numbers))


def updates(setup: Setup) -> Iterator[Measurement]:
    """Of MTSAC: 3x400, and the presets that are made for an accelerator."""
    sizes = f"network.hidden_sizes={list(setup.hidden_sizes)}".replace(" ", "")
    plain = (f"agent.samples_per_task={setup.samples}", sizes, "agent=mtsac_baseline")
    kinds = {name: (*suite, *plain) for name, suite in setup.suites.items()} | dict(setup.presets)
    for name, overrides in kinds.items():
        for precision in PRECISIONS:
            yield f"{name}, {precision}", partial(_time, setup, overrides, precision)


def ppo(setup: Setup) -> Iterator[Measurement]:
    """Of MTPPO, as it comes."""
    for name, suite in setup.suites.items():
        for precision in PRECISIONS:
            yield f"{name}, {precision}", partial(_time, setup, (*suite, "agent=mtppo"), precision)


def _time(setup: Setup, overrides: tuple[str, ...], precision: str) -> Row:
    agent = agent_of(setup, overrides, precision)
    return {**setup.time(update_of(agent)), "transitions": agent.batch_size}


def balancers(setup: Setup) -> Iterator[Measurement]:
    """Of MTSAC with every balancer, divided by that with `unitary`."""

    @cache
    def contest(tasks: int, precision: str) -> tuple[Contest, float]:
        kind = "float32" if precision == "TF32" else precision
        made = Contest(tasks, setup.samples, setup.hidden_sizes, device=setup.device, precision=kind)
        for agent in made.agents:
            agent.float32_mode = PRECISIONS[precision]
        return made, setup.time(made.call(BASELINE))["ms"]

    def measure(tasks: int, precision: str, name: str) -> Row:
        made, unitary = contest(tasks, precision)
        row = setup.time(made.call(name))
        return {**row, "/ unitary": round(row["ms"] / unitary, 2)}

    for precision in PRECISIONS:
        for tasks in setup.tasks:
            for name in setup.balancers or methods():
                yield f"K = {tasks}, {precision}, {name}", partial(measure, tasks, precision, name)


def compiled(setup: Setup) -> Iterator[Measurement]:
    """Of MTSAC with balancers that add nothing to a loss: as it is, compiled, and captured as CUDA graphs."""
    sizes = f"network.hidden_sizes={list(setup.hidden_sizes)}".replace(" ", "")
    suite = next(iter(setup.suites.values()))
    plain = (*suite, f"agent.samples_per_task={setup.samples}", sizes, "agent=mtsac_baseline")
    kinds = {"3x400": plain, next(iter(setup.presets)): next(iter(setup.presets.values()))}

    def measure(overrides: tuple[str, ...], balancer: str, way: str) -> Row:
        agent: MTSAC = agent_of(setup, (*overrides, f"balancer={balancer}"), "bfloat16", compile=way != "uncompiled")
        if way != "uncompiled":
            agent._compiler = Compiler(graphs=way == "CUDA graphs")
        update, began = update_of(agent), time.perf_counter()
        update()
        first = time.perf_counter() - began
        row = {**setup.time(update), "first update, s": round(first, 1)}
        if way != "uncompiled" and not agent.runtime["cuda_graphs" if way == "CUDA graphs" else "compiled"]:
            row["note"] = "fell back"
        return row

    for kind, overrides in kinds.items():
        for way in ("uncompiled", "CUDA graphs", "compiled"):
            for balancer in ("unitary", "famo") if kind == "3x400" else ("unitary",):
                yield f"{kind}, bfloat16, {balancer}, {way}", partial(measure, overrides, balancer, way)
