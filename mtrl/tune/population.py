"""The book of a search: which member was what in which generation, and how it did. Plain data, written as JSON."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrl.errors import ConfigError
from mtrl.run_folder import write_whole
from mtrl.tune.evolution import FLOOR, QUANTILE, Genes, Outcome
from mtrl.weight_schedule import WeightSchedule

BOOK = "search.json"
FORMAT = 1
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
    :param storage: URI of what the machines share; None where they share a disk
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
    storage: str | None = None

    @property
    def seed(self) -> int:
        """The seed of the first member, which also fixes the search's own draws."""
        return int(self.config["seed"])


@dataclass(frozen=True)
class Member:
    """What a member is in one generation.

    :param genes: weights, and what is searched beside them
    :param parent: the member it was made a copy of at the beginning of the generation; None if it continued
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

    @property
    def ended(self) -> list[tuple[Outcome, ...]]:
        """Outcomes of the N members in every generation that has ended."""
        return [generation.outcomes for generation in self.generations if generation.outcomes is not None]

    def line(self, member: int) -> list[int]:
        """Which member a member's networks were in, generation by generation, through copies."""
        line = []
        for generation in reversed(self.generations):
            line.append(member)
            parent = generation.members[member].parent
            member = member if parent is None else parent
        return line[::-1]

    def schedule(self, member: int) -> WeightSchedule:
        """The weights over the budget that led to a member as it is now."""
        path = [generation.members[one] for generation, one in zip(self.generations, self.line(member), strict=True)]
        changes = [number for number, now in enumerate(path) if number == 0 or now.parent is not None]
        times = tuple(number / self.settings.intervals for number in changes)
        weights = tuple(path[number].genes.weights for number in changes)
        return WeightSchedule(self.settings.tasks, times, weights)

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
        return [outcome.fault for outcomes in self.ended for outcome in outcomes if outcome.fault is not None]


def write_book(book: Book, folder: Path) -> None:
    """Write a book so that a crash leaves the old or the new one whole."""
    write_whole(folder / BOOK, json.dumps({"format": FORMAT, **dataclasses.asdict(book)}))


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
