"""A wheel is whole: installed away from the checkout, its commands find their configs and train."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "env=pointmass", "total_env_steps=80", "network.hidden_sizes=[8]", "agent.warmup_steps_per_task=5",
    "agent.samples_per_task=4", "evaluation.final_episodes=1", "evaluation.horizon=5", "evaluation.workers=0",
    "env.horizon=5", "env.workers=0", "tracking.progress=false", "tracking.tensorboard=false", "tracking.plots=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in a copy so that it leaves nothing here."""
    pytest.importorskip("setuptools", minversion="77", reason="builds without downloads")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("agents", "configs", "envs", "mtrl"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, folder / "source")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, beside the packages that it needs."""
    folder = tmp_path_factory.mktemp("site")
    _pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def mtrl(site: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(site / "bin" / "mtrl"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_every_module_and_every_config_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for package in ("agents", "envs", "mtrl"):
        assert {str(file.relative_to(ROOT)) for file in (ROOT / package).rglob("*.py")} <= inside
    configs = {str("mtrl/configs" / file.relative_to(ROOT / "configs")) for file in (ROOT / "configs").rglob("*.yaml")}
    assert configs <= inside and "mtrl/configs/config.yaml" in configs


def test_the_toy_is_trained_from_the_wheel(site: Path, tmp_path: Path) -> None:
    printed = mtrl(site, tmp_path, "train", *SMALL)
    assert "Written to runs/pointmass/" in printed
    assert list(tmp_path.glob("runs/pointmass/*/agent.zip"))


def test_commands_of_many_runs_compose_from_the_wheel(site: Path, tmp_path: Path) -> None:
    code = (
        "import mtrl, mtrl.launch; from mtrl.compose import compose_grid; "
        "print(mtrl.launch.CONFIGS, len(compose_grid(['env=mt10', 'balancer=unitary,famo+pcgrad', 'seed=1,2'])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(site / "mtrl" / "configs"), "4"], done.stderr[-3000:]


@pytest.mark.faults  # minutes of processes that start
@pytest.mark.usefixtures("ray_alone")
def test_a_sweep_and_a_search_run_from_the_wheel(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `tune`")
    settings = [setting for setting in SMALL if not setting.startswith("env.workers")]
    assert "2 finished" in mtrl(site, tmp_path, "sweep", *settings, "seed=1,2", "--workers", "2")
    search = ["--population", "2", "--intervals", "2", "--workers", "2", "--out", "search"]
    assert "Best: member" in mtrl(site, tmp_path, "tune", *settings, *search)
