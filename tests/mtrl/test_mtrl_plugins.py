"""Plug-ins: modules of a user's own, imported when the user says so and never because a file does."""

import json
import os
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from agents.balancing.registry import BALANCERS
from agents.networks import NETWORKS
from envs import suite
from mtrl import plugins
from mtrl.cli import main
from mtrl.errors import ConfigError

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


Train = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a plug-in, the working directory of this process; what is loaded there is forgotten."""
    (tmp_path / "myrl.py").write_text(PLUGIN)
    (tmp_path / "helper.py").write_text("WEIGHT = 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    forget()


def forget() -> None:
    """As if this process were a new one."""
    for name in ("myrl", "helper", "broken", "again"):
        sys.modules.pop(name, None)
    plugins._loaded.clear()
    for known, name in ((BALANCERS._records, "mine"), (NETWORKS._records, "mynet"), (suite._SUITES, "mysuite")):
        known.pop(name, None)  # type: ignore[attr-defined]


@pytest.fixture
def train_here(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """``python train.py`` as a new process would run it, in this one: its exit code, and all that it prints."""

    def train(*arguments: str) -> tuple[int, str]:
        forget()
        before = dict(ConfigStore.instance().repo)
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        ConfigStore.instance().repo = before
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return train


def in_folder(folder: Path, *command: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
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
def test_every_command_takes_plug_ins_in_the_same_ways(
    home: Path, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "suites", *how]) == 0
    assert "mysuite" in capsys.readouterr().out


def test_evaluate_and_export_work_with_a_plug_in(made: Path, home: Path) -> None:
    run = str(made / "run")
    assert main(["evaluate", run, "--episodes", "2", "--workers", "1", "plugins=[myrl]"]) == 0
    assert main(["export", run, "--episodes", "2", "--workers", "0", "--plugins", "myrl"]) == 0
    assert json.loads((home / "policy.json").read_text())["plugins"]["myrl"]["sha256"]


def test_a_comparison_needs_no_plug_in(made: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(made / "run")]) == 0
    assert "mine" in capsys.readouterr().out


def test_the_variable_loads_plug_ins_for_commands_and_for_python(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mtrl

    monkeypatch.setenv("MTRL_PLUGINS", "myrl")
    assert main(["list", "balancers"]) == 0
    assert "mine" in capsys.readouterr().out
    forget()
    env = mtrl.make_env("mysuite")
    assert env.task_names == ("a", "b")
    env.close()


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


def test_the_users_own_config_names_plug_ins(home: Path, train_here: Train) -> None:
    (home / "conf" / "experiment").mkdir(parents=True)
    (home / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nplugins: [myrl]\ndefaults:\n  - override /balancer: mine\n"
    )
    code, printed = train_here("--config-dir", "conf", "experiment=own", "env=pointmass", "--cfg", "job")
    assert code == 0 and "name: mine" in printed and "- myrl" in printed


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("nowhere", "plugins names 'nowhere', and there is no module 'nowhere', neither installed nor in "),
        ("broken", "plugins names 'broken', which cannot be imported (ZeroDivisionError: division by zero)."),
        ("again", "A network named 'mlp' is registered already."),
        ("my-rl.py", "plugins must name modules, such as myrl or myrl.methods, found 'my-rl.py'."),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_one_sentence(
    home: Path, train_here: Train, names: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "broken.py").write_text("1 / 0\n")
    (home / "again.py").write_text("from mtrl import register_network\n@register_network('mlp')\nclass M: ...\n")
    code, said = train_here(f"plugins=[{names}]", "env=pointmass")
    assert code == 2 and expected in said and said.count("\n") == 1
    assert main(["list", "suites", "--plugins", names]) == 2
    assert expected in capsys.readouterr().err


def test_the_flag_wants_a_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "suites", "--plugins"]) == 2
    assert "--plugins must be followed by the names of modules" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="must be followed by"):
        plugins.take_plugins(["--plugins", "--debug"])


def test_side_by_side_launchers_load_plug_ins_in_their_processes(home: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `sweep`")
    arguments = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "plugins=[myrl]", *SMALL, "seed=1,2"]
    done = train(home, *arguments)
    assert "2 finished, 0 skipped, 0 failed" in done.stdout
    assert len(list(home.glob("runs/mysuite/*/results.csv"))) == 2


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
        print(type(MTSAC.load("run/agent.zip")).__name__)
        print(type(load_policy("run/agent.zip")).__name__)
        """
    )
    lines = in_folder(made, "-c", code).stdout.splitlines()
    assert "needs the balancer 'mine', which the plug-in 'myrl' registers: give plugins=[myrl]" in lines[0]
    assert "needs the network 'mynet', which the plug-in 'myrl' registers" in lines[1]
    assert lines[2] == "MTSAC" and len(lines) == 4


def test_a_finished_run_of_another_source_is_not_skipped_in_silence(home: Path, train_here: Train) -> None:
    arguments = ["plugins=[myrl]", *SMALL, "run_dir=run"]
    assert train_here(*arguments)[0] == 0
    assert "nothing to do" in train_here(*arguments)[1]
    (home / "helper.py").write_text("WEIGHT = 2.0\n")  # not the plug-in itself: a module beside it that it imports
    code, said = train_here(*arguments)
    assert code == 2 and "since then the plug-in of balancer mine (myrl " in said and "again=true" in said
    assert "nothing to do" in train_here(*arguments, "again=false")[1]
    assert train_here(*arguments, "again=true")[0] == 0
    assert (home / "run.finished-1" / "results.csv").exists() and (home / "run" / "results.csv").exists()
    assert "nothing to do" in train_here(*arguments, "again=true")[1]


def test_a_finished_run_of_another_default_is_not_skipped_in_silence(home: Path, train_here: Train) -> None:
    arguments = ["plugins=[myrl]", *SMALL, "run_dir=run"]
    assert train_here(*arguments)[0] == 0
    assert "power: 0.5" in (home / "run" / "config.yaml").read_text()
    (home / "myrl.py").write_text(PLUGIN.replace("power: float = 0.5", "power: float = 0.75"))
    code, said = train_here(*arguments)
    assert code == 2 and "the default of balancer.options.power (0.5 then, 0.75 now)" in said
    assert "nothing to do" in train_here(*arguments, "again=false")[1]
    code, said = train_here(*arguments, "balancer.options.power=0.75")
    assert code == 2 and "balancer.options.power (0.5 there, 0.75 here)" in said


def test_a_search_is_resumed_with_the_plug_ins_of_the_command_alone(home: Path) -> None:
    rest, names = plugins.take_plugins(["tune", "--resume", "plugins=[myrl]", "--out", "x"])
    assert (rest, names) == (["tune", "--resume", "--out", "x"], ["myrl"])


def test_a_job_carries_the_plug_ins_of_whoever_gives_it_away(home: Path) -> None:
    from mtrl.tune.jobs import Job, work

    plugins.load_plugins(["myrl"])
    values = {"env": {"suite": "mysuite"}, "balancer": {"name": "nothing"}, "plugins": ["myrl"]}
    job = Job("a", values, "mean_success", None, str(home / "log.txt"))
    assert job.plugins == ("myrl",)
    forget()
    assert "found 'nothing'" in work(job, threads=1)["fault"]  # the suite was known, where a worker begins with nothing
    forget()
    bare = Job("b", values, "mean_success", None, str(home / "log.txt"), plugins=())
    assert "give plugins=[myrl]" in work(bare, threads=1)["fault"]
