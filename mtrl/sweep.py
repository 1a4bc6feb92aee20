"""A sweep (``train.py -m``): one line per run says how far the whole is; a run that fails does not end the others.

Hydra composes all runs of a sweep before the first one starts, and may start them in other processes or machines. So
what has become of each is appended to a journal in the folder of the runs, whose path travels in the environment.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mtrl.errors import FAULT, ConfigError
from mtrl.places import require_folder

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"
_JOURNAL = "MTRL_SWEEP_JOURNAL"


class Sweep:
    """The journal of a sweep.

    :param journal: the file; its first line is about the sweep, every other about a run
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal

    @classmethod
    def begin(cls, runs_dir: Path, overrides: Sequence[str]) -> "Sweep":
        """Start a journal, and tell the processes to come about it.

        :param overrides: what Hydra was given, ``seed=range(10)`` and all
        """
        require_folder(runs_dir, "runs_dir=...")
        runs_dir.mkdir(parents=True, exist_ok=True)
        journal = runs_dir.resolve() / f".sweep-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        swept = swept_settings(overrides)
        counts = [count for count in swept.values() if count is not None]
        total = math.prod(counts) if len(counts) == len(swept) else None
        head = {"started": time.time(), "total": total, "swept": list(swept)}
        journal.write_text(json.dumps(head) + "\n", encoding="utf-8")
        os.environ[_JOURNAL] = str(journal)
        return cls(journal)

    @classmethod
    def current(cls) -> "Sweep | None":
        """The sweep that this process works for."""
        return cls(Path(os.environ[_JOURNAL])) if _JOURNAL in os.environ else None

    def name_of_run(self, overrides: Iterable[str]) -> str:
        """What tells a run from the others of the sweep: ``balancer=famo seed=3``."""
        swept = self._lines()[0]["swept"]
        return " ".join(override.lstrip("+") for override in overrides if override.partition("=")[0] in swept)

    def note(self, run: str, outcome: str, code: int = 0) -> None:
        """Append what became of a run, and its exit code; one short write, which other processes do not tear."""
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": run, "outcome": outcome, "code": code}) + "\n")

    def describe_start(self, number: int, run: str) -> str:
        """The line at the start of a run: which of how many it is, what became of the others, time left.

        :param number: of the run, from 1
        """
        head, *runs = self._lines()
        return f"Sweep: run {number}{_of(head)} ({run}); {_count(runs)}{_time_left(head, runs)}"

    def describe_run(self, run: str, how: str) -> str:
        """The line at the end of a run: how it went, what became of all, time left.

        :param how: it went
        """
        head, *runs = self._lines()
        return f"Sweep: {len(runs)}{_of(head)} runs ({run}: {how}); {_count(runs)}{_time_left(head, runs)}"

    def describe_end(self) -> str:
        """The line at the end of the sweep, with the names of the runs that failed."""
        head, *runs = self._lines()
        failed = [line["run"] for line in runs if line["outcome"] == FAILED]
        names = f" ({', '.join(failed)})" if failed else ""
        minutes = (time.time() - head["started"]) / 60
        return f"Sweep: {len(runs)}{_of(head)} runs in {minutes:.1f} min; {_count(runs)}{names}."

    def end(self) -> int:
        """Close the journal.

        :return: the exit code: 0 if all runs are there, 1 if one was ended by a fault, else 2
        """
        codes = {line["code"] for line in self._lines()[1:]} - {0}
        self.journal.unlink()
        del os.environ[_JOURNAL]
        return FAULT if FAULT in codes else max(codes, default=0)

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]


def refuse_one_folder(overrides: Sequence[str]) -> None:
    """Refuse a sweep of which all runs would have one folder, so that all but the first would be skipped.

    :param overrides: what Hydra was given
    :raises ConfigError: for a ``run_dir`` that is the same for every run
    """
    swept = swept_settings(overrides)
    given = [parsed for parsed in OverridesParser.create().parse_overrides(list(overrides)) if _is_run_dir(parsed)]
    if not given or given[-1].get_key_element() in swept or math.prod(count or 2 for count in swept.values()) == 1:
        return
    folder = str(given[-1].input_line).partition("=")[2]  # as it was typed: the parsed value has lost its braces
    if folder != "null" and "${" not in folder:
        raise ConfigError(
            f"run_dir={folder} would be the folder of every run of this sweep: leave it out, or let it differ, as in "
            f"'run_dir={folder}/${{balancer.name}}-${{seed}}'."
        )


def _is_run_dir(override: Override) -> bool:
    return override.key_or_group == "run_dir" and not override.is_delete()


class SweepCallback(Callback):
    """Hydra's callback in the process that starts the sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the journal before any run is started."""
        parameters = config.hydra.sweeper.get("params") or {}
        overrides = [f"{key}={value}" for key, value in parameters.items()]
        Sweep.begin(Path(config.runs_dir), [*overrides, *config.hydra.overrides.task])


def register_callback() -> None:
    """Make the callback known to Hydra by name, so that no config names code to run."""
    node = {"sweep": {"_target_": f"{SweepCallback.__module__}.{SweepCallback.__name__}"}}
    ConfigStore.instance().store(group="hydra/callbacks", name="sweep", node=node)


def swept_settings(overrides: Sequence[str]) -> dict[str, int | None]:
    """The settings that a sweep varies, with their number of values; None for a search within an interval."""
    swept: dict[str, int | None] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        swept.pop(key, None)  # the last word on a setting counts
        if override.is_sweep_override():
            swept[key] = len(list(override.sweep_string_iterator())) if override.is_discrete_sweep() else None
    return swept


def _of(head: dict[str, Any]) -> str:
    return "" if head["total"] is None else f" of {head['total']}"


def _count(runs: Iterable[dict[str, Any]]) -> str:
    counts = Counter(line["outcome"] for line in runs)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in (FINISHED, SKIPPED, FAILED))


def _time_left(head: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """From the pace of the runs that were trained until now, whatever number of them runs at once."""
    trained = sum(line["outcome"] == FINISHED for line in runs)
    if head["total"] is None or not trained:
        return ""
    seconds = (time.time() - head["started"]) / trained * (head["total"] - len(runs))
    if seconds < 90:
        return f"; about {seconds:.0f} s left"
    return f"; about {seconds / 60:.0f} min left" if seconds < 5400 else f"; about {seconds / 3600:.1f} h left"
