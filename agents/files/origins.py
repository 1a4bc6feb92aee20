"""Which modules registered what an agent is made of: a file names them, so that an error can say what to import."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agents.balancing.registry import BALANCERS, methods_of
from agents.files.agent_file import AgentFileError
from agents.networks.registry import NETWORKS
from agents.registry import Registry

_REGISTRIES: Mapping[str, Registry[Any]] = {"balancer": BALANCERS, "network": NETWORKS}


def names_of(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """The registered names that an agent's settings hold, by kind.

    :param settings: with `policy_kwargs`, and of a whole agent with `balancer` and `actor_balancer`
    """
    balancers = [settings.get("balancer"), settings.get("actor_balancer")]
    return {
        "balancer": [word for name in balancers if isinstance(name, str) for word in methods_of(name)],
        "network": [name for name in [(settings.get("policy_kwargs") or {}).get("network")] if isinstance(name, str)],
    }


def recorded_origins(settings: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """What a file says of them: ``{"registered_by": {"balancer": {"mine": "myrl"}}}``, or nothing."""
    found = _foreign_origins(settings)
    return {"registered_by": found} if found else {}


def _foreign_origins(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Modules outside this toolkit that registered what the settings name."""
    found: dict[str, dict[str, str]] = {}
    for kind, names in names_of(settings).items():
        for name in names:
            module = _REGISTRIES[kind][name].module
            if not module.startswith("agents."):
                found.setdefault(kind, {})[name] = module
    return found


def refuse_unregistered(path: object, data: Mapping[str, Any], kinds: Iterable[str] = ("balancer", "network")) -> None:
    """Refuse a file whose agent is made of what nobody has registered; nothing is imported for its sake.

    :param path: of the file, for the sentence
    :param data: what `read_agent` returned
    :raises AgentFileError: naming the module that registered it when the file was written
    """
    origins = data.get("registered_by")
    for kind in kinds:
        for name in names_of(data["settings"])[kind]:
            module = origins.get(kind, {}).get(name) if isinstance(origins, dict) else None
            if name not in _REGISTRIES[kind] and _is_module(module):
                where = Path(str(path)).name if isinstance(path, (str, Path)) else "The file"
                raise AgentFileError(
                    f"{where} needs the {kind} '{name}', which the plug-in '{module}' registers: give "
                    f"plugins=[{module}] on the command line, or import {module} before it is read."
                )


def _is_module(name: object) -> bool:
    return isinstance(name, str) and len(name) < 200 and all(part.isidentifier() for part in name.split("."))
