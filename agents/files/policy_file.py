"""A policy alone, in the container of ``agent.zip``: what acts, without the critics and optimisers that only learn.

It is read as an agent is: JSON and tensors, nothing unpickled, shapes compared before the network is given memory.
"""

from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor

from agents.algorithms import acting_types, list_algorithms
from agents.files.agent_file import (
    AgentFileError,
    read_agent,
    sizes_from_file,
    space_from_json,
    space_to_json,
    write_agent,
)
from agents.files.origins import recorded_origins, refuse_unregistered
from agents.files.untrusted import refuse_absurd
from agents.multitask import MultiTaskAlgorithm
from agents.policies import ActingPolicy, MultiTaskPolicy


def save_policy(agent: MultiTaskAlgorithm, path: str | Path) -> Path:
    """Write what an agent acts with; its weights stay as they are, and so do its actions, to the bit.

    :param path: ``.zip`` is appended if it is missing
    :return: the path written
    """
    data: dict[str, Any] = {
        "algorithm": type(agent.policy).acting_type.__name__,
        "settings": {"policy_kwargs": agent.policy_kwargs},
        "task_names": list(agent.task_names),
        "action_sizes": list(agent.action_sizes),
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
        "num_timesteps": agent.num_timesteps,
        "n_updates": agent._n_updates,
    }
    data |= recorded_origins(data["settings"])
    tensors = _acting_tensors(_described(data), agent.policy.state_dict())
    written = write_agent(path, data, {"policy": {name: value.cpu() for name, value in tensors.items()}})
    assert isinstance(written, Path)
    return written


def load_policy(path: str | Path | BufferedIOBase, device: torch.device | str = "auto") -> MultiTaskPolicy:
    """The policy of a file that `save_policy` or an agent's `save` wrote, to `predict` with; nothing is unpickled.

    :raises AgentFileError: if the file holds no policy, or its tensors do not fit
    """
    data, tensors = read_agent(path)
    refuse_unregistered(path, data, ["network"])
    try:
        refuse_absurd(data)
        described = _described(data)
        found = _acting_tensors(described, tensors["policy"])
        for name, expected in described.items():
            if found[name].shape != expected.shape:
                shapes = f"{list(found[name].shape)}, its settings say {list(expected.shape)}"
                raise ValueError(f"'{name}' has shape {shapes}")
        policy = _build(data)
        policy.load_state_dict(found)
    except Exception as error:  # whatever settings and tensors that contradict each other provoke
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise AgentFileError(f"{path} does not fit the policy it describes ({reason:.300}).") from error
    policy.task_names = tuple(data["task_names"])
    policy.set_training_mode(False)
    return policy.to(get_device(device))


def _described(data: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of the policy that the data describe, without memory."""
    with torch.device("meta"):
        return _build(data).state_dict()


def _build(data: Mapping[str, Any]) -> MultiTaskPolicy:
    observations, actions = (space_from_json(data[name]) for name in ("observation_space", "action_space"))
    settings = data["settings"].get("policy_kwargs") or {}
    sizes = sizes_from_file(data)
    kind = _policy_type(data["algorithm"])
    return kind(observations, actions, num_tasks=len(data["task_names"]), action_sizes=sizes, **settings)


def _policy_type(algorithm: str) -> type[MultiTaskPolicy]:
    """What acts for the agents of an algorithm, which a file names, or names itself there."""
    by_agent = {record.agent.__name__: record.agent.policy_type.acting_type for record in list_algorithms()}
    return by_agent.get(algorithm) or acting_types().get(algorithm, ActingPolicy)


def _acting_tensors(described: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a policy's tensors that acting takes, by the names that they have without critics."""
    return {name: given[name] if name in given else given[f"critic.network.{name}"] for name in described}
