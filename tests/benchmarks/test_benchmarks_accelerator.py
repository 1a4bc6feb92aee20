"""The script for an accelerator: every part goes through on a CPU, and what fails in one leaves the others alone."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.accelerator import __main__ as script
from benchmarks.accelerator import measure, updates
from benchmarks.accelerator.plan import PARTS, SECONDS
from benchmarks.accelerator.setup import Setup

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {part.name: part for part in PARTS}


def test_the_limits_of_the_parts_are_eight_minutes_together():
    assert sum(part.limit for part in PARTS) <= SECONDS == 8 * 60


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ("choices_8", "choices_16", "compiled")])
def test_a_part_goes_through_on_a_cpu_with_tiny_sizes(tmp_path, name):
    threads = torch.get_num_threads()
    try:
        measure.measure(name, tmp_path, rehearse=True)
    finally:
        torch.set_num_threads(threads)
    rows = measure.read_rows(tmp_path / f"{name}.jsonl")
    assert rows and not [row for row in rows if row.get("note", "").startswith("Failed")]
    assert name != "checks" or {row["holds"] for row in rows} == {"yes"}
    assert name != "training" or {row["what"] for row in rows} == {"training episodes", "evaluation"}


@pytest.mark.faults
def test_updates_are_compiled_and_asked_to_be_captured_on_a_cpu_too(tmp_path):
    measure.measure("compiled", tmp_path, rehearse=True)
    rows = measure.read_rows(tmp_path / "compiled.jsonl")
    assert len(rows) == 9 and not any("note" in row for row in rows)


def test_a_part_that_runs_out_of_memory_says_so_and_the_rest_is_measured(tmp_path, monkeypatch):
    def parts(name, rehearse, out):
        def too_large():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")

        def broken():
            raise ValueError("no such thing\nand a page more")

        return iter([("large", too_large), ("broken", broken), ("small", lambda: {"ms": 1.0})])

    monkeypatch.setattr(measure, "measurements", parts)
    measure.measure("updates", tmp_path, rehearse=True)
    notes = {row["what"]: row.get("note") for row in measure.read_rows(tmp_path / "updates.jsonl")}
    assert notes["large"] == "CUDA out of memory: not measured."
    assert notes["broken"].startswith("Failed: ") and "\n" not in notes["broken"]
    assert notes["small"] is None


def test_what_is_measured_is_not_measured_again(tmp_path, monkeypatch):
    calls = []

    def parts(name, rehearse, out):
        return iter([(what, lambda what=what: (calls.append(what), {"ms": 1.0})[1]) for what in ("a", "b")])

    monkeypatch.setattr(measure, "measurements", parts)
    (tmp_path / "updates.jsonl").write_text('{"of": "a", "what": "a", "ms": 2.0}\n{"of": "b", "wh')  # it was killed
    measure.measure("updates", tmp_path, rehearse=True)
    assert calls == ["b"]


def session(tmp_path, monkeypatch, code, limits=None):
    """A session whose parts are a line of Python."""
    monkeypatch.setattr(
        script.Session, "_machine", lambda self: {"device": "a device", "cores": 2, "python": "", "torch": ""}
    )
    made = script.Session(tmp_path, rehearse=False, wheels=None, limits=limits or {})
    monkeypatch.setattr(
        made, "_command", lambda part, **options: subprocess.Popen(
            [sys.executable, "-c", code, part], start_new_session=True, **options
        )
    )  # fmt: skip
    return made


def test_a_part_that_takes_too_long_is_stopped_with_all_that_it_started_and_the_next_one_runs(tmp_path, monkeypatch):
    code = (
        "import subprocess, sys, time\n"
        "if sys.argv[1] == 'checks':\n"
        "    print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    )
    made = session(tmp_path, monkeypatch, code, {"checks": 2.0})
    made.run([BY_NAME["checks"], BY_NAME["updates"]])
    found = json.loads((tmp_path / script.RESULTS).read_text())["parts"]
    assert found["checks"]["note"] == "Stopped at its limit of 2 s: the same command measures the rest."
    assert not found["checks"]["complete"] and found["updates"]["complete"]
    child = int((tmp_path / "checks.log").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    assert "Stopped at its limit" in (tmp_path / script.TABLE).read_text()


def test_a_part_that_dies_says_how_and_is_tried_again_by_the_same_command(tmp_path, monkeypatch):
    mark = str(tmp_path / "tried")
    code = (
        f"import os, sys; tried = os.path.exists({mark!r}); open({mark!r}, 'w'); "
        "sys.exit(0 if tried else 'Illegal instruction')"
    )
    made = session(tmp_path, monkeypatch, code)
    made.run([BY_NAME["checks"]])
    assert made.results["parts"]["checks"]["note"] == "Ended with code 1: Illegal instruction"
    made.run([BY_NAME["checks"]])
    assert made.results["parts"]["checks"]["complete"]


def test_fewer_cores_than_a_part_is_for_are_said(tmp_path, monkeypatch):
    made = session(tmp_path, monkeypatch, "pass")
    made.run([BY_NAME["choices_16"]])
    assert made.results["parts"]["choices_16"]["note"] == "The machine has 2 cores: measured on these."


def refused(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.accelerator", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr.strip()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator here")
def test_without_an_accelerator_it_says_what_is_missing(tmp_path):
    sentence = refused("--out", str(tmp_path / "out"))
    assert sentence.startswith(f"accelerator: PyTorch {torch.__version__} finds no CUDA device here: --rehearse ")
    assert "\n" not in sentence


def test_a_folder_without_wheels_and_results_of_another_kind_are_refused(tmp_path, monkeypatch):
    with pytest.raises(script.Refused, match="--wheels must be a folder with wheels in it, found '.*nothing'"):
        script.unpack(tmp_path / "nothing", tmp_path)
    session(tmp_path, monkeypatch, "pass").write()
    with pytest.raises(script.Refused, match="holds measurements: choose another --out"):
        script.Session(tmp_path, rehearse=True, wheels=None, limits={})


def test_wheels_are_laid_into_a_folder_that_python_imports_from(tmp_path):
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing/__init__.py", "answer = 41 + 1\n")
    folder = script.unpack(tmp_path, tmp_path / "packages")
    done = subprocess.run([sys.executable, "-c", "import thing; print(thing.answer)"], env={"PYTHONPATH": str(folder)},
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.stdout == "42\n"


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "NEEDED", ("torch", "no_such_package"))
    assert measure.describe_machine()["missing"] == ["no_such_package"]


def test_every_precision_is_that_of_its_name():
    setup = Setup(device="cpu", rounds=1, calls=1)
    small = ("env=pointmass", "network.hidden_sizes=[8]", "agent.samples_per_task=4")
    agents = {name: updates.agent_of(setup, small, name) for name in updates.PRECISIONS}
    assert {name: (agent.precision, agent.float32_mode) for name, agent in agents.items()} == {
        "float32": ("float32", "highest"),
        "TF32": ("float32", "high"),
        "bfloat16": ("bfloat16", "highest"),
    }
