"""IGB-RL in a whole run: evaluation never enters what it sees, and its report is in the log."""

from collections.abc import Callable

import pytest
import torch

from agents.files.agent_file import read_agent
from mtrl.config import RunConfig
from mtrl.experiment import Result, run
from mtrl.tracking import read_metrics, task_series

OPTIONS = {"hold": 2, "hold_episodes": 1, "learning": "scratch"}


@pytest.fixture
def trained(tiny_config: Callable[..., RunConfig]) -> Callable[..., Result]:
    """Runs IGB-RL for a second; changes go to the evaluation."""

    def make(**evaluation: int) -> Result:
        balancer = {"name": "igb_rl", "options": OPTIONS}
        return run(tiny_config(balancer=balancer, evaluation=evaluation, total_env_steps=480))

    return make


def test_evaluating_often_changes_nothing_of_what_the_weight_agent_saw_and_did(trained: Callable[..., Result]) -> None:
    """Success and returns come from training episodes alone (pitfall 11)."""
    rarely, often = trained(every_env_steps=480), trained(every_env_steps=40, episodes=3)
    (_, first), (_, second) = (read_agent(result.folder / "agent.zip") for result in (rarely, often))
    for part in ("policy", "critic_balancer", "actor_balancer"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part]), part
    assert len(first["critic_balancer"]["shares.record._extra_state"]) > 5


def test_the_log_shows_weights_gaps_and_what_the_agent_learnt(trained: Callable[..., Result]) -> None:
    metrics = read_metrics(trained().folder)
    for tag in ("balancer_weight", "balancer_weight_actor", "balancer_gap", "balancer_decided", "balancer_interest"):
        series = task_series(metrics, tag)
        assert len(series) == 4 and all(len(points) > 5 for points in series.values()), tag
    gaps = task_series(metrics, "balancer_gap")["point-0"][:, 2]
    assert ((gaps >= 0) & (gaps <= 1)).all()
    last = {key: value for line in metrics for key, value in line.items() if key.startswith("train/critic_balancer.")}
    report = ("agent_reward", "agent_critic_loss", "agent_value", "agent_skill")
    assert {f"train/critic_balancer.{name}" for name in (*report, "decisions", "weight_entropy")} <= set(last)
    assert last["train/critic_balancer.decisions"] > 5
