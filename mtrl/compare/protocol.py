"""What two numbers must share before they may stand in one table, and the refusal to mix what does not."""

from collections.abc import Iterable, Sequence
from typing import Any

from mtrl.compare.runs import Run
from mtrl.config import flatten
from mtrl.errors import ConfigError

# Settings that are in no record of the protocol, and change what is measured or how often the best is looked for.
_FROM_CONFIG = ("env.copies", "evaluation.every_env_steps", "evaluation.episodes")
# Asked about first, because they explain the others.
_FIRST = ("suite", "tasks", "reward_version", "horizon", "goals", "num_goals", "success", "task_id", "env_steps")
_MISSING = "not given"


class MixedProtocols(ConfigError):
    """Runs that were measured in different ways."""


def protocol_of(run: Run) -> dict[str, Any]:
    """What a run's numbers are labelled with, flat: ``evaluation.horizon`` for what is inside; no package versions."""
    given = {key: value for key, value in run.protocol.items() if key != "versions"}
    flat = flatten(given)
    config = flatten(run.config)
    own_goals = str(flat.get("evaluation.goals", ""))
    # Else every seed would be a protocol of its own; a seed that was given is one for all runs, and stays a number.
    if config.get("evaluation.seed") is None and own_goals.endswith(f"seed {run.seed}"):
        flat["evaluation.goals"] = own_goals.removesuffix(f"seed {run.seed}") + "the run's seed"
    return flat | {key: config.get(key) for key in _FROM_CONFIG if key in config}


def refuse_mixed(runs: Sequence[Run]) -> None:
    """:raises MixedProtocols: naming two runs and the field in which they differ."""
    first, rest = runs[0], runs[1:]
    expected = protocol_of(first)
    for run in rest:
        found = protocol_of(run)
        for field in _in_order(expected.keys() | found.keys()):
            ours, theirs = expected.get(field, _MISSING), found.get(field, _MISSING)
            if ours != theirs:
                raise MixedProtocols(
                    f"'{first.folder}' and '{run.folder}' differ in {field} ({_short(ours)} and {_short(theirs)}): "
                    f"compare runs of one protocol, or give --allow-mixed."
                )


def mixed_fields(runs: Iterable[Run]) -> dict[str, list[str]]:
    """The fields in which runs differ, with every value that occurs."""
    protocols = [protocol_of(run) for run in runs]
    fields = _in_order({field for protocol in protocols for field in protocol})
    values = {field: [_short(protocol.get(field, _MISSING)) for protocol in protocols] for field in fields}
    return {field: sorted(set(found)) for field, found in values.items() if len(set(found)) > 1}


def describe(value: Any) -> str:
    """A value of the protocol as text."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _in_order(fields: Iterable[str]) -> list[str]:
    return sorted(fields, key=lambda field: (_FIRST.index(field) if field in _FIRST else len(_FIRST), field))


def _short(value: Any) -> str:
    text = describe(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
