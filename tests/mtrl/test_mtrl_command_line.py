"""What a user types: settings and options in any order, names of folders with any characters, sentences otherwise."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mtrl.command_line import PLACES, readable
from mtrl.compose import compose, compose_grid
from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.run_folder import RunFolder
from tests.mtrl.test_mtrl_commands import train

CHARACTERS = "ö日 #&'\"=(){}[]!;:%$@*?|+^<>`\\"
CLASSES = ("Lexer", "Exception", "mismatched input", "no viable", "Error parsing")


def value_of(argument: str) -> object:
    """The text that Hydra gives a setting."""
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("setting", PLACES)
@pytest.mark.parametrize("character", [*CHARACTERS, '\\"', '"\\', "é(1), b=2"])
def test_a_folder_may_have_any_name(setting: str, character: str) -> None:
    if character == "é(1), b=2" and setting == "runs_dir":
        character = "é"  # a comma makes a list of names that are plain enough
    name = f"runs/a{character}b"
    (argument,) = readable([f"{setting}={name}"])
    assert value_of(argument) == name
    assert readable([argument]) == [argument]  # what can be read is left alone


@pytest.mark.parametrize("name", ["2026", "1e5", "true", "[a,b]"])
def test_a_folder_may_be_called_like_a_number(name: str) -> None:
    assert compose([f"run_dir={name}"]).run_dir == name


def test_a_tilde_is_the_home_folder_whoever_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compose(["run_dir=~/r"]).run_dir == f"{tmp_path}/r"
    config = RunConfig.from_dict({"run_dir": "~/r", "runs_dir": "~/all"})
    assert (RunFolder.of(config).path, config.runs_dir) == (tmp_path / "r", f"{tmp_path}/all")


def test_null_interpolations_and_lists_for_a_sweep_stay_what_they_are() -> None:
    same = ["run_dir=null", "run_dir=runs/${balancer.name}", "run_dir=a,b", "runs_dir='x y'", "~experiment", "seed=1,2"]
    assert readable(same) == same
    assert [point.config.run_dir for point in compose_grid(["run_dir=a,b"])] == ["a", "b"]


def test_settings_may_stand_anywhere_between_options() -> None:
    assert readable(["env=mt10", "-m", "seed=1,2", "--cfg", "job", "agent.tau=0.1", "--info", "all", "run_dir=ö"]) == [
        *("env=mt10", "seed=1,2", "agent.tau=0.1", 'run_dir="ö"'),
        *("-m", "--cfg", "job", "--info", "all"),
    ]
    assert readable(["--info", "env=mt10"]) == ["env=mt10", "--info"]


@pytest.mark.parametrize(
    ("argument", "cure"),
    [
        ("tracking.wandb_project=ö", 'tracking.wandb_project="ö"'),
        ("balancer.options.x=a'b", 'balancer.options.x="a\'b"'),
        ("env.tasks=[reach-v3,ö]", 'env.tasks=[reach-v3,"ö"]'),
        ("agent.tau=(", 'agent.tau="("'),
    ],
)
def test_other_text_that_cannot_be_read_comes_with_the_cure(argument: str, cure: str) -> None:
    with pytest.raises(ConfigError) as refused:
        readable([argument])
    said = str(refused.value)
    assert not any(word in said for word in CLASSES)
    _, _, shown = said.rstrip(".").rpartition("of the shell, ")
    assert shlex.split(shown) == [cure]  # pasted into a shell, it is the cure
    assert readable([cure]) == [cure]


@pytest.mark.parametrize("argument", ["seed", "a b=1", "env.tasks"])
def test_what_is_no_setting_is_told_how_settings_look(argument: str) -> None:
    with pytest.raises(ConfigError, match=f"'{argument}' cannot be read: settings are given as name=value"):
        readable([argument])


def test_an_empty_folder_is_a_variable_that_is_not_set() -> None:
    with pytest.raises(ConfigError, match="run_dir is empty"):
        readable(["run_dir="])


def test_a_plus_before_a_group_changes_nothing() -> None:
    assert compose(["env=mt10", "+experiment=mt10_laptop"]) == compose(["env=mt10", "experiment=mt10_laptop"])
    assert compose(["+env=pointmass", "+balancer=famo"]) == compose(["env=pointmass", "balancer=famo"])
    with pytest.raises(ConfigError, match="experiment has no choice 'mt10_lapto'; did you mean 'mt10_laptop'"):
        compose(["+experiment=mt10_lapto"])


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("+agent.tau=0.1", "'agent.tau' is a setting already: give it without the plus, agent.tau=..."),
        ("run_dir=a,b", "'run_dir=a,b' are several values: a sweep over them needs -m, a name quotation marks, "),
        ('run_dir="r${x"', "must be the name of a setting"),
    ],
)
def test_what_hydra_refuses_is_one_plain_sentence(argument: str, said: str, tmp_path: Path) -> None:
    done = train("env=pointmass", argument, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr
    assert done.stderr.count("\n") == 1 and not any(word in done.stderr for word in CLASSES)


def test_a_sweep_may_be_asked_for_in_the_middle_and_runs_in_folders_of_any_name(tmp_path: Path) -> None:
    done = train("env=pointmass", "--cfg", "job", "seed=2", cwd=tmp_path)
    assert done.returncode == 0 and "suite: pointmass" in done.stdout and "seed: 2" in done.stdout, done.stderr
    done = train("env=pointmass", "-m", "seed=1,2", "--cfg", "job", cwd=tmp_path)
    assert (done.returncode, done.stderr[:20]) == (2, "Only one of --run, -")
    few = ["env.horizon=10", "total_env_steps=40", "agent.warmup_steps_per_task=5", "evaluation.final_episodes=1"]
    done = train("env=pointmass", "-m", "seed=1,2", *few, "run_dir=r/ö#(${seed})", "evaluation.workers=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["ö#(1)", "ö#(2)"]
