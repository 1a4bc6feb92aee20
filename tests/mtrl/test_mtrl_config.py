"""A config says what is wrong with it in one sentence, before anything is built."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigurationError
from agents.settings import walk
from envs import SuiteError
from mtrl.config import RunConfig, flat_options
from mtrl.errors import ConfigError
from mtrl.experiment import run


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sede": 1}, "Unknown setting 'sede'; did you mean 'seed'?"),
        ({"agent": {"taw": 1}}, "Unknown setting 'agent.taw'; did you mean 'agent.tau'?"),
        ({"seed": -1}, "seed must be at least 0, found -1."),
        ({"total_env_steps": 0}, "total_env_steps must be at least 1, found 0."),
        ({"total_env_steps": "many"}, "total_env_steps must be an integer, found 'many'."),
        ({"total_env_steps": True}, "total_env_steps must be an integer, found True."),
        ({"total_env_steps": 10.5}, "total_env_steps must be an integer, found 10.5."),
        ({"agent": {"samples_per_task": -4}}, "agent.samples_per_task must be at least 1, found -4."),
        ({"agent": {"learning_rate": 0}}, "agent.learning_rate must be greater than 0, found 0."),
        ({"agent": {"final_learning_rate": -1e-4}}, "agent.final_learning_rate must be greater than 0, found -0.0001."),
        ({"agent": {"gamma": 1.1}}, "agent.gamma must be at least 0 and at most 1, found 1.1."),
        ({"agent": {"learning_rate": float("inf")}}, "agent.learning_rate must be a number, found inf."),
        ({"agent": {"learning_rate": float("nan")}}, "agent.learning_rate must be a number, found nan."),
        ({"agent": {"pipeline": "no"}}, "agent.pipeline must be true or false, found 'no'."),
        (
            {"agent": {"precision": "float16"}},
            "agent.precision must be one of float32, bfloat16, auto, found 'float16'; did you mean 'bfloat16'?",
        ),
        (
            {"agent": {"ent_coef": "automatic"}},
            "agent.ent_coef must be auto, auto_0.1 or a number greater than 0, found 'automatic'.",
        ),
        (
            {"agent": {"target_entropy": "auto_half"}},
            "agent.target_entropy must be auto, auto_0.5 or a number in nats, found 'auto_half'.",
        ),
        (
            {"agent": {"categorical": {"v_min": 1.0, "v_max": -1.0}}},
            "agent.categorical.v_min must be smaller than v_max, found 1 and -1.",
        ),
        (
            {"agent": {"categorical": {"target": "hlgauss"}}},
            "agent.categorical.target must be one of projection, hl_gauss, found 'hlgauss'; did you mean 'hl_gauss'?",
        ),
        (
            {"network": {"actor_hidden_sizes": []}},
            "network.actor_hidden_sizes must be widths such as [400, 400], found [].",
        ),
        ({"agent": {"ent_coef": -0.1}}, "agent.ent_coef must be greater than 0, found -0.1."),
        ({"device": "gpu"}, "device must be auto, cpu, cuda, cuda:1 or another of PyTorch's, found 'gpu'."),
        ({"agent": 3}, "agent must be a group of settings, found 3."),
        ({"env": {"tasks": "reach-v3"}}, "env.tasks must be a list, found 'reach-v3'."),
        ({"env": {"tasks": [1]}}, "env.tasks[0] must be a text, found 1."),
        ({"env": {"suite": "mt11"}}, "env.suite must be a registered name, found 'mt11'; did you mean 'mt10'?"),
        ({"network": {"name": "mpl"}}, "network.name must be a registered name, found 'mpl'; did you mean 'mlp'?"),
        ({"network": {"hidden_sizes": [64, 0]}}, "network.hidden_sizes[1] must be at least 1, found 0."),
        ({"network": {"hidden_sizes": []}}, "network.hidden_sizes must be widths such as [400, 400], found []."),
        (
            {"balancer": {"name": "unitray"}},
            "balancer must be a registered name, found 'unitray'; did you mean 'unitary'?",
        ),
        (
            {"balancer": {"name": "rlw+unitray"}},
            "balancer must be a registered name, found 'unitray' in 'rlw+unitray'; did you mean 'unitary'?",
        ),
    ],
)
def test_bad_values_are_named_with_what_would_be_right(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(values)
    assert str(caught.value) == sentence


def test_a_batch_that_cannot_be_shared_by_the_tasks_is_refused_with_one_that_can() -> None:
    config = RunConfig.from_dict({"env": {"suite": "pointmass"}, "agent": {"batch_size": 33}})
    with pytest.raises(ConfigError, match=r"divisible by the 4 tasks, found 33; 32 would be right"):
        config.make_suite()


@pytest.mark.parametrize(
    ("tasks", "words"),
    [(["reach-v3", "puhs-v3"], "'puhs-v3'.*'push-v3'"), (["reach-v3", "reach-v3"], "'reach-v3' is listed twice")],
)
def test_unknown_and_doubled_tasks_are_refused(tasks: list[str], words: str) -> None:
    config = RunConfig.from_dict({"env": {"suite": "metaworld", "tasks": tasks}})
    with pytest.raises(SuiteError, match=words):
        config.make_suite()


@pytest.mark.parametrize("group", ["env", "evaluation"])
def test_a_horizon_that_the_suite_cannot_have_is_refused_before_anything_runs(group: str) -> None:
    values: dict[str, dict[str, Any]] = {"env": {"suite": "mt10"}, "evaluation": {}}
    values[group]["horizon"] = 600
    config = RunConfig.from_dict(values)
    with pytest.raises(SuiteError, match="600"):
        config.make_suite()


def test_an_option_that_the_balancer_does_not_take_is_refused() -> None:
    config = RunConfig.from_dict({"balancer": {"name": "rlw", "options": {"distributoin": "normal"}}})
    with pytest.raises(ConfigurationError, match="distribution"):
        config.make_suite()


def test_a_device_that_is_not_here_is_refused_by_the_run_alone(tmp_path: Path) -> None:
    config = RunConfig.from_dict({"device": "cuda:99", "run_dir": str(tmp_path / "run")})
    with pytest.raises(ConfigurationError, match=r"which are \d+, found 'cuda:99'\."):
        run(config)
    assert not (tmp_path / "run").exists()


def test_round_floats_are_integers_because_shells_write_2e6() -> None:
    assert RunConfig.from_dict({"total_env_steps": 2e6}).total_env_steps == 2_000_000


def test_a_config_survives_the_way_through_a_plain_dict() -> None:
    config = RunConfig.from_dict({"env": {"suite": "metaworld", "tasks": ["reach-v3"]}, "agent": {"ent_coef": 0.2}})
    assert RunConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"tracking": {"plots": False}}, True),
        ({"runs_dir": "elsewhere"}, True),
        ({"debug": True}, True),
        ({"env": {"workers": 2}}, True),
        ({"env": {"fast": False}}, True),
        ({"evaluation": {"workers": 2}}, True),
        ({"network": {"options": {"embedding_size": None}}}, True),
        ({"network": {"options": {"embedding_size": 8}}}, False),
        ({"agent": {"tau": 0.01}}, False),
        ({"env": {"options": {"reward_scale_spread": 1.0}}}, False),
        ({"total_env_steps": 5}, False),
        ({"balancer": {"name": "rlw"}}, False),
    ],
)
def test_the_identity_changes_exactly_when_a_result_can(change: dict[str, Any], same: bool) -> None:
    assert (RunConfig.from_dict(change).identity() == RunConfig().identity()) is same


def test_a_network_without_options_keeps_the_identity_of_runs_before_there_were_any() -> None:
    assert "network.options" in [setting.name for setting in walk(RunConfig()) if setting.unnamed]
    given = RunConfig.from_dict({"network": {"options": {"embedding_size": 8}}})
    assert given.identity() != RunConfig().identity()


def test_stock_steps_are_refused_by_a_suite_that_has_no_faster_ones() -> None:
    config = RunConfig.from_dict({"env": {"suite": "pointmass", "fast": False}})
    with pytest.raises(SuiteError, match="suite 'pointmass' has no option 'fast'"):
        config.make_suite()


def test_the_budget_is_per_task_unless_a_total_is_given() -> None:
    config = RunConfig.from_dict({"env": {"steps_per_task": 7}})
    assert config.budget(num_tasks=4) == 28
    assert dataclasses.replace(config, total_env_steps=5).budget(num_tasks=4) == 5


def test_nested_options_are_named_by_their_method_and_null_is_the_default() -> None:
    assert flat_options({"famo": {"gamma": 0.1, "lr": None}, "c": 0.4, "d": None}) == {"famo.gamma": 0.1, "c": 0.4}


@pytest.mark.parametrize(("option", "setting"), [("tasks", "tasks"), ("fast", "fast"), ("name", "suite")])
def test_a_setting_of_its_own_is_no_option_of_a_suite(option: str, setting: str) -> None:
    config = RunConfig.from_dict({"env": {"suite": "mt10", "options": {option: True}}})
    with pytest.raises(
        ConfigError, match=rf"env\.options\.{option} is no option of a suite: give it as env\.{setting}\."
    ):
        config.make_suite()
