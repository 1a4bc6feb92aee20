"""Every command and every Python example of the README and the guides runs, with the budget cut to seconds."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore

from agents.balancing.registry import BALANCERS
from mtrl import plugins
from mtrl.cli import _parser, main
from mtrl.compose import compose_grid

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What cannot run in a test, and why. Everything else runs.
NOT_RUN = {
    "git clone": "has a test of its own",
    "tensorboard": "is a server",
    "source": "belongs to the user's shell",
    "ray start": "starts a cluster; tests/mtrl/cluster.py does it",
    ("head=", "srun ", "sleep 30"): "belong to a batch script of Slurm",
    "benchmarks/accelerator-wheels": "downloads wheels",
    "python -m benchmarks.accelerator": "is rehearsed in tests/benchmarks",
}
COMPOSED_ONLY = {  # the config is composed and printed instead
    "python train.py env=mt50 agent=mtsac_baseline network=multihead "
    "total_env_steps=5_000_000": "builds fifty simulators",
    "python train.py -m env=pointmass balancer=unitary,cagrad,famo+pcgrad seed=1,2": "runs six experiments",
    "python train.py -m env=pointmass balancer=unitary,famo,pcgrad 'seed=range(10)'": "runs thirty experiments",
    "python train.py -m hydra/launcher=joblib hydra.launcher.n_jobs=2 threads=1 env=pointmass balancer=unitary,famo "
    "'seed=range(10)'": "runs twenty experiments",
    "python train.py -m hydra/launcher=submitit_slurm hydra.launcher.partition=cpu hydra.launcher.cpus_per_task=2 "
    "hydra.launcher.timeout_min=600 threads=2 env=mt10 balancer=unitary,famo 'seed=range(10)'": "needs a cluster",
    "python train.py env=mt10 agent=mtsac_regularized total_env_steps=2_000_000": "builds ten simulators",
    "python train.py experiment=mt10_minutes balancer=fairgrad balancer.actor=pcgrad": "builds forty simulators",
    "python train.py env=mt10 agent=mtppo total_env_steps=2_000_000": "builds ten simulators",
    "python train.py env=pointmass balancer=schedule schedule=tune/first/schedule.json seed=7": "needs a search",
    # MT10 is run once, by the command that spells out its parts; these differ from it in the balancer.
    "python train.py env=mt10 balancer=famo": "builds ten simulators",
    "python train.py env=mt10 balancer=cagrad balancer.options.c=0.4": "builds ten simulators",
    "python train.py env=mt10 balancer=cagrad balancer.actor=unitary": "builds ten simulators",
}
SMALL = [
    "agent.compile=false",
    "total_env_steps=120",
    "network.hidden_sizes=[8]",
    "evaluation.every_env_steps=1000",
    "evaluation.final_episodes=1",
    "evaluation.horizon=5",
    "evaluation.workers=0",
    "env.horizon=5",
    "env.workers=0",
    "tracking.progress=false",
    "tracking.tensorboard=false",
    "tracking.plots=false",
]
SMALL_OF_AGENT = {
    "mtsac": ["agent.warmup_steps_per_task=5", "agent.replay_per_task=100"],
    "mtppo": ["agent.n_steps=5", "agent.samples_per_task=5", "agent.n_epochs=1"],
}


def fenced(language):
    """Lines or blocks of the pages in fences of a language: (page name, text)."""
    for page in PAGES:
        for block in re.findall(
            rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            yield page.name, block


def commands():
    seen = {}
    for page, block in fenced("sh"):
        for line in block.splitlines():
            command = " ".join(shlex.split(line, comments=True)) and line.split(" #")[0].strip()
            if command:
                seen.setdefault(command, page)
    return sorted(seen)


def of_kind(*starts):
    return [command for command in commands() if command.startswith(starts)]


def train(arguments, folder, monkeypatch, capsys):
    """``python train.py`` in this process, since a new one would mostly import; returns what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    printed = capsys.readouterr()
    assert not ended.value.code, f"{shlex.join(arguments)}\n{printed.out[-2000:]}\n{printed.err[-4000:]}"
    return printed.out


def test_every_command_of_the_pages_is_run_by_a_test_here_or_named_with_a_reason():
    assert set(COMPOSED_ONLY) <= set(commands())
    left_out = [start for starts in NOT_RUN for start in ([starts] if isinstance(starts, str) else starts)]
    known = ("python train.py", "mtrl ", "make ", *left_out)
    assert [command for command in commands() if not command.startswith(known)] == []
    assert len(of_kind("python train.py")) >= 8


@pytest.mark.parametrize("command", of_kind("make "))
def test_make_knows_its_targets(command):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", of_kind("python train.py"))
def test_train_commands_run(command, tmp_path, monkeypatch, capsys):
    arguments = shlex.split(command)[2:]
    if "--help" in arguments:
        assert "balancer" in train(arguments, tmp_path, monkeypatch, capsys)
        return
    if command in COMPOSED_ONLY:
        for launcher in ("joblib", "submitit"):
            if f"hydra/launcher={launcher}" in command:
                pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher", reason="needs the extra `sweep`")
        # One experiment of a sweep, and no run.
        single = [
            re.sub(r"=(?:range\((\d+)\)|([^,\[]*),.*)", r"=\1\2", argument)
            for argument in arguments
            if argument != "-m"
        ]
        assert "env:" in train([*single, "--cfg", "job"], tmp_path, monkeypatch, capsys)
        return
    given = {argument.split("=")[0] for argument in arguments} - {"total_env_steps"}
    if "plugins=[myrl]" in arguments:
        (code,) = re.findall(
            r"^```py\n(.*?)^```$", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL | re.MULTILINE
        )
        (tmp_path / "myrl.py").write_text(code)
    small = [setting for setting in SMALL if setting.split("=")[0] not in given]
    arguments = [argument for argument in arguments if not argument.startswith("total_env_steps")]
    train([*arguments, *small], tmp_path, monkeypatch, capsys)
    (results,) = tmp_path.glob("runs/*/*/results.md")
    assert "mean" in results.read_text(encoding="utf-8")
    if "plugins=[myrl]" in arguments:
        forget("mine")


def forget(balancer):
    """As if no plug-in had been loaded."""
    plugins._loaded.clear()
    del BALANCERS._records[balancer], sys.modules["myrl"]
    ConfigStore.instance().repo["balancer"].pop(f"{balancer}.yaml")


def test_the_toolkit_is_cloned_offline_as_the_readme_says(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("is no git checkout")
    (line,) = of_kind("git clone")
    command = shlex.split(line.partition(" && ")[0].replace("/path/or/url/where/you/found/this", str(ROOT)))
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "mtrl-toolkit" / "Makefile").exists()


@pytest.mark.parametrize("command", of_kind("mtrl train"))
def test_train_commands_of_mtrl_are_those_of_the_script(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mtrl"])
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(command)[1:], *SMALL, *SMALL_OF_AGENT["mtsac"]])
    assert not ended.value.code, capsys.readouterr().err
    assert list(tmp_path.glob("runs/*/*/results.md"))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f"version = {citation['version']}" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def test_train_runs_as_a_command_from_another_folder(run_dir):
    assert (run_dir / "plots" / "success.png").exists()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """The folder of a finished run of the toy, made by a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    settings = [setting for setting in SMALL if not setting.startswith("tracking")]
    command = [sys.executable, str(ROOT / "train.py"), "env=pointmass", f"run_dir={folder / 'run'}", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "run"


@pytest.mark.parametrize("command", of_kind("mtrl tune", "mtrl sweep"))
def test_commands_that_start_ray_are_understood(command):
    """They run in tests/mtrl/test_mtrl_tune_command.py, on settings of their own: each start of Ray takes seconds."""
    options = _parser().parse_args(shlex.split(command)[1:])
    if options.overrides:
        assert compose_grid(options.overrides)


@pytest.mark.parametrize("command", of_kind("mtrl list"))
def test_list_commands_run(command, capsys):
    assert main(shlex.split(command)[1:]) == 0
    assert {"balancers": "unitary", "networks": "mlp", "pretrained": "policy", "suites": "mt10"}[
        command.split()[-1]
    ] in capsys.readouterr().out


@pytest.mark.parametrize("command", of_kind("mtrl evaluate"))
def test_evaluate_commands_run(command, run_dir, tmp_path, monkeypatch, capsys):
    if "--video" in command:
        pytest.importorskip("imageio_ffmpeg", reason="needs the extra `video`")
    own = shutil.copytree(run_dir, tmp_path / "run")
    monkeypatch.chdir(tmp_path)  # where a policy that ships leaves its results
    arguments = shlex.split(command.replace("RUN_DIR", str(own)).replace("--episodes 50", ""))[1:]
    assert main([*arguments, "--episodes", "2", "--workers", "0"]) == 0
    assert "mean" in capsys.readouterr().out
    assert bool(list(tmp_path.glob("*/evaluations/*/mosaic.mp4"))) == ("--video" in command)


@pytest.mark.parametrize("command", of_kind("mtrl export "))
def test_export_commands_run(command, run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command.replace("RUN_DIR", str(run_dir)))[1:], "--episodes", "2", "--workers", "0"]) == 0
    assert (tmp_path / "policy.json").exists()


@pytest.mark.parametrize("command", of_kind("mtrl export-dataset"))
def test_dataset_commands_run(command, run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    words = shlex.split(command.replace("RUN_DIR", str(run_dir)).replace("--episodes 50", ""))[1:]
    assert main([*words, "--episodes", "1", "--workers", "0"]) == 0
    assert (tmp_path / "datasets" / words[words.index("--name") + 1] / "data" / "metadata.json").exists()


@pytest.mark.parametrize("command", of_kind("mtrl compare"))
def test_compare_commands_run(command, run_dir, tmp_path, monkeypatch, capsys):
    shutil.copytree(run_dir, tmp_path / "runs" / "pointmass" / "run")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    assert "unitary" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page, run_dir, tmp_path, monkeypatch):
    """The examples of a page, one after the other in one namespace; what learns does so on the toy instead of MT10."""
    monkeypatch.chdir(tmp_path)
    suite = '"mt10"' if page.name == "pretrained.md" else '"pointmass"'
    namespace = {}
    for name, block in fenced("python"):
        if name == page.name and "..." not in block:
            cut = block.replace("1_000_000", "200").replace("2_000", "200").replace('"mt10"', suite)
            exec(compile(cut.replace("RUN_DIR", str(run_dir)), page.name, "exec"), namespace)
