"""Two machines without a common disk come to the same runs as one, whatever fails between them."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mtrl.cli import _parser
from mtrl.compose import compose_grid
from mtrl.experiment import run
from mtrl.run_folder import RunFolder
from mtrl.tune.commands import _settings
from mtrl.tune.evolution import Outcome
from mtrl.tune.jobs import work
from mtrl.tune.population import Book, read_book
from mtrl.tune.search import Search
from tests.mtrl.cluster import PATIENCE, TwoMachines, why_not
from tests.mtrl.paused_runs import lines
from tests.mtrl.processes import wait_until
from tests.mtrl.test_mtrl_tune_command import SMALL, command
from tests.mtrl.test_mtrl_tune_faults import OPTIONS, STEPS, decided, end

REASON = why_not()
pytestmark = [
    pytest.mark.faults,
    pytest.mark.usefixtures("ray_alone"),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
GRID = [*SMALL, "seed=range(1,9)", "tracking.progress=false"]
CUT = 30.0  # seconds


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[TwoMachines]:
    """Two of them, with a Ray node each."""
    both = TwoMachines(tmp_path / "machines")
    try:
        both.join()
        both.start_ray()
        yield both
    finally:
        both.close()


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What a search on one machine decides."""
    out = tmp_path_factory.mktemp("whole") / "search"
    settings = _settings(_parser().parse_args(["tune", *SMALL, STEPS, *OPTIONS]))
    whole = Search.begin(out, settings, told=nobody_listens)
    while not whole.done:
        job = whole.next_job()
        assert job is not None
        result = work(job, threads=1)
        whole.tell(job, Outcome(result["metric"], result["worst"], result["fault"]))
    return decided(read_book(out))


def nobody_listens(book: Book) -> None:
    """Nobody has to be told of a generation."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the runs of the grid measure on one machine."""
    place = tmp_path_factory.mktemp("runs")
    folders = [run(point.config).folder for point in compose_grid([*GRID, f"runs_dir={place}"])]
    return {folder.name: lines(folder) for folder in folders}


def sweep(machines: TwoMachines) -> "subprocess.Popen[str]":
    place = f"runs_dir={machines.head.folder / 'runs'}"
    whole = command("sweep", *GRID, place, "--address", machines.address, "--storage", machines.storage)
    return machines.head.start(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def tune(machines: TwoMachines, *arguments: str) -> "subprocess.Popen[str]":
    options = [option for option in OPTIONS if option not in ("--workers", "2")]
    where = ["--out", str(machines.head.folder / "search"), "--address", machines.address]
    return machines.head.start(
        command("tune", *arguments, *options, *where), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def measured(machines: TwoMachines) -> dict[str, Any]:
    folders = [
        RunFolder.of(point.config).path for point in compose_grid([*GRID, f"runs_dir={machines.head.folder / 'runs'}"])
    ]
    return {folder.name: lines(folder) for folder in folders}


def no_fault(machines: TwoMachines) -> None:
    pass


def kill_other(machines: TwoMachines) -> None:
    machines.other.kill()


def cut(machines: TwoMachines) -> None:
    with machines.cut(CUT):
        pass


@pytest.mark.parametrize("fault", [no_fault, kill_other, cut])
def test_a_sweep_of_eight_runs_is_that_of_one_machine(
    machines: TwoMachines, runs: dict[str, Any], fault: Callable[[TwoMachines], None]
) -> None:
    process = sweep(machines)
    cache = machines.other.folder / "tmp"
    wait_until(lambda: list(cache.rglob("run.json")), PATIENCE)  # the other machine has begun a run
    fault(machines)
    end(process)
    assert measured(machines) == runs


@pytest.mark.parametrize("fault", [no_fault, kill_other, cut])
def test_a_search_of_four_members_decides_what_one_machine_decides(
    machines: TwoMachines, search: list[object], fault: Callable[[TwoMachines], None]
) -> None:
    process = tune(machines, *SMALL, STEPS, "--storage", machines.storage)
    out = machines.head.folder / "search"
    wait_until(lambda: (out / "search.json").exists() and len(read_book(out).generations) > 1, PATIENCE)
    fault(machines)
    end(process)
    assert decided(read_book(out)) == search
    assert (out / "agent.zip").exists()


def test_a_search_whose_head_is_killed_is_resumed_to_the_same_decisions(
    machines: TwoMachines, search: list[object]
) -> None:
    process = tune(machines, *SMALL, STEPS, "--storage", machines.storage)
    out = machines.head.folder / "search"
    wait_until(lambda: (out / "search.json").exists() and len(read_book(out).generations) > 1, PATIENCE)
    machines.head.kill()
    assert process.poll() is not None
    machines.other.kill()
    machines.start_ray()
    end(tune(machines, "--resume"))
    assert decided(read_book(out)) == search
