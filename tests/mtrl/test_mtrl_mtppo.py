"""Runs of multitask PPO: trained, paused, resumed, evaluated, exported and compared as those of MTSAC are."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import MTPPO, load_policy
from agents.mtppo_settings import MTPPOPreset
from mtrl.cli import main
from mtrl.compare import compare_runs
from mtrl.compose import compose
from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.experiment import run
from tests.grids import grid
from tests.mtrl.paused_runs import checkpoints, everything, run_until

ROOT = Path(__file__).resolve().parents[2]
MakeConfig = Callable[..., RunConfig]
AGENT = {
    "algorithm": "mtppo",
    "n_steps": 10,
    "samples_per_task": 5,
    "n_epochs": 2,
    "precision": "float32",
    "target_kl": 1e-4,
    "kl_rule": "adapt",
}


@pytest.fixture
def config(tiny_config: MakeConfig, tmp_path: Path) -> MakeConfig:
    """Makes configs of short runs of MTPPO."""

    def make(name: str, **changes: Any) -> RunConfig:
        values = tiny_config(**changes).to_dict()
        values |= {"agent": AGENT, "run_dir": str(tmp_path / name), "threads": 1}
        values["network"]["name"] = "multihead"
        values["total_env_steps"] = changes.get("total_env_steps", 400)
        values["tracking"] |= {"every_env_steps": 40, "plots": False, "tensorboard": False}
        values["checkpoint"] |= {"every_env_steps": 80}
        return RunConfig.from_dict(values)

    return make


@grid(
    "balancer",
    [
        {"name": "unitary"},
        {"name": "famo"},
        {"name": "son_goku"},
        {"name": "igb_rl"},
        {"name": "fairgrad", "actor": "pcgrad"},
    ],
    always=[{"name": "famo"}],
)
def test_it_pauses_and_resumes_bit_for_bit(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balancer: dict[str, str]
) -> None:
    run(config("whole", balancer=balancer))
    run_until(config("parts", balancer=balancer), 160, monkeypatch)
    assert checkpoints(tmp_path / "parts")[0].manifest["replay"]["stored"] == []
    run(config("parts", balancer=balancer))
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["resumed"]
    whole, parts = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    for what in whole:
        assert parts[what] == whole[what], what


def test_it_is_evaluated_exported_and_compared(config: MakeConfig, tiny_config: MakeConfig, tmp_path: Path) -> None:
    folder = run(config("runs/ppo", total_env_steps=160)).folder
    assert main(["evaluate", str(folder), "--episodes", "2", "--workers", "0"]) == 0
    assert main(["export", str(folder), "--out", str(tmp_path / "p.zip"), "--episodes", "2", "--workers", "0"]) == 0
    agent, policy = MTPPO.load(folder / "agent.zip", device="cpu"), load_policy(tmp_path / "p.zip", "cpu")
    observations = np.eye(4, 6, k=2, dtype=np.float32)
    expected, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], expected)
    run(RunConfig.from_dict({**tiny_config().to_dict(), "run_dir": str(tmp_path / "runs/mtsac")}))
    comparison = compare_runs([tmp_path / "runs"], baseline="unitary (mtsac, mlp)", allow_mixed=True)
    assert {method.agent for method in comparison.methods} == {"mtsac", "mtppo"}


def test_the_toys_settings_are_those_of_the_algorithm_that_is_chosen() -> None:
    ppo, sac, brc = (compose(["env=pointmass", f"agent={name}"]) for name in ("toppo", "mtsac", "brc"))
    assert isinstance(ppo.agent, MTPPOPreset) and ppo.agent.n_steps == 50 and ppo.env.copies == 4
    assert sac.agent.warmup_steps_per_task == brc.agent.warmup_steps_per_task == 200  # type: ignore[attr-defined]
    assert (sac.env.copies, brc.agent.name) == (1, "brc")
    assert {config.network.hidden_sizes for config in (ppo, sac, brc)} == {(64, 64)}


def test_toppo_has_a_balancer_on_each_side_unless_another_is_named() -> None:
    chosen, named = compose(["agent=toppo"]), compose(["agent=toppo", "balancer=famo"])
    assert (chosen.balancer.name, chosen.balancer.actor) == ("fairgrad", "pcgrad")
    assert (named.balancer.name, named.balancer.actor) == ("famo", None)
    assert chosen.network.name == compose(["agent=mtppo"]).network.name == "multihead"
    assert compose(["agent=mtppo", "network=mlp", "agent.critic=scalar"]).network.name == "mlp"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("agent.target_kl=0", r"agent\.target_kl must be greater than 0, found 0"),
        ("agent.kl_rule=half", r"agent\.kl_rule must be one of stop, adapt, found 'half'"),
        ("agent.batch_size=42", r"agent\.batch_size must be divisible by the 4 tasks, found 42; 40 would be right"),
        ("agent.popart.rate=2", r"agent\.popart\.rate must be greater than 0 and at most 1, found 2"),
        ("agent.critic=categorical", r"agent\.critic must be one of popart, scalar, found 'categorical'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_a_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose(["env=pointmass", "agent=mtppo", override]).make_suite()


def test_a_setting_of_another_algorithm_is_refused_with_its_owner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "env=pointmass", "agent=mtppo", "agent.tau=0.1"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "'agent.tau' is a setting of agent=mtsac, not of the agent that is chosen." in capsys.readouterr().err
