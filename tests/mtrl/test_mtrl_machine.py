"""Any sequence of steps, updates, evaluations, saves, crashes, broken files and loads leaves a run that can go on."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mtrl import evaluate, make_env
from mtrl.build import make_agent, make_training_env
from mtrl.callbacks import EvaluationCallback, Every, MetricsCallback, in_order
from mtrl.checkpoint import CheckpointStore
from mtrl.config import RunConfig
from mtrl.console import Quiet
from mtrl.run_state import LearningRun
from mtrl.tracking import JsonlWriter, make_logger, read_metrics
from tests.mtrl.conftest import tiny
from tests.mtrl.paused_runs import comparable

WARMUP = 10  # env_steps in each task before updates


class PausedRun(RuleBasedStateMachine):
    """A run of the toy beside what its checkpoints ought to hold.

    A process steps, updates, evaluates and saves until it crashes. While there is none, files may break; the next one
    loads what is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.saved: dict[int, Any] = {}  # state by env_steps of the checkpoints that are whole
        self.config = RunConfig.from_dict(
            tiny(self.place, balancer={"name": "famo+rlw"}, agent={"warmup_steps_per_task": WARMUP}, threads=1)
        )
        self.broken: set[int] = set()  # env_steps of the checkpoints that are not
        self.load()

    # ------------------------------------------------------------------ events

    @precondition(lambda self: not self.alive)
    @rule()
    def load(self) -> None:
        """A process is started: it goes on from the newest checkpoint that is whole, and names those that are not."""
        self.alive = True
        self.store = CheckpointStore(self.place / "checkpoints", keep=2)
        self.store.clean()
        warnings: list[str] = []
        checkpoint = self.store.newest(warnings.append)
        assert sorted(int(name) for name in re.findall(r"step-(\d+)' cannot be used", " ".join(warnings))) == sorted(
            self.broken
        )
        self.broken = set()
        contents = None if checkpoint is None else checkpoint.read()
        env = make_training_env(self.config, self.config.make_suite())
        agent = make_agent(self.config, env)
        writer = JsonlWriter(
            self.place / "metrics.jsonl",
            {"bytes": 0, "seconds": 0.0, "unwritten": []} if contents is None else contents["state"]["metrics"],
        )
        tracking = self.config.tracking
        agent.set_logger(make_logger(self.place, tracking.__class__(tensorboard=False), "", {}, writer))
        self.metrics = MetricsCallback(Every(20), Quiet())
        evaluations = EvaluationCallback(lambda _: None, Every(10**9), 10**9, Quiet())  # type: ignore[arg-type, return-value]
        self.run = LearningRun(self.config, agent, env, writer, {"metrics": self.metrics, "evaluations": evaluations})
        self.started = checkpoint is not None
        if checkpoint is not None and contents is not None:
            self.run.restore(checkpoint, contents)
        # Nothing is lost beyond the last checkpoint.
        expected = max(self.saved, default=None)
        assert (None if checkpoint is None else checkpoint.env_steps) == expected
        if expected is not None:
            assert self.state() == self.saved[expected]
        self.counters = self.counted()

    def state(self) -> Any:
        """All that the future of the run depends on."""
        buffer = self.run.agent.replay_buffer
        assert buffer is not None
        rows = [buffer.rows[k, :filled].numpy().tobytes() for k, filled in enumerate(buffer.filled)]
        agent = self.run.agent.state()
        del agent["log"]
        return comparable([agent, rows, self.run.env.state_dict(), self.metrics.state(), self.lines()])

    def lines(self) -> list[int]:
        """env_steps of the lines of metrics."""
        return [line["env_steps"] for line in read_metrics(self.place)]

    def counted(self) -> list[int]:
        """What only ever grows while a process lives."""
        agent = self.run.agent
        assert agent.replay_buffer is not None
        return [agent.num_timesteps, agent._n_updates, agent._episode_num, int(agent.replay_buffer.stored.sum())]

    @precondition(lambda self: self.alive)
    @rule(rounds=st.integers(1, 12))
    def step(self, rounds: int) -> None:
        before = self.run.agent.num_timesteps
        self.run.agent.learn(
            4 * rounds, callback=in_order(self.metrics), log_interval=None, reset_num_timesteps=not self.started
        )
        self.started = True
        assert self.run.agent.num_timesteps == before + 4 * rounds

    @precondition(lambda self: self.alive and self.run.agent.num_timesteps > 4 * WARMUP)
    @rule(count=st.integers(1, 3))
    def update(self, count: int) -> None:
        before = self.run.agent._n_updates
        self.run.agent.train(count)
        assert self.run.agent._n_updates == before + count

    @precondition(lambda self: self.alive)
    @rule()
    def evaluate(self) -> None:
        before = self.state()
        env = make_env("pointmass", seed=3, horizon=5)
        evaluate(self.run.agent, env, episodes=1)
        env.close()
        assert self.state() == before

    @precondition(lambda self: self.alive and self.started and self.run.agent.num_timesteps not in self.saved)
    @rule()
    def save(self) -> None:
        latest = self.store.latest
        self.store.write(self.run.snapshot(() if latest is None else latest.chunks))
        self.saved[self.run.agent.num_timesteps] = self.state()
        kept = sorted(self.saved)[-2:]
        self.saved = {step: state for step, state in self.saved.items() if step in kept}

    @precondition(lambda self: self.alive)
    @rule()
    def crash(self) -> None:
        """The process is gone, in the middle of a checkpoint and of a line of metrics."""
        self.alive = False
        self.run.env.close()
        draft = self.place / "checkpoints" / ".step-000000000004.partial"
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "agent.pt").write_bytes(b"half")
        with (self.place / "metrics.jsonl").open("ab") as file:
            file.write(b'{"env_steps": 1')

    @precondition(lambda self: not self.alive and self.saved and not self.broken)
    @rule(data=st.data())
    def corrupt(self, data: st.DataObject) -> None:
        """One bit of a file of the newest checkpoint changes, and with it in all checkpoints that share the file."""
        newest = self.store.folders()[0]
        path = newest / data.draw(st.sampled_from(sorted(file.name for file in newest.iterdir())))
        with path.open("r+b") as file:
            content = bytearray(file.read())
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1
            file.seek(0)
            file.write(content)
        sharing = [twin for folder in self.store.folders() if (twin := folder / path.name).exists()]
        self.broken = {int(twin.parent.name[5:]) for twin in sharing if twin.samefile(path)}
        self.saved = {step: state for step, state in self.saved.items() if step not in self.broken}

    # ------------------------------------------------------------------ what holds all the time

    @invariant()
    def counters_are_monotone(self) -> None:
        before, self.counters = self.counters, self.counted()
        assert all(now >= then for now, then in zip(self.counters, before, strict=True))
        assert not self.alive or self.lines() == sorted(set(self.lines()))

    @invariant()
    def replay_and_counters_agree(self) -> None:
        agent, buffer = self.run.agent, self.run.agent.replay_buffer
        assert buffer is not None
        assert agent.num_timesteps == buffer.stored.sum()
        assert (buffer.filled == np.minimum(buffer.stored, buffer.capacity)).all()

    @invariant()
    def weights_are_finite(self) -> None:
        assert all(bool(torch.isfinite(value).all()) for value in self.run.agent.policy.state_dict().values())

    @invariant()
    def every_checkpoint_that_was_written_is_there_and_whole(self) -> None:
        written = {int(path.name[5:]) for path in self.store.folders()}
        assert written == self.saved.keys() | self.broken
        assert not self.alive or self.run.agent.num_timesteps >= max(self.saved, default=0)

    def teardown(self) -> None:
        if self.alive:
            self.run.env.close()
        shutil.rmtree(self.place)


@pytest.mark.parametrize("sequences", [5, pytest.param(100, marks=pytest.mark.faults)])
def test_any_sequence_of_events_leaves_a_run_that_can_go_on(sequences: int) -> None:
    run_state_machine_as_test(
        PausedRun,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=16,
            deadline=None,
            derandomize=sequences < 100,
            suppress_health_check=list(HealthCheck),
        ),
    )
