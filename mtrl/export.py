"""``mtrl export``: the policy of a run as a small file with its card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents import load_policy, save_policy
from agents.algorithms import find_algorithm
from agents.multitask import MultiTaskAlgorithm
from agents.tags import WALL_TIME
from mtrl.config import RunConfig
from mtrl.evaluation import EvaluationResult, evaluate
from mtrl.experiment import protocol
from mtrl.places import require_file
from mtrl.plugins import described
from mtrl.pretrained import write_card
from mtrl.run_folder import AGENT_FILE, RunFolder
from mtrl.tracking import read_metrics


def _nobody(result: EvaluationResult) -> None:
    pass


def export(
    folder: RunFolder,
    path: Path,
    episodes: int = 50,
    workers: int | None = None,
    told: Callable[[EvaluationResult], None] = _nobody,
) -> EvaluationResult:
    """Write the policy of a run and its card; the card's numbers are measured of the file as it was written.

    :param folder: of the run, finished or stopped
    :param path: of the policy's file; the card takes its place beside it, as ``.json``
    :param episodes: per task
    :param workers: simulating processes; None uses every core
    :param told: is told the measurement before the card is written
    :raises AgentFileError: if the agent of the run cannot be read
    :raises ConfigError: if one of the two files cannot be written, before anything is measured
    """
    for file in (path, path.with_suffix(".json")):
        require_file(file, "--out")
    config = folder.config()
    suite = config.make_suite()
    agent = find_algorithm(config.agent.algorithm).agent.load(folder.path / AGENT_FILE, device="cpu")
    path = save_policy(agent, path)
    horizon, seed = config.evaluation.horizon, config.evaluation_seed
    result = evaluate(load_policy(path), suite, episodes, seed=seed, workers=workers, horizon=horizon)
    told(result)
    rules = protocol(config, suite)
    rules["env_steps"] = agent.num_timesteps
    rules["evaluation"] |= {"episodes_per_task": episodes, "goals_of_seed": seed}
    write_card(
        path,
        {
            "config": config.essentials(),
            **({"plugins": plugins} if (plugins := described(config.of_plugins())) else {}),
            "training": _training(config, folder, agent),
            "protocol": rules,
            "results": {str(task): _row(row) for task, row in result.to_frame().iterrows()},
        },
    )
    return result


def _training(config: RunConfig, folder: RunFolder, agent: MultiTaskAlgorithm) -> dict[str, Any]:
    """What the training took, and where: what a reader needs to repeat it, and no name of a place."""
    lines = read_metrics(folder.path)
    return {
        "env_steps": agent.num_timesteps,
        "updates": agent._n_updates,
        "minutes": round(lines[-1][WALL_TIME] / 60, 1) if lines else 0.0,
        "seeds": config.seeds(),
        **{key: folder.record.get(key) for key in ("machine", "versions", "git", "agent")},
    }


def _row(row: Any) -> dict[str, Any]:
    """A row of the results as JSON holds it."""
    values = {name: None if value is None or value != value else round(float(value), 4) for name, value in row.items()}
    return {**values, "episodes": int(row["episodes"])}
