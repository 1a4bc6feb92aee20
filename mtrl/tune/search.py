"""A search, generation by generation: train every member for an interval, decide, copy, write it down.

It asks for work and is told what became of it (`next_job`, `tell`), and knows nothing of who does it.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.tune.bandit import explore_by_bandit
from mtrl.tune.evolution import Genes, Outcome, exploit, explore, founders, random_weights, ranking
from mtrl.tune.jobs import Job, toolkit_version
from mtrl.tune.member import adopt
from mtrl.tune.population import BOOK, Book, Member, Settings, read_book, write_book
from mtrl.tune.storage import Storage

MEMBERS, TIMES = "members", "times.jsonl"

# The genes of the copies, from the book and ``{member: the one it becomes a copy of}``.
Explore = Callable[[Book, Mapping[int, int], np.random.Generator], dict[int, Genes]]


class Search:
    """A search in a folder; what it has decided is on the disk before anybody acts on it.

    :param folder: of the search
    :param book: as it was written there
    :param told: is told after every generation
    """

    def __init__(self, folder: Path, book: Book, told: Callable[[Book], None]) -> None:
        self.folder, self.book, self.told = folder, book, told
        self.storage = None if book.settings.storage is None else Storage(book.settings.storage)
        self._waiting: list[int] = []  # members whose interval nobody has begun
        self._outcomes: dict[int, Outcome] = {}
        self._began = time.monotonic()  # the generation
        self._seconds = self._copying = 0.0  # which its jobs took together, and the copies that it began with
        if not book.finished:
            self._begin_generation()

    @classmethod
    def begin(cls, folder: Path, settings: Settings, told: Callable[[Book], None]) -> "Search":
        """Start a search.

        :raises ConfigError: if the folder holds one already
        """
        if (folder / BOOK).exists():
            raise ConfigError(f"'{folder}' holds a search already: resume it with --resume, or choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        first = founders(settings.population, _common(settings), _generator(settings, 0), settings.floor)
        book = Book(settings).with_next(members_of(first))
        write_book(book, folder)
        return cls(folder, book, told)

    @classmethod
    def resume(cls, folder: Path, told: Callable[[Book], None]) -> "Search":
        """Resume a search, from whatever state it was left in.

        :raises ConfigError: if there is none
        """
        return cls(folder, read_book(folder), told)

    @property
    def done(self) -> bool:
        """Whether every interval has been trained."""
        return self.book.finished

    @property
    def jobs_left(self) -> int:
        """Intervals of members that are still to be trained, those in training included."""
        book = self.book
        ahead = book.settings.intervals - len(book.generations)
        return 0 if book.finished else (ahead + 1) * book.settings.population - len(self._outcomes)

    def next_job(self) -> Job | None:
        """The interval of a member that nobody has begun; None while those in training have to be waited for."""
        if not self._waiting:
            return None
        member = self._waiting.pop(0)
        generation, settings = len(self.book.generations), self.book.settings
        last = generation == settings.intervals
        return Job(
            name=f"generation {generation}, member {member}",
            config=self.config(member).to_dict(),
            metric=settings.metric,
            pause_at=None if last else settings.total_env_steps * generation // settings.intervals,
            log=str(self.folder / "logs" / f"member-{member:03d}.txt"),
            key=member,
            storage=settings.storage,
            run=member_name(member),
            version=toolkit_version(),
        )

    def tell(self, job: Job, outcome: Outcome, seconds: float = 0.0) -> None:
        """Take note of what became of a job; when it was the generation's last, the next one begins.

        :raises ConfigError: if every member has a fault
        """
        self._outcomes[job.key] = outcome
        self._seconds += seconds
        members = range(self.book.settings.population)
        if len(self._outcomes) < len(members):
            return
        outcomes = tuple(self._outcomes[member] for member in members)
        if all(outcome.fault is not None for outcome in outcomes):
            # Not written down: whoever removes the reason resumes before it.
            raise ConfigError(f"Every member of the search has failed; the first one {outcomes[0].fault}")
        self.book, self._outcomes = self.book.with_last(outcomes=outcomes), {}
        if not self.book.finished:
            self.book = self.book.with_next(decide(self.book))
        write_book(self.book, self.folder)
        self._note_time()
        self.told(self.book)
        if not self.book.finished:
            self._begin_generation()

    def config(self, member: int) -> RunConfig:
        """The config of a member as it is now."""
        return member_config(self.book, member, self.folder)

    @property
    def best(self) -> int:
        """The member that did best in the last generation that has ended, by training episodes alone."""
        return ranking(self.book.ended[-1])[0] if self.book.ended else 0

    def _note_time(self) -> None:
        now = time.monotonic()
        line = {
            "generation": len(self.book.ended),
            "wall_seconds": round(now - self._began, 3),
            "job_seconds": round(self._seconds, 3),
            "copy_seconds": round(self._copying, 3),
        }
        with (self.folder / TIMES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._began, self._seconds, self._copying = now, 0.0, 0.0

    def _begin_generation(self) -> None:
        last = self.book.generations[-1]
        if not last.copied:
            began = time.monotonic()
            # Nobody trains: every parent still stands at the end of its interval, also after a crash right here.
            for number, member in enumerate(last.members):
                if member.parent is not None:
                    self._adopt(number, member.parent)
            if self.storage is not None:
                self.storage.collect(older_than=0.0)  # nobody trains, so nobody stores
            self.book = self.book.with_last(copied=True)
            write_book(self.book, self.folder)
            self._copying = time.monotonic() - began
        self._waiting = list(range(len(last.members)))

    def _adopt(self, child: int, parent: int) -> None:
        members = {number: self.folder / member_name(number) for number in (child, parent)}
        if self.storage is not None:
            for number, folder in members.items():
                self.storage.fetch(member_name(number), folder)
        adopt(self.config(child), self.config(parent))
        if self.storage is not None:
            self.storage.push(member_name(child), members[child])

    def fetch_results(self) -> None:
        """Bring what the members left, save their checkpoints, to the folder of the search."""
        if self.storage is not None:
            for member in range(self.book.settings.population):
                self.storage.fetch(member_name(member), self.folder / member_name(member), checkpoints=False)


def members_of(genes: Iterable[Genes]) -> list[Member]:
    """Members that are copies of nobody."""
    return [Member(one) for one in genes]


def decide(book: Book) -> list[Member]:
    """The members of the next generation; the same book decides the same."""
    settings, last = book.settings, book.generations[-1]
    assert last.outcomes is not None
    generator = _generator(settings, len(book.generations))
    copies = exploit(last.outcomes, 0.0 if settings.algorithm == "random" else settings.quantile, generator)
    genes = EXPLORERS[settings.algorithm](book, copies, generator)
    return [
        Member(genes[number], copies[number], last.outcomes[number].fault or "behind")
        if number in copies
        else Member(member.genes)
        for number, member in enumerate(last.members)
    ]


def _explore_nearby(book: Book, copies: Mapping[int, int], generator: np.random.Generator) -> dict[int, Genes]:
    members = book.generations[-1].members
    return {child: explore(members[parent].genes, generator, book.settings.floor) for child, parent in copies.items()}


def _explore_anywhere(book: Book, copies: Mapping[int, int], generator: np.random.Generator) -> dict[int, Genes]:
    """Random search makes copies only in the place of members that cannot continue."""
    members, settings = book.generations[-1].members, book.settings
    return {
        child: replace(members[parent].genes, weights=random_weights(len(settings.tasks), generator, settings.floor))
        for child, parent in copies.items()
    }


EXPLORERS: dict[str, Explore] = {"pbt": _explore_nearby, "pb2": explore_by_bandit, "random": _explore_anywhere}


def member_name(member: int) -> str:
    """The folder of a member within that of the search, and its name within a storage."""
    return f"{MEMBERS}/{member:03d}"


def member_config(book: Book, member: int, folder: Path) -> RunConfig:
    """The config of a member in the last generation: an ordinary run that follows the weights of its line."""
    settings, genes = book.settings, book.generations[-1].members[member].genes
    config = RunConfig.from_dict(settings.config)
    searched = {name: getattr(genes, name) for name in settings.also}
    options = {"weights_on": settings.weights_on, "search": settings.algorithm}
    balancer = replace(config.balancer, name="schedule", options=options)
    config = replace(
        config,
        balancer=balancer,
        agent=replace(config.agent, **searched),
        seed=settings.seed + member,
        run_dir=str(folder / member_name(member)),
    )
    return config.with_schedule(book.schedule(member))


def _common(settings: Settings) -> Genes:
    """Equal weights, and the numbers of the config for what is searched beside them."""
    agent = settings.config["agent"]
    return Genes((1.0,) * len(settings.tasks), **{name: float(agent[name]) for name in settings.also})


def _generator(settings: Settings, generation: int) -> np.random.Generator:
    # A stream for every generation: what is decided does not depend on how often a search was interrupted.
    return np.random.default_rng([settings.seed, generation])
