"""Whatever is killed in the middle of a search, going on with it comes to the same search, to the last digit."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mtrl.tune.population import Book, read_book
from tests.mtrl.test_mtrl_tune_command import ROOT, SMALL, command

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("ray_alone")]

OPTIONS = ["--population", "4", "--intervals", "3", "--metric", "mean_return", "--workers", "2"]
STEPS = "total_env_steps=4_000"
PATIENCE = 600.0  # seconds; a busy machine takes a minute to start Ray


def start(out: Path, *arguments: str) -> "subprocess.Popen[str]":
    whole = command("tune", *arguments, *OPTIONS, "--out", str(out))
    return subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: "subprocess.Popen[str]") -> None:
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr[-3000:]


def decided(book: Book) -> list[object]:
    """What was decided and what came of it."""
    return [(generation.members, generation.outcomes) for generation in book.generations]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def in_second_interval(out: Path) -> bool:
    """Whether some member trains beyond the first interval."""
    if not (out / "search.json").exists() or len(read_book(out).generations) < 2:
        return False
    return any('"status": "running"' in path.read_text() for path in (out / "members").glob("*/run.json"))


def family(process: "subprocess.Popen[str]", *names: str) -> list[psutil.Process]:
    """The processes of a search whose command line begins with one of the names; all without a name."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if not names or any(name in line for name in names):
            found.append(child)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What a search decides that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "search"
    end(start(out, *SMALL, STEPS))
    return decided(read_book(out))


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(tmp_path: Path, undisturbed: list[object]) -> None:
    out = tmp_path / "search"
    process = start(out, *SMALL, STEPS)
    wait_until(lambda: in_second_interval(out))
    workers = family(process, "ray::Worker")
    assert workers
    for worker in workers:
        worker.kill()
    end(process)
    assert decided(read_book(out)) == undisturbed


@pytest.mark.parametrize("victim", ["driver", "gcs_server", "raylet"])
def test_a_search_goes_on_after_its_driver_or_the_head_of_ray_is_killed(
    tmp_path: Path, undisturbed: list[object], victim: str
) -> None:
    out = tmp_path / "search"
    process = start(out, *SMALL, STEPS)
    wait_until(lambda: in_second_interval(out))
    everybody = family(process)
    victims = [psutil.Process(process.pid)] if victim == "driver" else family(process, victim)[:1]
    assert victims
    victims[0].kill()
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # it may wait for a head that does not come back
        process.kill()
        process.communicate()
    assert psutil.wait_procs(everybody, timeout=120)[1] == []
    end(start(out, "--resume"))
    assert decided(read_book(out)) == undisturbed
    assert not (out / "ray").exists()
