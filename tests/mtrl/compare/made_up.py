"""Run folders as training writes them, with made-up numbers: a law of success per method, no learning."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("reach-v3", "push-v3", "drawer-open-v3", "peg-insert-side-v3")
GRADIENT_METHODS = {"pcgrad", "cagrad", "nash_mtl", "aligned_mtl", "upgrad"}


def write_run(
    folder: Path,
    balancer: str = "unitary",
    seed: int = 1,
    level: float | Sequence[float] = 0.5,
    *,
    agent: str = "mtsac",
    tasks: Sequence[str] = TASKS,
    status: str = "finished",
    evaluations: int = 20,
    lines: int = 40,
    env_steps: int = 200_000,
    protocol: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    actor: str | None = None,
    network: str = "mlp",
    parameters: dict[str, int] | None = None,
    evaluation_seed: int | None = None,
) -> Path:
    """One run folder.

    :param level: final success of every task, or of all; it is reached along a straight line, with noise of the seed
    :param status: of an unfinished run, half of the metrics are written and no result
    :param actor: balancer of the actor, where it has one of its own
    :param parameters: of ``actor`` and ``critic``; None is a record that has none
    :param evaluation_seed: fixes the goals of evaluation; None takes those of the run's seed
    """
    generator = np.random.default_rng([seed, *balancer.encode(), *agent.encode()])
    folder.mkdir(parents=True)
    finished = status == "finished"
    goal_seed = seed if evaluation_seed is None else evaluation_seed
    final = np.clip(np.broadcast_to(level, len(tasks)) + 0.05 * generator.standard_normal(len(tasks)), 0, 1).round(2)
    config = {
        "seed": seed,
        "agent": {"name": agent, "tau": 0.005},
        "network": {"name": network},
        "balancer": {"name": balancer, "options": options or {}, "actor": actor},
        "env": {"copies": 1},
        "evaluation": {"every_env_steps": None, "episodes": 5, "seed": evaluation_seed},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (folder / "command.txt").write_text(f"python train.py balancer={balancer} seed={seed}\n")
    record: dict[str, Any] = {
        "status": status,
        "command": f"python train.py balancer={balancer} seed={seed}",
        "machine": {"cpu": "A Processor", "cores": 2, "gpu": None},
        "agent": {"torch_threads": 1, "device": "cpu"} | ({"parameters": parameters} if parameters else {}),
        "versions": {"torch": "2.13.0"},
        "protocol": _protocol(tasks, env_steps, goal_seed) | (protocol or {}),
    }
    if finished:
        record["seconds"] = {"learning": 100.0 + seed, "evaluations": 10.0, "final_evaluation": 5.0}
        rows = [f"{task},{value},{value},10.0" for task, value in zip(tasks, final, strict=True)]
        (folder / "results.csv").write_text("\n".join(["task,success,success_at_end,return", *rows]) + "\n")
    (folder / "run.json").write_text(json.dumps(record))
    metrics = _metrics(balancer, tasks, final, evaluations, lines, env_steps, generator)
    kept = metrics if finished else metrics[: len(metrics) // 2]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    return folder


def _protocol(tasks: Sequence[str], env_steps: int, goal_seed: int) -> dict[str, Any]:
    return {
        "suite": "metaworld",
        "tasks": list(tasks),
        "reward_version": "v2",
        "horizon": 500,
        "goals": "50 per task, fixed by the seed",
        "num_goals": 50,
        "success": "at any step",
        "versions": {"mujoco": "3.3.0"},
        "env_steps": env_steps,
        "task_id": "one_hot",
        "evaluation": {"episodes_per_task": 50, "horizon": 500, "goals": f"swept in order, those of seed {goal_seed}"},
    }


def _metrics(
    balancer: str,
    tasks: Sequence[str],
    final: np.ndarray,
    evaluations: int,
    lines: int,
    env_steps: int,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = []
    for i in range(1, lines + 1):
        part = i / lines
        line: dict[str, Any] = {"env_steps": env_steps * part, "wall_time": 110.0 * part, "train/n_updates": 1000 * i}
        weights = np.ones(len(tasks))
        if balancer != "unitary":
            weights = 1 + part * (np.linspace(0.5, 1.5, len(tasks)) - 1) + 0.05 * generator.standard_normal(len(tasks))
        line |= {f"balancer_weight/{task}": float(w) for task, w in zip(tasks, weights, strict=True)}
        line |= {f"train_critic_loss/{task}": 1 / i for task in tasks}
        if balancer in GRADIENT_METHODS:
            line |= {f"train/{net}_balancer.conflict_share": 0.3 + 0.1 * part for net in ("critic", "actor")}
        metrics.append(line)
    for i in range(1, evaluations + 1):
        part = i / evaluations
        noise = 0.04 * generator.standard_normal(len(tasks)) if i < evaluations else 0.0
        success = np.clip(final * part + noise, 0, 1)
        line = {"env_steps": env_steps * part, "wall_time": 110.0 * part, "eval/final": float(i == evaluations)}
        metrics.append(line | {f"eval_success/{task}": float(s) for task, s in zip(tasks, success, strict=True)})
    return sorted(metrics, key=_env_steps)


def _env_steps(line: dict[str, Any]) -> float:
    return float(line["env_steps"])
