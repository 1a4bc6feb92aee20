"""The modules of the folder that a command is given in are found, wherever the command is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import gymnasium, numpy as np

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}

gymnasium.register("Mine-v0", entry_point=Mine, max_episode_steps=5)
"""
SETTINGS = [
    *("env=gym", "env.tasks=[my_module:Mine-v0]", "env.workers=2", "evaluation.workers=2", "run_dir=run", "device=cpu"),
    *(
        "env.steps_per_task=30",
        "agent.warmup_steps_per_task=10",
        "network.hidden_sizes=[8]",
        "agent.samples_per_task=4",
    ),
    *("evaluation.episodes=1", "evaluation.final_episodes=2", "evaluation.every_env_steps=null"),
]


@pytest.mark.slow
def test_train_and_evaluate_know_the_modules_of_the_working_directory(tmp_path):
    (tmp_path / "my_module.py").write_text(MODULE)
    command = "import sys; from mtrl.cli import main; sys.exit(main())"  # as the installed command begins
    for arguments in (
        [str(ROOT / "train.py"), *SETTINGS],
        ["-P", "-c", command, "evaluate", "run", "--episodes", "2"],
    ):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, ran.stderr


def test_no_module_of_the_working_directory_hides_another(tmp_path):
    (tmp_path / "yaml.py").write_text("raise SystemExit('this is not the library')")
    (tmp_path / "my_module.py").write_text("print('found')")
    code = (
        "from mtrl.plugins import use_working_directory as see; see(); see(); import sys, os, yaml, my_module; "
        "print(sys.path.count(os.getcwd()))"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.split() == ["found", "1"], ran.stderr
