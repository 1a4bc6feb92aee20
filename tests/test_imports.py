"""Who may import whom: train.py -> mtrl -> agents, envs; agents and envs know neither each other nor mtrl."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"agents", "envs", "mtrl", "train"}
MAY_IMPORT = {"agents": {"agents"}, "envs": {"envs"}, "mtrl": {"agents", "envs", "mtrl"}, "train.py": {"mtrl"}}


def imported_packages(file: Path) -> set[str]:
    """Our top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & OURS


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_they_may_know(package: str) -> None:
    place = ROOT / package
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files
    for file in files:
        assert imported_packages(file) <= MAY_IMPORT[package], file


def test_the_check_sees_imports_inside_functions(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f():\n    from mtrl.config import RunConfig\n    import envs.suite\n")
    assert imported_packages(tmp_path / "x.py") == {"mtrl", "envs"}


def test_importing_mtrl_loads_nothing_heavy() -> None:
    code = "import sys, mtrl, mtrl.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"torch", "metaworld", "mujoco", "matplotlib", "tensorboard", "pandas"} & set(done.stdout.split())


def test_training_loads_neither_plots_nor_simulators_before_it_needs_them() -> None:
    code = "import sys, mtrl.experiment; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"metaworld", "mujoco", "matplotlib.figure", "wandb", "imageio"} & set(done.stdout.split())


def test_only_the_search_on_ray_imports_ray() -> None:
    found = set()
    for file in [path for package in ("agents", "envs", "mtrl") for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "ray" for name in names):
                found.add(str(file.relative_to(ROOT)))
    assert found == {"mtrl/tune/on_ray.py", "mtrl/tune/bandit.py"}
