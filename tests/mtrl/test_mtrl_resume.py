"""A run that was stopped goes on as if nothing had happened; what would make another run of it is refused."""

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import ConfigurationError
from mtrl.config import RunConfig
from mtrl.errors import ConfigError, RunFolderError, exit_code, sentence
from mtrl.experiment import run
from mtrl.lock import RunLock
from mtrl.run_folder import RunFolder
from mtrl.run_state import changes
from mtrl.signals import StopRequest
from mtrl.tracking import JsonlWriter, read_metrics
from tests.grids import grid
from tests.mtrl.paused_runs import checkpoints, everything, flip, lines, reseal, run_until
from tests.mtrl.processes import ENDLESS, training, wait_for_checkpoint

MakeConfig = Callable[..., RunConfig]

KINDS: dict[str, dict[str, Any]] = {
    "unitary": {},
    "famo, multihead, learned reward scale": {
        "balancer": {"name": "famo"},
        "network": {"name": "multihead"},
        "agent": {"reward_scale": "std"},
    },
    "composition, overwriting ring": {
        "balancer": {"name": "igb_v1+pcgrad", "options": {"base_start": 2, "base_window": 20}},
        "agent": {"replay_per_task": 15},
    },
    "scheduler, sequential, three steps a round": {
        "balancer": {"name": "son_goku:pcgrad", "options": {"refresh_every": 2, "warmup": 2, "anneal": 4}},
        "agent": {"pipeline": False, "train_freq": 3, "gradient_steps": 2},
    },
}


@pytest.fixture
def steady(tiny_config: MakeConfig, tmp_path: Path) -> MakeConfig:
    """Makes configs whose clocks do not depend on the length of the run."""

    def make(name: str, **changes: Any) -> RunConfig:
        fixed: dict[str, Any] = {
            "evaluation": {"every_env_steps": 40},
            "tracking": {"every_env_steps": 20, "plots": False, "tensorboard": False},
            "checkpoint": {"every_env_steps": 36},
            "threads": 1,
            "run_dir": str(tmp_path / name),
        }
        for key, change in changes.items():
            fixed[key] = {**fixed[key], **change} if isinstance(fixed.get(key), dict) else change
        return tiny_config(**fixed)

    return make


@grid("kind", KINDS.values(), every=2, ids=KINDS)
def test_a_run_that_was_stopped_twice_ends_as_one_that_was_not(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    run(steady("whole", **kind))
    for env_steps in (68, 116):
        stopped = run_until(steady("parts", **kind), env_steps, monkeypatch)
        assert exit_code(stopped) == 75
        assert env_steps <= checkpoints(tmp_path / "parts")[0].env_steps < env_steps + 12
    run(steady("parts", **kind))
    whole, parts = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    for what in whole:
        assert parts[what] == whole[what], what
    record = RunFolder(tmp_path / "parts").record
    assert record["status"] == "finished"
    assert len(record["resumed"]) == 2


METAWORLD = {"env": {"suite": "metaworld", "tasks": ["reach-v3", "push-v3"], "horizon": 10, "workers": 1}}


def test_metaworld_goes_on_exactly_from_the_end_of_its_episodes_with_other_workers_too(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**METAWORLD, "total_env_steps": 120, "evaluation": {"every_env_steps": 60, "final_episodes": 1}}
    run(steady("whole", **short))
    run_until(steady("parts", **short), 60, monkeypatch)
    assert checkpoints(tmp_path / "parts")[0].exact
    short["env"] = {**short["env"], "workers": 0}  # type: ignore[dict-item]
    run(steady("parts", **short))
    whole, parts = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    for what in whole:
        assert parts[what] == whole[what], what


def test_checkpoints_of_metaworld_wait_for_the_end_of_the_episodes_and_a_stop_does_not(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {"suite": "metaworld", "tasks": ["reach-v3", "push-v3"], "horizon": 10}
    config = steady("run", env=tasks, total_env_steps=120, evaluation={"every_env_steps": 1000, "final_episodes": 1})
    run_until(config, 74, monkeypatch)
    stopped, before = checkpoints(tmp_path / "run")
    assert (before.env_steps, before.exact) == (40, True)  # asked for at 36
    assert (stopped.env_steps, stopped.exact) == (74, False)
    run(config)
    assert "the episodes that ran there begin again" in capsys.readouterr().out
    newest = checkpoints(tmp_path / "run")[0]
    lengths = [env["length"] for env in newest.read()["state"]["environments"]["envs"]]
    assert lengths == [(120 - 74) // 2 % 10] * 2  # counted from the step they began again at
    assert RunFolder(tmp_path / "run").record["resumed"][0]["exact"] is False


def test_tasks_that_never_end_together_are_not_waited_for_longer_than_an_episode(
    steady: MakeConfig, tmp_path: Path
) -> None:
    tasks = {"suite": "gym", "tasks": ["Pendulum-v1", "MountainCarContinuous-v0"], "horizon": None}
    config = steady(
        "run", env=tasks, total_env_steps=2060, agent={"warmup_steps_per_task": 2000}, checkpoint={"exact": True},
        evaluation={"every_env_steps": 5000, "final_episodes": 1},
    )  # fmt: skip
    assert config.make_suite().horizon == 999
    run(config)
    first, last = checkpoints(tmp_path / "run")[::-1]
    assert not first.exact and first.env_steps == 36 + 2 * 999
    assert last.env_steps == 2060


def test_evaluating_while_training_changes_nothing_of_the_training(steady: MakeConfig, tmp_path: Path) -> None:
    run(steady("often", evaluation={"every_env_steps": 20}))
    run(steady("never", evaluation={"every_env_steps": 5000}))
    often, never = everything(tmp_path / "often"), everything(tmp_path / "never")
    assert often["agent"] == never["agent"] and often["replay"] == never["replay"]


def test_lines_and_events_after_the_checkpoint_are_forgotten(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = steady("run", tracking={"tensorboard": True})
    run_until(config, 100, monkeypatch)
    flip(checkpoints(tmp_path / "run")[0].path / "agent.pt")
    assert lines(tmp_path / "run")[-1]["env_steps"] == 100
    time.sleep(1.0)  # TensorBoard reads event files in the order of the second that their names begin with
    run(config)
    steps = [line["env_steps"] for line in lines(tmp_path / "run") if "train/n_updates" in line]
    assert steps == list(range(20, 161, 20))
    times = [line["wall_time"] for line in read_metrics(tmp_path / "run")]
    assert times == sorted(times)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/critic_loss")] == steps[2:]


def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_until(steady("run"), 100, monkeypatch)
    newest, before = checkpoints(tmp_path / "run")
    flip(newest.path / "state.json")
    capsys.readouterr()
    run(steady("run"))
    said = capsys.readouterr().out
    assert said.count("Warning") == 1
    assert f"'{newest.path}' cannot be used: state.json is not what was written" in said
    assert f"Resuming from step {before.env_steps}" in said
    assert newest.path.with_name(newest.path.name + ".broken").is_dir()


def test_without_any_whole_checkpoint_the_run_begins_anew_and_the_old_one_is_kept(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(steady("run"), 100, monkeypatch)
    for checkpoint in checkpoints(tmp_path / "run"):
        flip(checkpoint.path / "manifest.json", 30)
    run(steady("run"))
    assert "resumed" not in RunFolder(tmp_path / "run").record
    assert len(list((tmp_path / "run.interrupted-1" / "checkpoints").glob("*.broken"))) == 2


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(
    steady: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(steady("run", total_env_steps=120))
    results = (tmp_path / "run" / "results.csv").read_text()
    with pytest.raises(
        ConfigError, match=r"has made 120 env steps: total_env_steps must be at least as many, found 80"
    ):
        run(steady("run", total_env_steps=80))
    measured_otherwise = steady("run", total_env_steps=120, evaluation={"final_episodes": 7})
    assert run(measured_otherwise).skipped
    assert f"mtrl evaluate {tmp_path / 'run'} --episodes 7 measures again" in capsys.readouterr().out.replace("\n", " ")
    assert run(steady("run", total_env_steps=120)).skipped
    assert "mtrl evaluate" not in capsys.readouterr().out
    assert not run(steady("run", total_env_steps=160)).skipped
    assert "Resuming from step 120" in capsys.readouterr().out
    assert (tmp_path / "run" / "results-at-120.csv").read_text() == results
    steps = [line["env_steps"] for line in lines(tmp_path / "run") if "train/n_updates" in line]
    assert steps == list(range(20, 161, 20))


@pytest.mark.parametrize("moment", ["update", "_describe"])
def test_a_finished_run_goes_on_even_where_the_first_process_to_do_so_died_at_once(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run(steady("run", total_env_steps=120))
    results = (tmp_path / "run" / "results.csv").read_text()

    def die(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(RunFolder, moment, die)
        run(steady("run", total_env_steps=160))
    assert not run(steady("run", total_env_steps=160)).skipped
    assert (tmp_path / "run" / "results-at-120.csv").read_text() == results


def test_fewer_steps_than_were_made_are_refused(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(steady("run"), 100, monkeypatch)
    with pytest.raises(
        ConfigError, match=r"has made 100 env steps: total_env_steps must be at least as many, found 80"
    ):
        run(steady("run", total_env_steps=80))
    assert run(steady("run", total_env_steps=100)).folder == tmp_path / "run"


def test_a_finished_run_of_long_rounds_kept_every_transition_and_can_go_on(steady: MakeConfig, tmp_path: Path) -> None:
    agent = {"train_freq": 16, "replay_per_task": None}
    run(steady("run", agent=agent, total_env_steps=100))
    assert checkpoints(tmp_path / "run")[0].env_steps == 128
    assert not run(steady("run", agent=agent, total_env_steps=200)).skipped


def test_a_run_that_made_a_round_more_than_asked_for_can_be_started_again(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = steady("run", agent={"train_freq": 3}, total_env_steps=100)

    def die(*_: Any, **__: Any) -> None:
        raise OSError("the machine went down before the results were written")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="went down"):
        patched.setattr("mtrl.experiment.write_results", die)
        run(config)
    assert checkpoints(tmp_path / "run")[0].env_steps == 108
    assert not run(config).skipped


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("state.json", [], []),
        ("state.json", ["metrics"], 3),
        ("state.json", ["clocks", "metrics"], None),
        ("state.json", ["environments", "envs", 0, "generator"], {"state": 1}),
        ("state.json", ["environments", "envs", 0, "position"], "here"),
        ("config.json", ["balancer", "name"], "os.system"),
        ("config.json", [], []),
    ],
    ids=str,
)
def test_contents_that_nobody_wrote_are_refused_in_one_sentence(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: list[Any], value: Any
) -> None:
    run_until(steady("run"), 100, monkeypatch)
    file = checkpoints(tmp_path / "run")[0].path / name
    contents = [json.loads(file.read_text())]
    place: Any = contents
    for key in [0, *path][:-1]:
        place = place[key]
    place[[0, *path][-1]] = value
    file.write_text(json.dumps(contents[0]))
    reseal(file.parent)
    with pytest.raises(ConfigError) as refused:
        run(steady("run"))
    assert "\n" not in sentence(refused.value) and exit_code(refused.value) == 2


def test_weights_that_are_no_numbers_are_not_gone_on_with(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(steady("run"), 100, monkeypatch)
    file = checkpoints(tmp_path / "run")[0].path / "agent.pt"
    agent = torch.load(file, weights_only=True)
    agent["parts"]["policy"]["actor.network.head.weight"][0] = torch.nan
    torch.save(agent, file)
    reseal(file.parent)
    with pytest.raises(ConfigurationError, match=r"'actor.network.head.weight' holds a number that is not finite"):
        run(steady("run"))


def test_settings_that_change_no_result_may_change(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(steady("run"), 100, monkeypatch)
    changed = steady(
        "run", total_env_steps=140, evaluation={"episodes": 1, "every_env_steps": 30}, env={"workers": 1},
        tracking={"tensorboard": True}, checkpoint={"every_env_steps": 7, "keep": 3}, debug=True, max_wall_time=1e6,
    )  # fmt: skip
    run(changed)
    assert RunFolder(tmp_path / "run").config() == changed
    assert [line["env_steps"] for line in lines(tmp_path / "run") if "eval/final" in line] == [40, 80, 104, 120, 140]


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_with_the_difference(
    steady: MakeConfig, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    if finished:
        run(steady("run"))
    else:
        run_until(steady("run"), 100, monkeypatch)
    with pytest.raises(ConfigError, match=r"agent.tau \(0.005 there, 0.01 here\), seed \(1 there, 2 here\)"):
        run(steady("run", agent={"tau": 0.01}, seed=2, total_env_steps=1000))


def test_differences_are_found_in_groups_and_options() -> None:
    old = {"a": {"x": 1, "options": {}}, "b": [1, 2], "c": 3}
    new = {"a": {"x": 1, "options": {"y": 2}}, "b": [1, 3], "c": 3}
    assert changes(old, new) == {"a.options.y": (None, 2), "b": ([1, 2], [1, 3])}


def test_checkpoint_settings_are_no_part_of_what_a_run_is(tiny_config: MakeConfig) -> None:
    plain = tiny_config().identity()
    assert plain == tiny_config(checkpoint={"keep": 5}, max_wall_time=3, takeover=True).identity()
    assert plain != tiny_config(agent={"tau": 0.01}).identity()


def test_the_wall_time_stops_a_run_and_the_next_start_goes_on(steady: MakeConfig, tmp_path: Path) -> None:
    from mtrl.errors import RunStopped

    with pytest.raises(
        RunStopped, match="have passed; there is no checkpoint yet, so the same command starts over"
    ) as stopped:
        run(steady("run", max_wall_time=1e-4))
    assert exit_code(stopped.value) == 75
    assert RunFolder(tmp_path / "run").status == "interrupted"
    assert not run(steady("run")).skipped


def test_a_signal_between_steps_waits_and_outside_of_learning_raises_at_once() -> None:
    from mtrl.errors import RunStopped

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStopped, match="Stopped by SIGUSR1; the same command resumes"):
        with StopRequest() as stop:
            with stop.patiently():
                os.kill(os.getpid(), signal.SIGUSR1)
                waited = stop.due()
    assert waited is not None and waited.code == 75
    with pytest.raises(RunStopped) as stopped:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGINT)
    assert (exit_code(stopped.value), sentence(stopped.value)[:14]) == (130, "Stopped by you")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_closed_terminal_stops_a_run_unless_it_was_told_not_to_mind(hangup_is_heard: None) -> None:
    from mtrl.errors import RunStopped

    with pytest.raises(RunStopped, match="Stopped by SIGHUP; the same command resumes"):
        with StopRequest():
            os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.due() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_is_heard_where_a_shell_has_it_ignored() -> None:
    from mtrl.errors import RunStopped

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as scripts do for what they start with &
    try:
        with pytest.raises(RunStopped, match="Stopped by you"):
            with StopRequest():
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_first_signal_after_the_wall_time_still_waits_for_the_checkpoint() -> None:
    from mtrl.errors import RunStopped

    with pytest.raises(RunStopped, match="Stopped by SIGTERM"):
        with StopRequest(max_wall_time=1e-9) as stop, stop.patiently():
            assert stop.due() is not None
            os.kill(os.getpid(), signal.SIGTERM)  # were it the second one, this process would be gone


def test_a_signal_that_a_launcher_passes_on_once_more_is_one_signal() -> None:
    from mtrl.errors import RunStopped

    with pytest.raises(RunStopped, match="Stopped by you"):
        with StopRequest() as stop, stop.patiently():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file without room")
def test_a_log_without_room_keeps_no_run_from_stopping_as_it_should(tmp_path: Path) -> None:
    settings = ("env=pointmass", f"run_dir={tmp_path / 'run'}", "checkpoint.every_env_steps=200", ENDLESS)
    shown = ("tracking.progress=true", "evaluation.every_env_steps=80")
    with open("/dev/full", "w") as full, training(*settings, *shown, stdout=full, stderr=full) as process:
        wait_for_checkpoint(tmp_path / "run")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    assert RunFolder(tmp_path / "run").status == "interrupted"
    checkpoints(tmp_path / "run")[0].verify()


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(RunFolderError, match=rf"is being written by process {os.getpid()} on"):
        RunLock(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []
    RunLock(tmp_path).release()


def test_an_owner_that_died_here_is_seen_and_one_elsewhere_needs_takeover(tmp_path: Path) -> None:
    import socket

    (tmp_path / "lock").write_text(f'{{"host": "{socket.gethostname()}", "pid": 1}}')
    RunLock(tmp_path).release()
    (tmp_path / "lock").write_text('{"host": "node-17", "pid": 4321}')
    with pytest.raises(RunFolderError, match="was left by process 4321 on node-17.*resume with --takeover"):
        RunLock(tmp_path)
    RunLock(tmp_path, takeover=True).release()


def test_a_run_in_a_folder_that_is_being_written_is_refused_in_one_sentence(steady: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    with pytest.raises(RunFolderError, match="is being written by process"):
        run(steady("run"))
    lock.release()
    assert not run(steady("run")).skipped
    assert not (tmp_path / "run" / "lock").exists()


class FullDisk:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: memoryview) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        part = data[: self.room]
        self.room -= len(part)
        return self.file.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_metrics_that_found_no_room_are_written_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    disk = FullDisk(writer._file, room=60)
    writer._file = disk  # type: ignore[assignment]
    for step in range(4):
        writer.write({"a": 1.0}, {}, step)
        assert (tmp_path / "metrics.jsonl").read_bytes()[-1:] in (b"\n", b"")
    position = writer.position()
    assert len(read_metrics(tmp_path)) + len(position["unwritten"]) == 4 and position["unwritten"]
    assert capsys.readouterr().out.count("Warning") == 1
    disk.room = 10_000
    writer.write({"a": 1.0}, {}, 4)
    writer.close()
    assert [line["env_steps"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3, 4]
    resumed = JsonlWriter(tmp_path / "metrics.jsonl", position)
    resumed.write({"a": 1.0}, {}, 9)
    resumed.close()
    assert [line["env_steps"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3, 9]


class AtOnce:
    """An executor whose work is done when it is submitted: how often something is tried does not depend on a disk."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*arguments))
        except BaseException as error:
            done.set_exception(error)
        return done

    def shutdown(self) -> None:
        pass


def test_a_run_goes_on_while_no_checkpoint_can_be_written(
    steady: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mtrl import checkpoint_callback
    from mtrl.checkpoint import NewFile

    write, calls, refused = NewFile.write, [0], [0]

    def refuse(self: NewFile, data: Any) -> int:
        calls[0] += 1
        if 10 < calls[0] <= 40:
            refused[0] += 1
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(NewFile, "write", refuse)
    monkeypatch.setattr(checkpoint_callback, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_callback, "ThreadPoolExecutor", AtOnce)
    run(steady("run", checkpoint={"every_env_steps": 4}, total_env_steps=400))
    said = capsys.readouterr().out
    assert refused == [30]  # thirty checkpoints in a row
    assert said.count("no checkpoint can be written (No space left on device)") == 1
    assert said.count("Checkpoints can be written again") == 1
    assert checkpoints(tmp_path / "run")[0].env_steps == 400
    assert [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_terminated_command_can_be_requeued_and_the_same_command_ends_it(tmp_path: Path) -> None:
    settings = ("env=pointmass", f"run_dir={tmp_path / 'run'}", "checkpoint.every_env_steps=200")
    with training(*settings, ENDLESS) as first:
        wait_for_checkpoint(tmp_path / "run")
        first.send_signal(signal.SIGTERM)
        _, stderr = first.communicate(timeout=60)
    assert first.returncode == 75
    assert stderr.splitlines()[-1].startswith("Stopped by SIGTERM; the same command resumes from env step ")
    steps = checkpoints(tmp_path / "run")[0].env_steps
    with training(*settings, f"total_env_steps={steps + 400}") as second:
        stdout, stderr = second.communicate(timeout=90)
    assert (second.returncode, stderr) == (0, "")
    assert f"Resuming from step {steps:,}" in stdout
    assert checkpoints(tmp_path / "run")[0].env_steps == steps + 400
