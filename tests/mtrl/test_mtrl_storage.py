"""Runs travel through a storage: whole, once, and to the same numbers on another machine."""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtrl.config import RunConfig
from mtrl.errors import RunPaused
from mtrl.experiment import run
from mtrl.tune import jobs as at_work
from mtrl.tune import member as members
from mtrl.tune import storage as stores
from mtrl.tune.jobs import Job, toolkit_version, work
from mtrl.tune.storage import Storage, StorageError
from tests.mtrl.conftest import tiny
from tests.mtrl.paused_runs import checkpoints, everything

pytest.importorskip("pyarrow", reason="the extra `tune` is not installed")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of a bucket on a stand-in for S3 on this machine."""
    server = pytest.importorskip("moto.server", reason="moto, the stand-in for S3, is not installed")
    stand_in = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    stand_in.start()
    host, port = stand_in.get_host_and_port()
    yield f"s3://key:secret@runs/here?endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
    stand_in.stop()


@pytest.fixture(params=["folder", "S3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Storages of both kinds; a bucket is made, and each test has a path of its own in it."""
    if request.param == "folder":
        return str(tmp_path / "shared")
    address, query = request.getfixturevalue("bucket").split("?")
    from pyarrow.fs import FileSystem

    files, path = FileSystem.from_uri(f"{address}?{query}")
    files.create_dir(path.partition("/")[0])
    return f"{address}/{tmp_path.name}?{query}"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of several machines: each has its own disk for copies."""

    def choose(name: str) -> Path:
        place = tmp_path / "machines" / name
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(tempfile, "gettempdir", lambda: str(place))
        return place

    choose("first")
    return choose


def paused(folder: Path, moment: int = 80, **changes: Any) -> RunConfig:
    config = RunConfig.from_dict(tiny(folder.parent, run_dir=str(folder), **changes))
    with pytest.raises(RunPaused):
        run(config, pause_at=moment)
    return config


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def contents(storage: Storage) -> set[str]:
    return {info.base_name for info in storage._list("objects")}


def test_a_run_that_is_stored_and_fetched_is_the_same_folder(tmp_path: Path, uri: str, machine: Any) -> None:
    paused(tmp_path / "run")
    Storage(uri).push("a/run", tmp_path / "run")
    machine("second")
    (tmp_path / "elsewhere" / "checkpoints" / "step-000000000001").mkdir(parents=True)  # of an older state
    Storage(uri).fetch("a/run", tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == files(tmp_path / "run")
    Storage(uri).fetch("a/run", tmp_path / "results", checkpoints=False)
    assert "run.json" in files(tmp_path / "results") and not (tmp_path / "results" / "checkpoints").exists()


def test_a_run_goes_on_on_another_machine_to_the_same_numbers(tmp_path: Path, uri: str, machine: Any) -> None:
    whole = RunConfig.from_dict(tiny(tmp_path, run_dir=str(tmp_path / "whole")))
    run(whole)
    job = Job("", whole.to_dict(), "mean_return", 80, "", storage=uri, run="members/000", version=toolkit_version())
    assert work(job, threads=1)["fault"] is None
    machine("second")
    assert work(dataclasses.replace(job, pause_at=None), threads=1)["fault"] is None
    Storage(uri).fetch("members/000", tmp_path / "fetched")
    assert everything(tmp_path / "fetched") == everything(tmp_path / "whole")
    assert [info.base_name for info in Storage(uri)._list("logs")] == ["000.txt"]


def test_transitions_that_two_members_share_are_stored_once_and_travel_once(
    tmp_path: Path, uri: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = paused(tmp_path / "parent"), paused(tmp_path / "child", seed=2)
    storage = Storage(uri)
    storage.push("parent", tmp_path / "parent")
    members.adopt(child, parent)
    before = contents(storage)
    storage.push("child", tmp_path / "child")
    chunks = {name for name in files(tmp_path / "child") if "replay" in name}
    added = contents(storage) - before
    assert chunks and not added & {stores._known(tmp_path / "child")[name]["sha256"] for name in chunks}

    machine("second")
    storage.fetch("parent", tmp_path / "second" / "parent")
    monkeypatch.setattr(storage, "_is_local", False)  # no links from the storage: what is here already is linked
    storage.fetch("child", tmp_path / "second" / "child")
    for name in chunks:
        (other,) = (tmp_path / "second" / "parent").rglob(Path(name).name)
        assert other.stat().st_size == (tmp_path / "second" / "child" / name).stat().st_size
        assert other.stat().st_nlink > 1


def test_what_no_run_names_any_more_is_removed_and_nothing_else(tmp_path: Path, uri: str, machine: Any) -> None:
    config = paused(tmp_path / "run", 40)
    storage = Storage(uri)
    storage.push("run", tmp_path / "run")
    run(config)
    storage.push("run", tmp_path / "run")
    assert storage.collect() == 0, "what is new may be of a run that is being stored"
    assert storage.collect(older_than=0.0) > 0
    storage.fetch("run", tmp_path / "fetched")
    assert files(tmp_path / "fetched") == files(tmp_path / "run")
    checkpoints(tmp_path / "fetched")[0].verify()


def test_new_checkpoints_are_stored_while_a_run_trains(
    tmp_path: Path, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PAUSE", 0.05)
    storage = Storage(str(tmp_path / "shared"))
    with storage.at_hand("run") as folder:
        paused(folder, 40)
        deadline = 200
        while storage._tree("run") is None and deadline:
            deadline -= 1
            at_work.time.sleep(0.05)
        tree = storage._tree("run")
    assert tree is not None and any(name.startswith("checkpoints/step-000000000040/") for name in tree)


def test_a_storage_that_does_not_answer_is_waited_for(
    tmp_path: Path, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused(tmp_path / "run")
    storage, refusals = Storage(str(tmp_path / "shared")), [OSError("no route to host")] * 2
    write = storage._write

    def broken(inside: str, data: bytes) -> None:
        if refusals:
            raise refusals.pop()
        write(inside, data)

    monkeypatch.setattr(storage, "_write", broken)
    storage.push("run", tmp_path / "run")
    assert not refusals and storage._tree("run")
    monkeypatch.setattr(stores, "PATIENCE", 0.0)
    refusals.append(OSError("no route to host"))
    with pytest.raises(StorageError, match=r"The storage '.*shared' cannot be used \(OSError: no route to host\)\.$"):
        storage.push("run", tmp_path / "run")


def test_a_storage_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"^--storage must be a place that can be written, found '.*file/below' \("):
        Storage(str(tmp_path / "file" / "below")).check()
    with pytest.raises(StorageError, match=r"^--storage must be a folder or a URI such as .* found 'gopher://a/b' \("):
        Storage("gopher://a/b")
    place = tmp_path / "shared"
    Storage(str(place)).check()
    assert os.listdir(place) == []


def test_a_storage_names_no_file_outside_of_a_run(tmp_path: Path, machine: Any) -> None:
    storage = Storage(str(tmp_path / "shared"))
    storage._write("runs/run.json", b'{"../../evil": {"bytes": 0, "sha256": "0"}}')
    with pytest.raises(StorageError, match="names a file outside of the folder of run 'run'"):
        storage.fetch("run", tmp_path / "run")


def test_a_node_with_another_version_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig.from_dict(tiny(tmp_path))
    outcome = work(Job("", config.to_dict(), "mean_return", 80, str(tmp_path / "log"), version="0.0.1"), threads=1)
    assert outcome["fault"].startswith("failed: Every node needs mtrl-toolkit 0.0.1, as where the command was given;")
