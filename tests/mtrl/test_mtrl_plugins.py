"""Plug-ins: modules of a user's own, imported when the user says so and never because a file does."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = '''
"""Everything that can be registered."""
import gymnasium
import numpy as np
import torch

import helper
from mtrl import register_balancer, register_network, register_suite
from agents import Weighting
from agents.networks import MLP


@register_balancer("mine", family="loss", cost="O(1)", paper="none", summary="a test's own")
class Mine(Weighting):
    """:param power: of nothing"""

    def __init__(self, num_tasks, power: float = 0.5, generator=None):
        super().__init__(num_tasks, generator)
        self.power = power

    def forward(self, tasks):
        return torch.full_like(tasks.losses, helper.WEIGHT)


@register_network("mynet")
class Net(MLP):
    """A network of a test."""


class Toy(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action[0]), False, False, {"success": True}


@register_suite("mysuite")
def my_suite(length: int = 5):
    """Two toys."""
    from envs.gym_tasks import make_gym

    return make_gym({"a": Toy, "b": Toy}, horizon=length)
'''
SMALL = [
    "env=mysuite", "network=mynet", "balancer=mine", "network.hidden_sizes=[8]", "total_env_steps=60",
    "agent.warmup_steps_per_task=10", "agent.samples_per_task=4", "evaluation.final_episodes=2",
    "evaluation.episodes=2", "evaluation.workers=0", "tracking.progress=false", "tracking.plots=false",
    "tracking.tensorboard=false", "threads=1",
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder with a plug-in."""
    (tmp_path / "myrl.py").write_text(PLUGIN)
    (tmp_path / "helper.py").write_text("WEIGHT = 1.0\n")
    return tmp_path


def in_folder(
    folder: Path, *command: str, code: int = 0, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """A process in a user's folder, which knows where the toolkit is and nothing else."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def train(folder: Path, *arguments: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
    return in_folder(folder, str(ROOT / "train.py"), *arguments, code=code, **variables)


def mtrl(folder: Path, *arguments: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
    return in_folder(folder, "-m", "mtrl.cli", *arguments, code=code, **variables)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run of a plug-in's suite, network and balancer in `run`, simulated by a worker."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "myrl.py").write_text(PLUGIN)
    (folder / "helper.py").write_text("WEIGHT = 1.0\n")
    train(folder, "plugins=[myrl]", *SMALL, "run_dir=run", "env.workers=1")
    return folder


def test_a_plug_in_brings_suite_network_and_balancer_without_any_file_of_the_toolkit(made: Path) -> None:
    config = (made / "run" / "config.yaml").read_text()
    assert "suite: mysuite" in config and "name: mynet" in config and "name: mine" in config
    record = json.loads((made / "run" / "run.json").read_text())["plugins"]["myrl"]
    assert record["registers"] == ["balancer mine", "network mynet", "suite mysuite"]
    assert len(record["sha256"]) == 64


def test_a_run_names_its_plug_in_and_does_not_import_it(made: Path) -> None:
    said = mtrl(made, "evaluate", "run", code=2).stderr
    assert said.endswith("it came with a plug-in: give plugins=[myrl].\n") and said.count("\n") == 1


@pytest.mark.parametrize("how", [["plugins=[myrl]"], ["plugins=myrl"], ["--plugins", "myrl"], ["--plugins=myrl"]])
def test_every_command_takes_plug_ins_in_the_same_ways(made: Path, how: list[str]) -> None:
    assert "mine" in mtrl(made, "list", "balancers", *how).stdout


def test_evaluate_export_and_compare_work_with_a_plug_in(made: Path) -> None:
    assert "mean" in mtrl(made, "evaluate", "run", "--episodes", "2", "--workers", "1", "plugins=[myrl]").stdout
    assert "Written" in mtrl(made, "export", "run", "--episodes", "2", "--workers", "0", "--plugins", "myrl").stdout
    assert "mine" in mtrl(made, "compare", "run").stdout


def test_the_variable_loads_plug_ins_everywhere(made: Path) -> None:
    assert "mine" in mtrl(made, "list", "balancers", MTRL_PLUGINS="myrl").stdout
    assert "mysuite" in in_folder(
        made, "-c", "from mtrl import make_env; print(make_env('mysuite').unwrapped.suite_name)"
        if False else "from mtrl import make_env, MTSAC; print(make_env('mysuite').task_names, 'mysuite')",
        MTRL_PLUGINS="myrl",
    ).stdout  # fmt: skip


def test_an_installed_distribution_brings_its_plug_in_by_an_entry_point(home: Path) -> None:
    place = home / "site"
    place.mkdir()
    (home / "myrl.py").rename(place / "myrl.py")
    (home / "helper.py").rename(place / "helper.py")
    information = place / "myrl-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: myrl\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text("[mtrl.plugins]\nmyrl = myrl\n")
    (information / "top_level.txt").write_text("myrl\n")
    (information / "RECORD").write_text("")
    paths = os.pathsep.join([str(ROOT), str(place)])
    assert "mine" in mtrl(home, "list", "balancers", PYTHONPATH=paths).stdout
    code = "from mtrl.plugins import load_plugins, described; load_plugins(); print(described({}))"
    assert "'version': '1.2'" in in_folder(home, "-c", code, PYTHONPATH=paths).stdout


def test_the_users_own_config_names_plug_ins(home: Path) -> None:
    (home / "conf" / "experiment").mkdir(parents=True)
    (home / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nplugins: [myrl]\ndefaults:\n  - override /balancer: mine\n"
    )
    arguments = ["--config-dir", "conf", "experiment=own", "env=pointmass", "--cfg", "job"]
    printed = train(home, *arguments).stdout
    assert "name: mine" in printed and "- myrl" in printed


def test_a_plug_in_that_cannot_be_imported_is_one_sentence(home: Path) -> None:
    (home / "broken.py").write_text("1 / 0\n")
    (home / "again.py").write_text(
        "from mtrl import register_network\n@register_network('mlp')\nclass M:\n    def __init__(self, shape): ...\n"
    )
    for names, expected in {
        "nowhere": "plugins names 'nowhere', and there is no module 'nowhere', neither installed nor in ",
        "broken": "plugins names 'broken', which cannot be imported (ZeroDivisionError: division by zero).",
        "again": "A network named 'mlp' is registered already.",
        "my-rl.py": "plugins must name modules, such as myrl or myrl.methods, found 'my-rl.py'.",
    }.items():
        for done in (train(home, f"plugins=[{names}]", code=2), mtrl(home, "list", "suites", "--plugins", names, code=2)):
            assert expected in done.stderr and done.stderr.count("\n") == 1
    assert "--plugins must be followed by" in mtrl(home, "list", "suites", "--plugins", code=2).stderr


def test_side_by_side_launchers_load_plug_ins_in_their_processes(home: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `sweep`")
    arguments = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "plugins=[myrl]", *SMALL, "seed=1,2"]
    done = train(home, *arguments)
    assert "2 finished, 0 skipped, 0 failed" in done.stdout
    assert len(list(home.glob("runs/mysuite/*/results.csv"))) == 2
    assert "0 finished, 2 skipped, 0 failed" in train(home, *arguments).stdout


def test_an_agent_file_names_the_plug_in_and_loading_it_imports_nothing(made: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from agents import MTSAC, AgentFileError, load_policy
        for load in (MTSAC.load, load_policy):
            try:
                load("run/agent.zip")
            except AgentFileError as error:
                print(error)
        assert "myrl" not in sys.modules
        import myrl
        print(MTSAC.load("run/agent.zip").balancer_name if False else type(MTSAC.load("run/agent.zip")).__name__)
        print(type(load_policy("run/agent.zip")).__name__)
        """
    )
    lines = in_folder(made, "-c", code).stdout.splitlines()
    assert "needs the balancer 'mine', which the plug-in 'myrl' registers: give plugins=[myrl]" in lines[0]
    assert "needs the network 'mynet', which the plug-in 'myrl' registers" in lines[1]
    assert lines[2] == "MTSAC" and len(lines) == 4


def test_a_finished_run_of_another_source_is_not_skipped_in_silence(home: Path) -> None:
    arguments = ["plugins=[myrl]", *SMALL, "run_dir=run"]
    train(home, *arguments)
    assert "nothing to do" in train(home, *arguments).stdout
    (home / "helper.py").write_text("WEIGHT = 2.0\n")  # not the plug-in itself: a module beside it that it imports
    said = train(home, *arguments, code=2).stderr
    assert "since then the plug-in of balancer mine (myrl " in said and "has changed: again=true" in said
    assert "nothing to do" in train(home, *arguments, "again=false").stdout
    train(home, *arguments, "again=true")
    assert (home / "run.finished-1" / "results.csv").exists() and (home / "run" / "results.csv").exists()
    assert "nothing to do" in train(home, *arguments, "again=true").stdout


def test_a_finished_run_of_another_default_is_not_skipped_in_silence(home: Path) -> None:
    arguments = ["plugins=[myrl]", *SMALL, "run_dir=run"]
    train(home, *arguments)
    assert "power: 0.5" in (home / "run" / "config.yaml").read_text()
    (home / "myrl.py").write_text(PLUGIN.replace("power: float = 0.5", "power: float = 0.7"))
    said = train(home, *arguments, code=2).stderr
    assert "the default of balancer.options.power (0.5 then, 0.7 now)" in said
    assert "nothing to do" in train(home, *arguments, "again=false").stdout
    said = train(home, *arguments, "balancer.options.power=0.7", code=2).stderr
    assert "balancer.options.power (0.5 there, 0.7 here)" in said
