"""Trained policies that ship with the package, and the way one is made.

A policy is two files in this folder: ``<name>.zip``, what acts (`agents.files.policy_file`), and ``<name>.json``, its
card: how it was trained, and what the evaluator measured of exactly this file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl.errors import ConfigError

FOLDER = Path(__file__).parent
LARGEST = 3_000_000  # bytes of a policy that ships
_RATES = ("success", "low", "high", "success_at_end")  # columns of a card's table


@dataclass(frozen=True)
class PretrainedPolicy:
    """A policy with its card.

    :param name: what users type
    :param path: of the policy's file
    :param card: as `mtrl export` wrote it
    """

    name: str
    path: Path
    card: Mapping[str, Any]

    def load(self, device: str = "auto") -> Any:
        """The policy, to `predict` with.

        :raises ConfigError: if the file is not the one that the card describes
        :raises AgentFileError: if it cannot be read
        """
        from agents import load_policy

        if _digest(self.path) != self.card["sha256"]:
            raise ConfigError(
                f"{self.path} is not the file that its card {self.path.with_suffix('.json').name} describes."
            )
        return load_policy(self.path, device)

    def summary(self) -> str:
        """One line: what it solves, and after how much training."""
        mean, training = self.card["results"]["mean"], self.card["training"]
        tasks = len(self.card["results"]) - 1
        return (
            f"{self.card['config']['env']['suite']}, {tasks} tasks: mean success {mean['success']:.2f} "
            f"({mean['low']:.2f} to {mean['high']:.2f}) after {training['env_steps']:,} env steps"
        )

    def describe(self) -> str:
        """The card as a section of a page, in Markdown."""
        rows = [[_name(task), *map(_cell, map(row.get, _RATES))] for task, row in self.card["results"].items()]
        lines = [
            f"### `{self.name}`\n",
            f"{self.summary()}. {self._training()} {self._measurement()}\n",
            "| task | success | 95 % from | to | at the last step |",
            "| --- | ---: | ---: | ---: | ---: |",
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
        return "\n".join(lines) + "\n"

    def _training(self) -> str:
        config, training = self.card["config"], self.card["training"]
        return (
            f"Agent `{config['agent']['name']}`, balancer `{config['balancer']['name']}`, seed {config['seed']}; "
            f"{training['updates']:,} updates in {training['minutes']:.0f} minutes on {training['machine']['cores']} "
            f"cores of {training['machine']['cpu']}; the whole config stands in `mtrl/pretrained/{self.name}.json`."
        )

    def _measurement(self) -> str:
        rules = self.card["protocol"]["evaluation"]
        return (
            f"Measured over {rules['episodes_per_task']} episodes of {rules['horizon']} steps per task, deterministic "
            f"actions, goals of seed {rules['goals_of_seed']}. {self.path.stat().st_size / 1e6:.1f} MB."
        )


def list_pretrained() -> list[str]:
    """Names of the policies that are here."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if path.with_suffix(".zip").exists())


def pretrained_policy(name: str) -> PretrainedPolicy:
    """A policy by its name.

    :raises ConfigError: if there is none of that name, with those that are here
    """
    known = list_pretrained()
    if name not in known:
        raise ConfigError(f"pretrained must be one of {', '.join(known) or '(none is installed)'}, found {name!r}.")
    path = FOLDER / f"{name}.zip"
    return PretrainedPolicy(name, path, json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))


def write_card(path: Path, card: Mapping[str, Any]) -> Path:
    """Write the card of a policy beside it."""
    place = path.with_suffix(".json")
    place.write_text(json.dumps({**card, "sha256": _digest(path)}, indent=2) + "\n", encoding="utf-8")
    return place


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _name(task: str) -> str:
    return f"**{task}**" if task == "mean" else task


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
