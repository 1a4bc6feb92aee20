"""Checkpoint files: whole or not there, checked when read, linked where nothing changed, and harmless."""

import json
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.replay import TaskReplayBuffer
from mtrl import checkpoint as checkpoint_module
from mtrl import replay_chunks
from mtrl.checkpoint import FORMAT, MANIFEST, Checkpoint, CheckpointStore, Snapshot
from mtrl.errors import CheckpointError
from tests.mtrl.paused_runs import flip, reseal, ring


def buffer_of(capacity: int = 64, tasks: int = 2) -> TaskReplayBuffer:
    return TaskReplayBuffer(tasks * capacity, 1, 1, np.arange(tasks), torch.Generator(), torch.device("cpu"))


def fill(buffer: TaskReplayBuffer, steps: int) -> None:
    for _ in range(steps):
        number = np.full(buffer.num_tasks, float(buffer.stored[0]), np.float32)
        flat = np.zeros((buffer.num_tasks, 1 + buffer.num_tasks), np.float32)
        buffer.add(flat, flat, flat[:, :1], number + np.arange(buffer.num_tasks) / 2, number, [{}] * len(number))


def save(store: CheckpointStore, buffer: TaskReplayBuffer, score: float | None = None, **changes: Any) -> Checkpoint:
    before = () if store.latest is None else store.latest.chunks
    snapshot = Snapshot(
        env_steps=int(buffer.stored.sum()),
        exact=True,
        score=score,
        config={"seed": 1},
        state={"clocks": {"a": 1}},
        agent={"weights": torch.arange(4.0), "steps": 3},
        replay=replay_chunks.snapshot(buffer, before),
    )
    return store.write(Snapshot(**{**snapshot.__dict__, **changes}))


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=3)


def newest(store: CheckpointStore) -> tuple[Checkpoint | None, list[str]]:
    """What a new process would go on from, and what it would say."""
    said: list[str] = []
    return CheckpointStore(store.path).newest(said.append), said


def test_what_was_written_is_read(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    save(store, buffer, score=0.5)
    found, said = newest(store)
    assert found is not None and said == []
    contents = found.read()
    assert (found.env_steps, found.exact, found.score) == (10, True, 0.5)
    assert contents["state"] == {"clocks": {"a": 1}} and contents["config"] == {"seed": 1}
    assert torch.equal(contents["agent"]["weights"], torch.arange(4.0))


@pytest.mark.parametrize("steps", [[5, 1, 1, 40], [64, 64, 1], [200], [1] * 90, [3, 0, 70, 5, 63]])
def test_the_ring_is_the_same_through_any_chain_of_checkpoints(store: CheckpointStore, steps: list[int]) -> None:
    buffer, other = buffer_of(), buffer_of()
    fill(buffer, 1)
    for count in steps:
        fill(buffer, count)
        last = save(store, buffer)
    replay_chunks.restore(other, last.manifest["replay"], last.rows)
    for task, filled in enumerate(buffer.filled):
        assert torch.equal(buffer.rows[task, :filled], other.rows[task, :filled])
    assert (other.stored == buffer.stored).all() and (other.position == buffer.position).all()
    assert len(last.chunks) <= 34


def test_only_new_transitions_are_written_and_the_others_are_linked(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 20)
    first = save(store, buffer)
    fill(buffer, 10)
    second = save(store, buffer)
    shared, new = [chunk.name for chunk in second.chunks]
    assert [chunk.name for chunk in first.chunks] == [shared]
    assert os.stat(first.path / shared).st_ino == os.stat(second.path / shared).st_ino
    assert len(second.rows(new)) == 2 * 10


def test_files_whose_transitions_are_all_overwritten_are_left_behind(store: CheckpointStore) -> None:
    buffer = buffer_of(capacity=16)
    for _ in range(6):
        fill(buffer, 8)
        last = save(store, buffer)
    assert len(last.chunks) == 2
    assert sum(len(last.rows(chunk.name)) for chunk in last.chunks) == 2 * 16


def test_a_snapshot_does_not_change_with_the_ring(store: CheckpointStore) -> None:
    buffer = buffer_of(capacity=8)
    fill(buffer, 8)
    snapshot = replay_chunks.snapshot(buffer, ())
    assert snapshot.rows is not None
    before = snapshot.rows.copy()
    fill(buffer, 5)
    assert (snapshot.rows == before).all()


def test_without_hard_links_files_are_copied(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    buffer = buffer_of()
    for _ in range(2):
        fill(buffer, 20)
        last = save(store, buffer)
    last.verify()
    assert len(last.chunks) == 2


def test_files_that_somebody_removed_are_written_again_by_the_next_try(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 20)
    first = save(store, buffer)
    (first.path / first.chunks[0].name).unlink()
    fill(buffer, 20)
    with pytest.raises(FileNotFoundError):
        save(store, buffer)
    assert len(b"".join(ring(save(store, buffer)))) == 2 * 40 * 20


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    store, buffer = CheckpointStore(tmp_path, keep=2), buffer_of()
    for score in (None, 0.3, 0.9, 0.2, 0.9, 0.1, 0.4, 0.5):
        fill(buffer, 1)
        save(store, buffer, score)
    assert [Checkpoint(path).env_steps for path in store.folders()] == [16, 14, 10]
    assert Checkpoint(store.folders()[-1]).score == 0.9


BREAKS = {
    "agent.pt": (lambda path: flip(path), "agent.pt is not what was written (its SHA-256 differs)"),
    "state.json": (lambda path: path.unlink(), "state.json is missing"),
    "config.json": (lambda path: path.write_bytes(path.read_bytes()[:-3]), "config.json has 11 bytes instead of 14"),
    MANIFEST: (lambda path: path.write_bytes(path.read_bytes()[:50]), "manifest.json cannot be read (JSONDecodeError"),
    "replay-000000000010-000000000050.npy": (lambda path: flip(path), "0050.npy is not what was written"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_file_is_named_and_the_checkpoint_before_is_used(store: CheckpointStore, name: str) -> None:
    buffer = buffer_of()
    for steps in (5, 20):
        fill(buffer, steps)
        last = save(store, buffer)
    break_it, what = BREAKS[name]
    break_it(last.path / name)
    found, said = newest(store)
    assert found is not None and found.env_steps == 10
    assert len(said) == 1 and what in said[0] and str(last.path) in said[0]
    assert newest(store)[1] == []  # said once


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 1}', "\x00\xff", '{"sha256": "", "format": "x"}'])
def test_a_manifest_that_is_none_is_reported(store: CheckpointStore, text: str) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    (save(store, buffer).path / MANIFEST).write_text(text, encoding="latin-1")
    found, said = newest(store)
    assert found is None and len(said) == 1 and "manifest.json" in said[0]


def test_a_changed_number_in_the_manifest_is_noticed(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    path = save(store, buffer).path / MANIFEST
    path.write_text(path.read_text().replace('"exact": true', '"exact": false'))
    assert "manifest.json is not what was written" in newest(store)[1][0]


def test_half_written_and_half_removed_folders_are_no_checkpoints_and_are_cleaned_away(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    save(store, buffer)
    (store.path / ".step-000000000020.partial").mkdir()
    (store.path / ".step-000000000002.removed").mkdir()
    assert newest(store)[1] == []
    store.clean()
    assert [path.name for path in store.path.iterdir()] == ["step-000000000010"]


def test_a_full_disk_leaves_the_checkpoint_before_and_no_litter(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    save(store, buffer)
    fill(buffer, 5)

    def refuse(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    for name in ("write", "__exit__"):
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint_module.NewFile, name, refuse)
            with pytest.raises(OSError, match="No space left"):
                save(store, buffer)
        assert [path.name for path in store.path.iterdir()] == ["step-000000000010"]
    assert save(store, buffer).env_steps == 20


class Bomb:
    """Pickled, it makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", ["agent.pt", "replay"])
def test_a_pickle_in_a_checkpoint_is_refused_and_not_run(store: CheckpointStore, tmp_path: Path, name: str) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    path = save(store, buffer).path
    chunk = Checkpoint(path).chunks[0].name
    if name == "replay":
        bombs = np.array([Bomb(tmp_path / "ran")], dtype=object)
        np.save(path / chunk, bombs, allow_pickle=True)
    else:
        (path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    reseal(path)
    checkpoint = Checkpoint(path)
    checkpoint.verify()
    with pytest.raises(CheckpointError, match=r"(agent.pt|replay-\S+) cannot be read"):
        checkpoint.rows(chunk)
        checkpoint.read()
    assert not (tmp_path / "ran").exists()


def test_a_file_outside_of_the_checkpoint_is_not_looked_at(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    path = save(store, buffer).path
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"]["../../secret"] = {"bytes": 0, "sha256": ""}
    del manifest["sha256"]
    manifest["sha256"] = checkpoint_module._seal(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))
    assert "../../secret is missing" in newest(store)[1][0]


def test_a_bomb_in_a_checkpoint_is_refused_before_it_unfolds(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    path = save(store, buffer).path
    with zipfile.ZipFile(path / "agent.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300_000_000))
    reseal(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"agent.pt cannot be read .* is compressed, and could grow to any size"):
        Checkpoint(path).read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_an_archive_in_the_place_of_transitions_is_refused(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    checkpoint = save(store, buffer)
    name = checkpoint.chunks[0].name
    with (checkpoint.path / name).open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"replay-\S+ cannot be read"):
        checkpoint.rows(name)


FORGED: list[tuple[list[Any], Any]] = [
    (["format"], "1"),
    (["format"], None),
    (["env_steps"], "many"),
    (["exact"], None),
    (["score"], []),
    (["files"], 5),
    (["files", "agent.pt"], 5),
    (["files", "agent.pt", "bytes"], None),
    (["replay"], []),
    (["replay", "stored"], [10**30, 5]),
    (["replay", "stored"], [6, 5]),
    (["replay", "capacity"], "x"),
    (["replay", "chunks"], []),
    (["replay", "chunks", 0, "first"], [2, 0]),
    (["replay", "chunks", 0, "first"], [-(10**12), 10**12]),
    (["replay", "chunks", 0, "last"], [5]),
    (["replay", "chunks", 0, "last"], ["a", "b"]),
]


@pytest.mark.parametrize(("path", "value"), FORGED, ids=str)
def test_a_manifest_that_was_forged_is_reported_in_one_sentence(
    store: CheckpointStore, path: list[Any], value: Any
) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    file = save(store, buffer).path / MANIFEST
    manifest = json.loads(file.read_text())
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    del manifest["sha256"]
    file.write_text(json.dumps({**manifest, "sha256": checkpoint_module._seal(manifest)}))
    found, said = newest(store)
    assert found is None and len(said) == 1 and "manifest.json" in said[0] and "\n" not in said[0]


def test_a_file_that_lost_its_end_is_not_linked_on_and_on(store: CheckpointStore) -> None:
    buffer = buffer_of()
    fill(buffer, 20)
    first = save(store, buffer)
    os.truncate(first.path / first.chunks[0].name, 100)
    fill(buffer, 20)
    with pytest.raises(FileNotFoundError, match="is not what was written"):
        save(store, buffer)
    last = save(store, buffer)  # all of it is written anew
    last.verify()
    assert len(b"".join(ring(last))) == 2 * 40 * 20


def test_a_newer_format_is_refused_and_left_alone(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    save(store, buffer)
    fill(buffer, 5)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_module, "FORMAT", FORMAT + 1)
        path = save(store, buffer).path
    with pytest.raises(CheckpointError, match=rf"has format {FORMAT + 1} and this version reads up to {FORMAT}"):
        newest(store)
    assert path.is_dir()


def test_an_older_format_is_brought_up_step_by_step(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = buffer_of()
    fill(buffer, 5)
    save(store, buffer, state={"clock": 1})
    older = FORMAT

    def rename(contents: dict[str, Any]) -> dict[str, Any]:
        return {**contents, "state": {"clocks": {"a": contents["state"]["clock"]}}}

    def count(contents: dict[str, Any]) -> dict[str, Any]:
        return {**contents, "agent": {**contents["agent"], "seen": list(contents["state"])}}

    monkeypatch.setattr(checkpoint_module, "FORMAT", older + 2)
    found, _ = newest(store)
    assert found is not None
    with pytest.raises(CheckpointError, match=f"has format {older}, older than any"):
        found.read()
    monkeypatch.setattr(checkpoint_module, "MIGRATIONS", {older: rename, older + 1: count})
    contents = found.read()
    assert contents["state"] == {"clocks": {"a": 1}} and contents["agent"]["seen"] == ["clocks"]
