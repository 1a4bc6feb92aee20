"""Weight agents as files: the one that ships with the toolkit, and those of `benchmarks.train_weight_agent`."""

from pathlib import Path
from typing import Any

import torch

from agents.balancers.igb.agent import WeightAgentSettings
from agents.balancers.igb.ddpg_agent import DDPGWeightAgent
from agents.balancers.igb.rule import FEATURES
from agents.errors import ConfigurationError
from agents.files.untrusted import UntrustedError, read_tensors

SHIPPED = Path(__file__).parent / "weight_agent.pt"
SETTINGS = WeightAgentSettings(width=32, gamma=0.0, capacity=2_000, actor_lr=3e-4, critic_lr=1e-3)
PARTS = ("actor", "critic")


def write_weight_agent(path: Path, agent: DDPGWeightAgent, evidence: torch.Tensor, card: dict[str, Any]) -> None:
    """Write what an agent has learnt.

    :param evidence: how well its critic foretold outcomes of runs that it had not seen, as in `DDPGWeightAgent`
    :param card: how it was trained, as numbers and text
    """
    parts = {name: getattr(agent, name).state_dict() for name in PARTS}
    torch.save({"features": list(FEATURES), "evidence": evidence, "card": card, **parts}, path)


def fill_agent(agent: DDPGWeightAgent, path: str | None) -> None:
    """Give an agent what a file holds.

    :param path: None takes the agent that ships with the toolkit
    :raises ConfigurationError: for a file that is missing, broken, or of an agent that sees other features
    """
    file = SHIPPED if path is None else Path(path)
    try:
        found = read_tensors(file.read_bytes(), "it")
    except OSError as error:
        raise ConfigurationError(f"agent_file: there is no weight agent at {file} ({error.strerror}).") from error
    except UntrustedError as error:
        raise ConfigurationError(f"agent_file: {file} is no weight agent: {error}.") from error
    features = found.get("features") if isinstance(found, dict) else None
    if features != list(FEATURES):
        raise ConfigurationError(
            f"agent_file: the weight agent in {file} sees {features!r:.100}, and igb_rl shows it {list(FEATURES)}."
        )
    try:
        for name in PARTS:
            getattr(agent, name).load_state_dict(found[name])
            getattr(agent, f"{name}_target").load_state_dict(found[name])
        agent.evidence.copy_(found["evidence"])
    except (KeyError, RuntimeError) as error:
        raise ConfigurationError(f"agent_file: {file} holds no weight agent of this version.") from error
