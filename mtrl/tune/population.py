"""The book of a search: which member was what in which generation, and how it did. Plain data, written as JSON."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrl.errors import ConfigError
from mtrl.schedule import WeightSchedule
from mtrl.tune.evolution import FLOOR, QUANTILE, Genes, Outcome

BOOK = "search.json"
FORMAT = 1
ALGORITHMS = ("pbt", "pb2", "random")
SEARCHED = ("learning_rate", "target_entropy")


@dataclass(frozen=True)
class Settings:
    """What a search is.

    :param config: of every member, as a plain dict: seed, budget, and all that is not searched
    :param tasks: names of the K tasks
    :param total_env_steps: budget of a member
    :param population: N members, of seeds ``config.seed`` to ``config.seed + N - 1``
    :param algorithm: ``pbt``, ``pb2`` or ``random``
    :param metric: what is raised, from training episodes: a name of `mtrl.tune.member.METRICS`
    :param intervals: into which the budget is divided; copies are made between them
    :param quantile: share of the members that are replaced, and share that they are replaced by
    :param floor: least weight of a task, where equal weights are 1
    :param weights_on: ``loss`` or ``sampling``
    :param also: settings of the agent that are searched beside the weights
    :param baselines: balancers of which N seeds are trained after the search, for the comparison
    """

    config: dict[str, Any]
    tasks: tuple[str, ...]
    total_env_steps: int
    population: int = 8
    algorithm: str = "pbt"
    metric: str = "mean_success"
    intervals: int = 10
    quantile: float = QUANTILE
    floor: float = FLOOR
    weights_on: str = "loss"
    also: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The seed of the first member, which also fixes the search's own draws."""
        return int(self.config["seed"])


@dataclass(frozen=True)
class Member:
    """What a member is in one generation.

    :param genes: weights, and what is searched beside them
    :param parent: the member it was made a copy of at the beginning of the generation; None if it went on
    :param reason: of the copy: ``behind``, or the fault that ended it
    """

    genes: Genes
    parent: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Generation:
    """N members in one interval.

    :param members: N of them
    :param copied: whether the copies that it begins with are on the disk
    :param outcomes: how the members did; None while it runs
    """

    members: tuple[Member, ...]
    copied: bool = False
    outcomes: tuple[Outcome, ...] | None = None


@dataclass(frozen=True)
class Book:
    """All that a search has to remember.

    :param settings: of the search
    :param generations: from the first to the one that runs, or ran last
    """

    settings: Settings
    generations: tuple[Generation, ...] = field(default=())

    @property
    def finished(self) -> bool:
        """Whether every interval has been trained."""
        return len(self.generations) == self.settings.intervals and self.generations[-1].outcomes is not None

    def line(self, member: int) -> list[tuple[int, Genes]]:
        """Genes that a member's networks were trained with, through copies: ``(generation, genes)`` at each change."""
        changes: list[tuple[int, Genes]] = []
        for number in reversed(range(len(self.generations))):
            now = self.generations[number].members[member]
            if number == 0 or now.parent is not None:
                changes.append((number, now.genes))
            if now.parent is not None:
                member = now.parent
        return changes[::-1]

    def schedule(self, member: int) -> WeightSchedule:
        """The weights over the budget that led to a member as it is now."""
        line = self.line(member)
        times = tuple(number / self.settings.intervals for number, _ in line)
        return WeightSchedule(times, tuple(genes.weights for _, genes in line))

    def with_last(self, **changes: Any) -> "Book":
        """The book with changes to its last generation."""
        last = dataclasses.replace(self.generations[-1], **changes)
        return dataclasses.replace(self, generations=(*self.generations[:-1], last))

    def with_next(self, members: Sequence[Member]) -> "Book":
        """The book with another generation."""
        return dataclasses.replace(self, generations=(*self.generations, Generation(tuple(members))))

    @property
    def faults(self) -> list[str]:
        """Every fault of a member so far."""
        found = [generation.outcomes or () for generation in self.generations]
        return [outcome.fault for outcomes in found for outcome in outcomes if outcome.fault is not None]


def write_book(book: Book, folder: Path) -> None:
    """Write a book so that a crash leaves the old or the new one whole."""
    draft = folder / f"{BOOK}.new"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **dataclasses.asdict(book)}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / BOOK)


def read_book(folder: Path) -> Book:
    """The book of a search.

    :raises ConfigError: if the folder holds none that can be read here
    """
    try:
        values = json.loads((folder / BOOK).read_text(encoding="utf-8"))
        if values["format"] > FORMAT:
            raise ConfigError(f"'{folder}' holds a search of format {values['format']}, this version reads {FORMAT}.")
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["settings"].items()
        }
        return Book(Settings(**settings), tuple(_generation(entry) for entry in values["generations"]))
    except OSError as error:
        raise ConfigError(f"No search at '{folder}': it holds no {BOOK}.") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"'{folder / BOOK}' cannot be read ({type(error).__name__}: {error}).") from error


def _generation(entry: Mapping[str, Any]) -> Generation:
    members = tuple(
        Member(
            Genes(**{**member["genes"], "weights": tuple(member["genes"]["weights"])}),
            member["parent"],
            member["reason"],
        )
        for member in entry["members"]
    )
    outcomes = entry["outcomes"]
    return Generation(
        members, entry["copied"], None if outcomes is None else tuple(Outcome(**outcome) for outcome in outcomes)
    )
