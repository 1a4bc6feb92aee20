"""A population of ordinary runs: pausing, copying, keeping the books."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtrl.config import RunConfig
from mtrl.errors import ConfigError, RunPaused
from mtrl.experiment import run
from mtrl.run_folder import RunFolder
from mtrl.tracking import read_metrics
from mtrl.tune import member as members
from mtrl.tune import search as searches
from mtrl.tune.evolution import Genes, Outcome
from mtrl.tune.jobs import Job, work
from mtrl.tune.population import Book, Settings, read_book, write_book
from mtrl.tune.search import Search, member_config
from tests.grids import grid
from tests.mtrl.conftest import tiny
from tests.mtrl.paused_runs import checkpoints, comparable, everything

TASKS = tuple(f"point-{task}" for task in range(4))


# ---------------------------------------------------------------------- pausing


def test_a_run_that_pauses_is_the_run_that_does_not(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    whole, paused = (tiny_config(run_dir=str(tmp_path / name)) for name in ("whole", "paused"))
    run(whole)
    for moment in (40, 100):
        with pytest.raises(RunPaused, match=f"Paused at env step {moment}"):
            run(paused, pause_at=moment)
        assert checkpoints(tmp_path / "paused")[0].env_steps == moment
    run(paused)
    assert everything(tmp_path / "paused") == everything(tmp_path / "whole")


# ---------------------------------------------------------------------- copies


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunConfig, RunConfig]:
    """Two members with different seeds and weights, at the end of the first half of their budget."""
    made = []
    for number, weights in enumerate(([4.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 4.0])):
        balancer = {"name": "schedule", "options": {"times": [0.0], "weights": [weights]}}
        values = tiny(tmp_path, run_dir=str(tmp_path / f"{number:03d}"), balancer=balancer, seed=number)
        made.append(RunConfig.from_dict(values))
        with pytest.raises(RunPaused):
            run(made[-1], pause_at=80)
    return made[0], made[1]


def state(config: RunConfig) -> dict[str, Any]:
    """Everything of the newest checkpoint, so that it can be compared."""
    contents = checkpoints(RunFolder.of(config).path)[0].read()
    return {**contents["state"], "config": contents["config"], **comparable(contents["agent"])}


def test_a_copy_has_the_parents_agent_and_replay_and_its_own_generators_and_environments(
    pair: tuple[RunConfig, RunConfig],
) -> None:
    parent, child = pair
    theirs, ours = state(parent), state(child)
    members.adopt(child, parent)
    copy = state(child)
    for name in ("parts", "progress", "counters", "guard"):
        assert copy[name] == theirs[name]
    assert copy["generators"] == ours["generators"] != theirs["generators"]
    assert copy["environments"] == ours["environments"] != theirs["environments"]
    assert copy["config"] == child.to_dict()
    for chunk in checkpoints(RunFolder.of(parent).path)[0].chunks:
        files = [checkpoints(RunFolder.of(config).path)[0].path / chunk.name for config in pair]
        assert os.path.samefile(*files)  # hard links: no transition is written twice


def test_copying_twice_changes_nothing(pair: tuple[RunConfig, RunConfig]) -> None:
    parent, child = pair
    members.adopt(child, parent)
    once = state(child)
    members.adopt(child, parent)
    assert state(child) == once and len(checkpoints(RunFolder.of(child).path)) == 1


def test_a_copy_goes_on_as_an_ordinary_run_with_new_weights(pair: tuple[RunConfig, RunConfig]) -> None:
    parent, child = pair
    options = {"times": [0.0, 0.5], "weights": [[4.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]]}
    child = replace(child, balancer=replace(child.balancer, options=options))
    members.adopt(child, parent)
    run(child)
    folder = RunFolder.of(child)
    lines = read_metrics(folder.path)
    steps = [line["env_steps"] for line in lines if "train/n_updates" in line]
    assert folder.status == "finished" and steps == sorted(set(steps)) and steps[-1] == 160
    assert [lines[-2][f"balancer_weight/point-{task}"] for task in range(4)] == pytest.approx([0.4, 0.8, 1.2, 1.6])


def test_a_member_without_a_checkpoint_gets_generators_of_its_own_seed(pair: tuple[RunConfig, RunConfig]) -> None:
    parent, child = pair
    newcomer = replace(child, run_dir=str(RunFolder.of(child).path.with_name("002")), seed=7)
    members.adopt(newcomer, parent)
    copy, theirs = state(newcomer), state(parent)
    assert copy["parts"] == theirs["parts"] and copy["generators"] != theirs["generators"]
    run(newcomer)
    assert RunFolder.of(newcomer).status == "finished"


def test_a_member_is_measured_by_its_training_episodes(pair: tuple[RunConfig, RunConfig]) -> None:
    outcome = members.measure(pair[0], "mean_return")
    returns = checkpoints(RunFolder.of(pair[0]).path)[0].read()["agent"]["progress"]["returns"]
    means = [sum(window) / len(window) for window in returns]
    assert outcome.metric == pytest.approx(sum(means) / 4) and outcome.worst == pytest.approx(min(means))


# ---------------------------------------------------------------------- jobs


def test_a_job_that_is_done_is_not_done_again(pair: tuple[RunConfig, RunConfig], tmp_path: Path) -> None:
    before = state(pair[0])
    found = work(Job("again", pair[0].to_dict(), "mean_success", 80, str(tmp_path / "log.txt")), threads=1)
    assert found["fault"] is None and found["metric"] is not None and state(pair[0]) == before


def test_a_job_that_fails_says_why_instead_of_raising(tmp_path: Path) -> None:
    values = tiny(tmp_path, run_dir=str(tmp_path / "run"), env={"suite": "gym", "tasks": ["Nothing-v0"]})
    found = work(Job("bad", values, "mean_success", None, str(tmp_path / "log.txt")), threads=1)
    assert found["fault"].startswith("failed: ") and "Nothing-v0" in found["fault"]


def test_a_member_that_diverges_is_an_outcome_and_no_crash(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents import NonFiniteUpdate

    def diverge(*arguments: Any) -> None:
        raise NonFiniteUpdate("20 updates in a row were skipped", "critic loss", ["point-0"], {})

    monkeypatch.setattr(members, "run", diverge)
    outcome = members.train(tiny_config(), 40, "mean_success")
    assert outcome.fault is not None and outcome.fault.startswith("diverged: ")


# ---------------------------------------------------------------------- the book


@pytest.fixture
def adopted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Copies that a search asks for, as names of run folders; none is made."""
    made: list[tuple[str, str]] = []

    def note(child: RunConfig, parent: RunConfig) -> None:
        made.append((Path(str(child.run_dir)).name, Path(str(parent.run_dir)).name))

    monkeypatch.setattr(searches, "adopt", note)
    return made


def settings(**changes: Any) -> Settings:
    config = RunConfig.from_dict({"env": {"suite": "pointmass"}, "seed": 5, "total_env_steps": 1_000})
    defaults: dict[str, Any] = {"population": 8, "intervals": 4}
    return Settings(config.to_dict(), TASKS, 1_000, **{**defaults, **changes})


def quiet(book: Book) -> None:
    return None


def score(member: int, generation: int) -> Outcome:
    return Outcome(
        ((member * 37 + generation * 11) % 8) / 8, 0.0, "diverged: NaN" if member == 6 == generation + 5 else None
    )


def go_on(search: Search, jobs: int) -> int:
    """Do so many jobs of a search, or all that are left; returns how many."""
    count = 0
    while not search.done and count < jobs:
        job = search.next_job()
        assert job is not None
        search.tell(job, score(job.key, len(search.book.generations)))
        count += 1
    return count


def test_every_interval_of_every_member_is_one_job(tmp_path: Path, adopted: list[tuple[str, str]]) -> None:
    search = Search.begin(tmp_path / "search", settings(), quiet)
    assert search.jobs_left == 32
    first = search.next_job()
    assert first is not None and first.pause_at == 250 and first.config["seed"] == 5
    search.tell(first, Outcome(0.5, 0.0))
    assert search.jobs_left == 31 and go_on(search, 10**6) == 31
    assert search.done and len(adopted) >= 3
    last = [generation.outcomes for generation in search.book.generations][-1]
    assert last is not None and search.best == max(range(8), key=lambda member: last[member].rank)


def test_nobody_begins_an_interval_before_all_have_ended_the_one_before(
    tmp_path: Path, adopted: list[tuple[str, str]]
) -> None:
    search = Search.begin(tmp_path / "search", settings(), quiet)
    jobs = [search.next_job() for _ in range(8)]
    assert search.next_job() is None
    for job in jobs:
        assert job is not None and job.pause_at == 250
        search.tell(job, Outcome(0.5, 0.0))
    job = search.next_job()
    assert job is not None and job.pause_at == 500


@grid("stops", [(3,), (8, 1), (9, 7, 16)], always=[(9, 7, 16)])
def test_a_search_that_was_interrupted_decides_like_one_that_was_not(
    tmp_path: Path, adopted: list[tuple[str, str]], stops: tuple[int, ...]
) -> None:
    whole = Search.begin(tmp_path / "whole", settings(), quiet)
    go_on(whole, 10**6)
    search = Search.begin(tmp_path / "search", settings(), quiet)
    for jobs in stops:
        go_on(search, jobs)
        search = Search.resume(tmp_path / "search", quiet)
    go_on(search, 10**6)
    assert search.book == whole.book == read_book(tmp_path / "search")


def test_copies_that_a_crash_may_have_left_half_made_are_made_again(
    tmp_path: Path, adopted: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search.begin(tmp_path / "search", settings(), quiet)

    def crash(child: RunConfig, parent: RunConfig) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(searches, "adopt", crash)
        go_on(search, 8)
    assert not read_book(tmp_path / "search").generations[-1].copied
    again = Search.resume(tmp_path / "search", quiet)
    assert adopted and again.book.generations[-1].copied
    adopted.clear()
    Search.resume(tmp_path / "search", quiet)
    assert not adopted


def test_a_member_with_a_fault_is_replaced_and_counted(tmp_path: Path, adopted: list[tuple[str, str]]) -> None:
    search = Search.begin(tmp_path / "search", settings(algorithm="random"), quiet)
    go_on(search, 8)
    replaced = {number: now for number, now in enumerate(search.book.generations[1].members) if now.parent is not None}
    assert list(replaced) == [6] and replaced[6].reason == "diverged: NaN"
    assert search.book.faults == ["diverged: NaN"]


def test_a_search_whose_members_all_fail_says_why_and_can_go_on_when_that_is_mended(
    tmp_path: Path, adopted: list[tuple[str, str]]
) -> None:
    search = Search.begin(tmp_path / "search", settings(population=2, intervals=1), quiet)
    jobs = [search.next_job(), search.next_job()]
    assert jobs[0] is not None and jobs[1] is not None
    search.tell(jobs[0], Outcome(None, None, "failed: no disk"))
    with pytest.raises(ConfigError, match="Every member of the search has failed; the first one failed: no disk"):
        search.tell(jobs[1], Outcome(None, None, "failed: no disk"))
    search = Search.resume(tmp_path / "search", quiet)
    assert go_on(search, 10) == 2 and search.done


def test_the_schedule_of_a_member_follows_its_line_through_copies(tmp_path: Path) -> None:
    genes = [Genes((float(number), 4.0 - number)) for number in range(4)]
    book = Book(settings(population=2, intervals=4))
    for generation in ([(0, None), (1, None)], [(0, None), (2, 0)], [(3, 1), (2, None)]):
        rows = [searches.Member(genes[number], parent) for number, parent in generation]
        book = book.with_next(rows)
    assert book.schedule(0).times == (0.0, 0.25, 0.5)
    assert book.schedule(0).weights == ((0.0, 4.0), (2.0, 2.0), (3.0, 1.0))
    assert book.schedule(1).weights == ((0.0, 4.0), (2.0, 2.0))
    config = member_config(book, 1, tmp_path)
    assert config.balancer.options["times"] == [0.0, 0.25] and config.seed == 6
    write_book(book, tmp_path)
    assert read_book(tmp_path) == book


def test_a_search_is_not_begun_twice_and_not_gone_on_with_where_there_is_none(
    tmp_path: Path, adopted: list[tuple[str, str]]
) -> None:
    Search.begin(tmp_path / "search", settings(), quiet)
    with pytest.raises(ConfigError, match="holds a search already: resume it with --resume"):
        Search.begin(tmp_path / "search", settings(), quiet)
    with pytest.raises(ConfigError, match="No search at"):
        Search.resume(tmp_path / "nowhere", quiet)
    (tmp_path / "search" / "search.json").write_text("{")
    with pytest.raises(ConfigError, match=r"search.json' cannot be read"):
        Search.resume(tmp_path / "search", quiet)


# ---------------------------------------------------------------------- PB2


def test_the_bandit_moves_weights_within_their_bounds_and_the_same_seed_moves_them_alike(
    tmp_path: Path, adopted: list[tuple[str, str]]
) -> None:
    import numpy as np

    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr]  # noqa: NPY002
    books = []
    for name in ("first", "second"):
        search = Search.begin(tmp_path / name, settings(algorithm="pb2", also=("learning_rate",)), quiet)
        go_on(search, 24)
        books.append(search.book)
    assert books[0] == books[1]
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr]  # noqa: NPY002
    copies = [now for generation in books[0].generations[1:] for now in generation.members if now.parent is not None]
    assert copies
    for now in copies:
        assert sum(now.genes.weights) == pytest.approx(4) and min(now.genes.weights) >= 0.05 - 1e-9
        assert now.genes.learning_rate is not None and 3e-4 / 4.01 <= now.genes.learning_rate <= 3e-4 * 4.01
