"""What is promised of an agent, tried where it learns: repetition to the bit, resumption, and the guard."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from agents import MTSAC
from benchmarks.accelerator.setup import Row, Setup
from benchmarks.balancers import random_batch
from benchmarks.fingerprint import digest
from benchmarks.update import fill, shapes_env

TASKS, SAMPLES, UPDATES = 4, 16, 50


def checks(setup: Setup) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Statements, and whether each holds."""
    statements = {
        "two agents of one seed are equal to the bit": _repeats,
        "an agent that resumes is the one that was never stopped": _resumes,
        "a batch that is not finite changes nothing": _guards,
        "three updates are those of the CPU up to rounding": _agrees_with_cpu,
    }
    for precision in ("float32", "bfloat16"):
        for statement, holds in statements.items():
            yield f"{statement}, {precision}", partial(_row, holds, setup.device, precision)


def _row(holds: Callable[[str, str], bool], device: str, precision: str) -> Row:
    return {"holds": "yes" if holds(device, precision) else "no"}


def _agent(device: str, precision: str, balancer: str = "famo") -> MTSAC:
    """One whose replay buffer is filled."""
    agent = MTSAC(
        "MultiTaskPolicy", shapes_env(TASKS), batch_size=TASKS * SAMPLES, buffer_size=TASKS * 200, balancer=balancer,
        precision=precision, device=device, seed=0, policy_kwargs={"hidden_sizes": [64, 64]},
    )  # fmt: skip
    fill(agent, 100)
    return agent


def _state(agent: MTSAC) -> str:
    return digest({name: part.state_dict() for name, part in agent._parts().items()})


def _repeats(device: str, precision: str) -> bool:
    states = []
    for _ in range(2):
        agent = _agent(device, precision)
        agent.train(UPDATES)
        states.append(_state(agent))
    return states[0] == states[1]


def _resumes(device: str, precision: str) -> bool:
    whole = _agent(device, precision)
    whole.train(UPDATES)
    resumed = _agent(device, precision)
    resumed._restore(whole.state())
    for agent in (whole, resumed):
        agent.train(UPDATES)
    return _state(whole) == _state(resumed)


def _guards(device: str, precision: str) -> bool:
    agent = _agent(device, precision)
    agent.train(3)
    before = _state(agent)
    sample, noise = random_batch(TASKS, SAMPLES, device)
    sample.rewards[1, 3] = torch.nan
    agent.update(sample, noise)
    agent.guard.end()
    unchanged = _state(agent) == before
    agent.train(3)
    return unchanged and agent.guard.state_dict() == {"skipped": 1, "streak": 0} and _state(agent) != before


def _agrees_with_cpu(device: str, precision: str) -> bool:
    weights = []
    for where in ("cpu", device):
        agent = _agent(where, precision)  # first weights are drawn on the CPU
        batch = random_batch(TASKS, SAMPLES, where)
        for _ in range(3):
            agent.update(*batch)
        weights.append(torch.cat([parameter.detach().cpu().flatten() for parameter in agent.policy.parameters()]))
    return bool((weights[0] - weights[1]).abs().max() < (1e-4 if precision == "float32" else 1e-2))
