"""Any sequence of steps, updates, evaluations, saves, crashes, broken files and loads leaves a run that can go on."""

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
from mtrl.pause import LearningRun
from mtrl.tracking import JsonlWriter, make_logger, read_metrics
from tests.mtrl.conftest import tiny
from tests.mtrl.paused_runs import comparable, flip

WARMUP = 10  # env_steps in each task before updates


class PausedRun(RuleBasedStateMachine):
    """A run of the toy beside what its checkpoints ought to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.saved: dict[int, Any] = {}  # state by env_steps of the checkpoints that are whole
        self.config = RunConfig.from_dict(
            tiny(self.place, balancer={"name": "famo+rlw"}, agent={"warmup_steps_per_task": WARMUP}, threads=1)
        )
        self.begin()

    def begin(self) -> None:
        """A process that has just been started."""
        self.store = CheckpointStore(self.place / "checkpoints", keep=2)
        self.warnings: list[str] = []
        checkpoint = self.store.newest(self.warnings.append)
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
        expected = max(self.saved, default=None)
        assert (None if checkpoint is None else checkpoint.env_steps) == expected
        if expected is not None:
            assert self.state() == self.saved[expected]

    def state(self) -> Any:
        """All that the future of the run depends on."""
        buffer = self.run.agent.replay_buffer
        assert buffer is not None
        rows = [buffer.rows[k, :filled].numpy().tobytes() for k, filled in enumerate(buffer.filled)]
        agent = self.run.agent.state()
        del agent["log"]
        lines = [line["env_steps"] for line in read_metrics(self.place)]
        return comparable([agent, rows, self.run.env.state_dict(), self.metrics.state(), lines])

    @rule(rounds=st.integers(1, 12))
    def step(self, rounds: int) -> None:
        before = self.run.agent.num_timesteps
        self.run.agent.learn(
            4 * rounds, callback=in_order(self.metrics), log_interval=None, reset_num_timesteps=not self.started
        )
        self.started = True
        assert self.run.agent.num_timesteps == before + 4 * rounds

    @precondition(lambda self: self.run.agent.num_timesteps > 4 * WARMUP)
    @rule(count=st.integers(1, 3))
    def update(self, count: int) -> None:
        before = self.run.agent._n_updates
        self.run.agent.train(count)
        assert self.run.agent._n_updates == before + count

    @rule()
    def evaluate(self) -> None:
        before = self.state()
        env = make_env("pointmass", seed=3, horizon=5)
        evaluate(self.run.agent, env, episodes=1)
        env.close()
        assert self.state() == before

    @precondition(lambda self: self.started and self.run.agent.num_timesteps not in self.saved)
    @rule()
    def save(self) -> None:
        latest = self.store.latest
        self.store.write(self.run.snapshot(() if latest is None else latest.chunks))
        self.saved[self.run.agent.num_timesteps] = self.state()
        kept = sorted(self.saved)[-2:]
        self.saved = {step: state for step, state in self.saved.items() if step in kept}

    @rule()
    def crash(self) -> None:
        """The process is gone; a new one loads what is there."""
        self.run.env.close()
        self.begin()
        assert self.warnings == []

    @precondition(lambda self: len(self.saved) > 1)
    @rule(data=st.data())
    def corrupt(self, data: st.DataObject) -> None:
        """One bit of the newest checkpoint changes, in a file that no other one shares; then the process is gone."""
        newest, before = self.store.folders()[:2]
        names = sorted(path.name for path in newest.iterdir() if not (before / path.name).exists())
        names += ["agent.pt", "state.json", "manifest.json"]
        path = newest / data.draw(st.sampled_from(names))
        flip(path, data.draw(st.integers(0, path.stat().st_size - 1)))
        del self.saved[max(self.saved)]
        self.run.env.close()
        self.begin()
        assert len(self.warnings) == 1 and path.parent.name in self.warnings[0]

    @invariant()
    def counters_and_replay_agree(self) -> None:
        agent, buffer = self.run.agent, self.run.agent.replay_buffer
        assert buffer is not None
        assert agent.num_timesteps == buffer.stored.sum() >= max(self.saved, default=0)
        assert (buffer.filled == np.minimum(buffer.stored, buffer.capacity)).all()
        assert all(bool(torch.isfinite(value).all()) for value in agent.policy.state_dict().values())

    def teardown(self) -> None:
        self.run.env.close()
        shutil.rmtree(self.place)


@pytest.mark.parametrize("sequences", [5, pytest.param(100, marks=pytest.mark.faults)])
def test_any_sequence_of_events_leaves_a_run_that_can_go_on(sequences: int) -> None:
    run_state_machine_as_test(
        PausedRun,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=12,
            deadline=None,
            derandomize=sequences < 100,
            suppress_health_check=list(HealthCheck),
        ),
    )
