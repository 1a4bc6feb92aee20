"""A second algorithm, on-policy and without a replay buffer, goes through the same doors as MTSAC."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import MTSAC, AgentFileError, ConfigurationError, load_policy
from agents.algorithms import ALGORITHMS, find_algorithm, list_algorithms, register_algorithm
from mtrl.build import make_agent, make_training_env
from mtrl.cli import main
from mtrl.compare import compare_runs
from mtrl.compose import compose
from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.experiment import run
from tests.mtrl.paused_runs import checkpoints, everything, run_until
from tests.mtrl.reinforce import Reinforce, ReinforcePreset

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_algorithm("reinforce", preset=ReinforcePreset, summary="for these tests")(Reinforce)
    yield
    del ALGORITHMS._records["reinforce"]


@pytest.fixture
def config(tiny_config: MakeConfig, tmp_path: Path) -> MakeConfig:
    """Makes configs of short runs of the second algorithm."""

    def make(name: str, **changes: Any) -> RunConfig:
        values = tiny_config(**changes).to_dict()
        del values["agent"]
        values |= {"agent": {"algorithm": "reinforce"}, "run_dir": str(tmp_path / name), "threads": 1}
        values["total_env_steps"] = changes.get("total_env_steps", 400)
        values["tracking"] |= {"every_env_steps": 40, "plots": False, "tensorboard": False}
        values["checkpoint"] |= {"every_env_steps": 80}
        return RunConfig.from_dict(values)

    return make


@pytest.mark.parametrize("balancer", ["unitary", "rlw"])
def test_it_trains_pauses_and_resumes_bit_for_bit(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balancer: str
) -> None:
    run(config("whole", balancer={"name": balancer}))
    run_until(config("parts", balancer={"name": balancer}), 160, monkeypatch)
    assert checkpoints(tmp_path / "parts")[0].manifest["replay"]["stored"] == []
    run(config("parts", balancer={"name": balancer}))
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["resumed"]
    whole, parts = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    for what in whole:
        assert parts[what] == whole[what], what


def test_it_is_evaluated_exported_and_acts_as_it_did(config: MakeConfig, tmp_path: Path) -> None:
    folder = run(config("run")).folder
    assert main(["evaluate", str(folder), "--episodes", "2", "--workers", "0"]) == 0
    assert main(["export", str(folder), "--out", str(tmp_path / "p.zip"), "--episodes", "2", "--workers", "0"]) == 0
    agent, policy = Reinforce.load(folder / "agent.zip", device="cpu"), load_policy(tmp_path / "p.zip", "cpu")
    observations = np.eye(4, 6, k=2, dtype=np.float32)
    expected, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], expected)
    card = json.loads((tmp_path / "p.json").read_text())
    assert card["config"]["agent"]["algorithm"] == "reinforce"


def test_it_is_compared_with_mtsac(config: MakeConfig, tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(config("runs/own", total_env_steps=160))
    run(RunConfig.from_dict({**tiny_config().to_dict(), "run_dir": str(tmp_path / "runs/mtsac")}))
    comparison = compare_runs([tmp_path / "runs"], baseline="unitary (mtsac)", allow_mixed=True)
    assert {method.agent for method in comparison.methods} == {"mtsac", "reinforce"}


def test_it_learns(config: MakeConfig) -> None:
    values = config("run", env={"copies": 8}).to_dict()
    made = RunConfig.from_dict({**values, "agent": {**values["agent"], "learning_rate": 1e-2}})
    env = make_training_env(made, made.make_suite())
    agent = make_agent(made, env)
    agent.learn(1_280, log_interval=None)
    before = agent.progress.returns.clone()
    agent.learn(12_800, log_interval=None, reset_num_timesteps=False)
    assert (agent.progress.returns / before).mean() > 1.03 and agent.replay_buffer is None
    env.close()


def test_what_it_has_now_is_saved(config: MakeConfig, tmp_path: Path) -> None:
    made = config("run")
    env = make_training_env(made, made.make_suite())
    agent = make_agent(made, env)
    agent.gamma = 0.5
    agent.save(tmp_path / "agent")
    assert Reinforce.load(tmp_path / "agent", device="cpu").gamma == 0.5
    env.close()


def test_it_is_a_choice_of_the_command_line_with_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    agent = compose(["env=pointmass", "~experiment", "agent=reinforce", "agent.rollout_steps=5"]).agent
    assert agent == ReinforcePreset(rollout_steps=5)
    with pytest.raises(ConfigError, match=r"agent\.rollout_steps must be at most 1000, found 2000\."):
        compose(["env=pointmass", "~experiment", "agent=reinforce", "agent.rollout_steps=2000"])
    assert main(["list", "algorithms"]) == 0
    assert "for these tests" in capsys.readouterr().out


def test_a_run_is_not_resumed_by_another_algorithm(config: MakeConfig, tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(config("run", total_env_steps=80))
    other = RunConfig.from_dict({**tiny_config().to_dict(), "run_dir": str(tmp_path / "run")})
    with pytest.raises(ConfigError, match=r"agent\.algorithm \('reinforce' there, 'mtsac' here\)"):
        run(other)


def test_what_changes_no_result_names_no_other_folder_and_may_change(config: MakeConfig) -> None:
    values = config("run").to_dict()
    same = RunConfig.from_dict({**values, "agent": {**values["agent"], "patience": 9}})
    other = RunConfig.from_dict({**values, "agent": {**values["agent"], "gamma": 0.9}})
    assert same.identity() == RunConfig.from_dict(values).identity() != other.identity()


def test_an_unknown_algorithm_is_refused_with_the_nearest_one() -> None:
    sentence = (
        r"agent\.algorithm: Unknown algorithm 'mtsca': choose from mtppo, mtsac, reinforce, did you mean 'mtsac'\?"
    )
    with pytest.raises(ConfigError, match=sentence):
        RunConfig.from_dict({"agent": {"algorithm": "mtsca"}})


def test_a_name_is_given_once_and_to_its_own_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"^An algorithm named 'mtsac' is registered already\.$"):
        register_algorithm("mtsac", preset=ReinforcePreset, summary="")
    with pytest.raises(ConfigurationError, match="must have algorithm='other', found 'reinforce'"):
        register_algorithm("other", preset=ReinforcePreset, summary="")
    assert [record.name for record in list_algorithms()] == ["mtppo", "mtsac", "reinforce"]
    assert find_algorithm("mtsac").agent.__name__ == "MTSAC"


def test_a_file_of_another_algorithm_is_refused_with_the_way_to_read_it(config: MakeConfig, tmp_path: Path) -> None:
    made = config("run")
    env = make_training_env(made, made.make_suite())
    make_agent(made, env).save(tmp_path / "agent")
    with pytest.raises(AgentFileError, match=r"an agent of Reinforce and not of MTSAC: read it by Reinforce\.load\."):
        MTSAC.load(tmp_path / "agent", device="cpu", tau=0.1)
    env.close()


def test_its_arguments_are_checked_like_those_of_mtsac() -> None:
    with pytest.raises(ConfigurationError, match="rollout_steps must be a whole number of at least 1, found 0"):
        Reinforce(rollout_steps=0)
    with pytest.raises(ConfigurationError, match="Reinforce does not take 'rollout_stebs', did you mean"):
        Reinforce(rollout_stebs=1)
    with pytest.raises(ConfigurationError, match="device must be"):
        Reinforce(device=torch.device("cuda:99"))
