"""Commands: what they print, and that bad input is one sentence and exit code 2."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.balancers import list_balancers
from agents.errors import nearest as nearest_of_agents
from envs import SuiteError
from envs.errors import did_you_mean
from mtrl.cli import main
from mtrl.errors import ConfigError, exit_code, nearest, sentence
from mtrl.experiment import Result
from mtrl.launch import guarded
from mtrl.schema import nearest_setting
from mtrl.shadowing import _cure
from tests.grids import grid

ROOT = Path(__file__).resolve().parents[2]


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run train.py as a user does."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@grid(
    ("arguments", "said"),
    [
        (["env=mt11"], "env has no choice 'mt11'; did you mean 'mt10'?"),
        (["experiment=mt10_laptp"], "experiment has no choice 'mt10_laptp'; did you mean 'mt10_laptop'?"),
        (
            ["seed=1,2"],
            "'seed=1,2' are several values: a sweep over them needs -m, one list of them brackets, 'seed=[1,2]'.",
        ),
        (
            ["balancer=cagrad", "balancer.options.d=1"],
            "'balancer.options.d' is no option of cagrad; known: c, rescale.",
        ),
        (
            ["balancer.options.c=1"],
            "'balancer.options.c' is no option of the balancer that is set: name its own beside it, such as "
            "balancer=cagrad.",
        ),
        (
            ["env=pointmass", "env.options.num_gaols=0"],
            "Suite 'pointmass' has no option 'num_gaols'; did you mean 'num_goals' or 'num_tasks'?",
        ),
        (
            ["env=pointmass", "network=mlp", "network.options.embeding_size=16"],
            "'network.options.embeding_size' is no option of mlp; did you mean 'embedding_size'?",
        ),
        (["balancer=unitray"], "balancer has no choice 'unitray'; did you mean 'unitary'?"),
        (
            ["agent.samples_per_tas=3"],
            "Unknown setting 'agent.samples_per_tas'; did you mean 'agent.samples_per_task'?",
        ),
        (
            ["env=pointmass", "agent.batch_size=33"],
            "agent.batch_size must be divisible by the 4 tasks, found 33; 32 would be right.",
        ),
    ],
    every=4,
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = train(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (2, f"{said}\n", "")
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = train("env=pointmass", "seed=-1", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("seed must be at least 0, found -1.\n")


def test_help_shows_groups_choices_defaults_and_examples(tmp_path: Path) -> None:
    done = train("--help", cwd=tmp_path)
    assert done.returncode == 0
    for text in (
        "env: gym, metaworld, mt10",
        "network: bronet, care, film, mlp",
        "samples_per_task: 32",
        "python train.py env=mt10",
    ):
        assert text in done.stdout
    for record in list_balancers():
        assert record.name in done.stdout


def test_a_composed_balancer_without_a_file_of_its_own_trains_from_the_command_line(tmp_path: Path) -> None:
    done = train(
        "env=pointmass",
        "balancer=rlw+unitary",
        "balancer.options.distribution=dirichlet",
        "env.horizon=10",
        "total_env_steps=1_00",
        "agent.warmup_steps_per_task=5",
        "agent.samples_per_task=2",
        "evaluation.final_episodes=1",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "100 of 100 env steps" in done.stdout
    (folder,) = (tmp_path / "runs" / "pointmass").iterdir()
    assert folder.name.startswith("mtsac-rlw+unitary-seed1-")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_foreign_package_of_the_same_name_is_named_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("raise RuntimeError('a stranger was imported')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from mtrl.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "list", "suites"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"'{tmp_path / 'agents'}' hides the package 'agents' of this toolkit in {ROOT}: rename "
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["agents.py", "envs"])
def test_a_users_own_module_beside_the_script_is_cured_as_the_sentence_says(name: str, tmp_path: Path) -> None:
    own = tmp_path / name
    if own.suffix:
        own.write_text("WORD = 'mine'\n")
    else:
        own.mkdir()
        (own / "__init__.py").write_text("WORD = 'mine'\n")
    script = tmp_path / "script.py"
    script.write_text("from mtrl import make_env\nprint(make_env('pointmass').num_tasks)\n")

    def start() -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, env=environment)

    said = start().stderr
    (new_name,) = re.findall(r"rename yours, to (my_\S+) for example", said)
    assert f"'{own}' hides the package" in said
    own.rename(tmp_path / new_name)
    assert start().stdout.strip().isdigit()


def test_what_hides_a_package_has_the_cure_that_fits_it(tmp_path: Path) -> None:
    assert "uninstall" in _cure(tmp_path / "site-packages" / "agents")
    (tmp_path / "mtrl").mkdir()
    (tmp_path / "mtrl" / "shadowing.py").write_text("")
    assert "another checkout" in _cure(tmp_path / "envs")


@pytest.mark.parametrize(
    ("what", "names"),
    [("balancers", ["unitary", "rlw"]), ("networks", ["multihead"]), ("suites", ["mt50", "pointmass"])],
)
def test_list_names_what_is_registered(what: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in names)


def test_evaluate_prints_and_keeps_a_table(finished: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(finished.folder), "--episodes", "2", "--seed", "7", "--workers", "0"]) == 0
    assert "goals of seed 7" in capsys.readouterr().out
    assert (finished.folder / "evaluations" / "seed7-episodes2" / "results.md").exists()


def test_evaluating_what_is_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"No run at '{tmp_path / 'nothing'}': there is no such folder.\n"
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "holds no config.yaml and no run.json and no agent.zip" in capsys.readouterr().err


def test_evaluating_a_broken_agent_is_one_sentence(
    finished: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_bytes((finished.folder / name).read_bytes())
    (tmp_path / "agent.zip").write_bytes(b"PK\x03\x04 not an archive")
    assert main(["evaluate", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "agent.zip" in said
    assert said.count("\n") == 1


def test_exit_codes_tell_bad_input_from_faults_and_stops() -> None:
    assert exit_code(ConfigError("x")) == 2
    assert exit_code(ZeroDivisionError("x")) == 1
    assert exit_code(KeyboardInterrupt()) == 130


def test_a_fault_is_one_sentence_with_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ZeroDivisionError("division\nby zero")

    assert guarded(fail, debug=False) == 1
    assert capsys.readouterr().err == "ZeroDivisionError: division by zero.\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SuiteError("horizon is bad"), "Horizon is bad."),
        (ConfigError("agent.tau is bad"), "agent.tau is bad."),
        (ConfigError("Why?"), "Why?"),
        (SuiteError(""), "No reason was given."),
    ],
)
def test_errors_become_sentences(error: Exception, said: str) -> None:
    assert sentence(error) == said


@pytest.mark.parametrize("hint", [nearest, did_you_mean, nearest_of_agents, nearest_setting])
def test_a_name_is_never_proposed_in_its_own_place(hint: Callable[[str, list[str]], str]) -> None:
    assert "'agent.tau'" not in hint("agent.tau", ["agent.tau"])
    others = ["agent.tau", "agent.taw", *(f"x{i}" for i in range(20))]
    assert "'agent.tau'" not in hint("agent.tau", others) and "'agent.taw'" in hint("agent.tau", others)
