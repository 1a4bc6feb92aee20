"""A setting is written once: everything that knows it follows from its line in the dataclass of its algorithm."""

import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import MTSAC, ConfigurationError, algorithms, mtsac_settings
from agents.settings import Changes, walk
from envs import make_suite
from mtrl.build import make_agent, make_training_env
from mtrl.compose import compose
from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.run_state import refuse_changes

ROOT = Path(__file__).resolve().parents[1]
TOY = ["env=pointmass", "env.workers=0", "~experiment"]
LINE = "    spread: Annotated[float, Range(0, 1), Later()] = 0.5\n"
EXPLANATION = "    :param spread: of nothing\n"


@pytest.fixture
def with_one_more(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[MTSAC]]:
    """MTSAC as it is when one line, and one of explanation, are added to its dataclass."""
    source = Path(mtsac_settings.__file__).read_text(encoding="utf-8")
    last, first = "    pipeline: bool = True\n", "    :param tau:"
    assert source.count(last) == 1
    source = source.replace(last, last + LINE).replace(first, EXPLANATION + first, 1)
    module = types.ModuleType("more_settings")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, mtsac_settings.__file__, "exec"), module.__dict__)

    class More(MTSAC):
        """With one more setting."""

        arguments = module.MTSACArguments

    record = dataclasses.replace(algorithms.ALGORITHMS["mtsac"], make=More, agent=More, preset=module.MTSACPreset)
    monkeypatch.setitem(algorithms.ALGORITHMS._records, "mtsac", record)
    yield More


def test_one_line_makes_a_setting_of_python_and_of_the_command_line(with_one_more: type[MTSAC], tmp_path: Path) -> None:
    more = with_one_more
    assert inspect.signature(more).parameters["spread"].default == 0.5
    assert ":param spread: of nothing" in (more.__doc__ or "")
    config = compose([*TOY, "agent.spread=0.25"])
    env = make_training_env(config, config.make_suite())
    agent = make_agent(config, env)
    assert agent.settings.spread == 0.25
    agent.save(tmp_path / "agent")
    assert more.load(tmp_path / "agent", device="cpu").settings.spread == 0.25
    assert more.load(tmp_path / "agent", device="cpu", spread=0.75).settings.spread == 0.75
    env.close()


def test_a_file_from_before_a_setting_has_its_default(with_one_more: type[MTSAC], tmp_path: Path) -> None:
    env = make_suite("pointmass").make_vec_env(seed=0)
    MTSAC("MultiTaskPolicy", env, policy_kwargs={"hidden_sizes": [8]}, device="cpu").save(tmp_path / "agent")
    assert with_one_more.load(tmp_path / "agent", device="cpu").settings.spread == 0.5
    env.close()


def test_one_line_makes_its_refusals(with_one_more: type[MTSAC]) -> None:
    with pytest.raises(ConfigError, match=r"^agent\.spread must be at least 0 and at most 1, found 2\.$"):
        compose([*TOY, "agent.spread=2"])
    with pytest.raises(ConfigError, match=r"^Unknown setting 'agent\.spraed'; did you mean 'agent\.spread'\?$"):
        RunConfig.from_dict({"agent": {"spraed": 0.1}})
    with pytest.raises(
        ConfigurationError, match=r"^spread must be a number of at least 0 and at most 1, found 'wide'\.$"
    ):
        with_one_more(spread="wide")
    with pytest.raises(ConfigurationError, match=r"does not take 'spraed', did you mean 'spread'\?"):
        with_one_more(spraed=0.1)


def test_one_line_decides_the_names_of_runs_and_what_may_change(with_one_more: type[MTSAC], tmp_path: Path) -> None:
    plain, other = compose(TOY), compose([*TOY, "agent.spread=0.25"])
    before = plain.to_dict()
    del before["agent"]["spread"]  # a run of the time before the setting
    assert plain.identity() == compose([*TOY, "agent.spread=0.5"]).identity() != other.identity()
    refuse_changes(before, plain, tmp_path)
    with pytest.raises(ConfigError, match=r"agent\.spread \(0\.5 there, 0\.25 here\)"):
        refuse_changes(before, other, tmp_path)


def test_one_line_makes_a_row_of_the_docs(with_one_more: type[MTSAC]) -> None:
    from tests.docs.test_tables import tables

    assert "| `spread` | `spread` | `0.5` | `0.5` |" in tables.settings(algorithms.find_algorithm("mtsac"))


def test_the_constructor_takes_by_position_what_sb3s_sac_takes() -> None:
    parameters = inspect.signature(MTSAC).parameters
    positional = [name for name, found in parameters.items() if found.kind is found.POSITIONAL_OR_KEYWORD]
    assert positional == [
        *("policy", "env", "learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "gamma"),
        *("train_freq", "gradient_steps"),
    ]
    env = make_suite("pointmass").make_vec_env(seed=0)
    agent = MTSAC("MultiTaskPolicy", env, 1e-3, 4_000, 40, 16, 0.01, 0.9, 2, 3, policy_kwargs={"hidden_sizes": [8]})
    assert (agent.learning_rate, agent.buffer_size, agent.learning_starts, agent.batch_size) == (1e-3, 4_000, 40, 16)
    assert (agent.tau, agent.gamma, agent.train_freq, agent.gradient_steps) == (0.01, 0.9, 2, 3)
    env.close()


def test_an_argument_is_given_once() -> None:
    with pytest.raises(TypeError, match="multiple values for argument 'learning_rate'"):
        MTSAC("MultiTaskPolicy", None, 1e-3, learning_rate=1e-3)
    with pytest.raises(TypeError, match="too many positional arguments"):
        MTSAC("MultiTaskPolicy", None, 1e-3, 4_000, 40, 16, 0.01, 0.9, 2, 3, "auto")


def test_every_argument_is_explained() -> None:
    assert MTSAC.__doc__ is not None
    for name in inspect.signature(MTSAC).parameters:
        assert name.startswith("_") or f":param {name}: " in MTSAC.__doc__, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 0.01),
        ("gamma", 0.5),
        ("gradient_steps", 3),
        ("learning_starts", 80),
        ("train_freq", 2),
        ("batch_size", 32),
        ("buffer_size", 8_000),
        ("max_grad_norm", None),
        ("pipeline", False),
    ],
)
def test_a_file_keeps_what_the_agent_has_now(name: str, value: object, tmp_path: Path) -> None:
    env = make_suite("pointmass").make_vec_env(seed=0)
    agent = MTSAC("MultiTaskPolicy", env, buffer_size=4_000, policy_kwargs={"hidden_sizes": [8]}, device="cpu", seed=0)
    assert getattr(agent, name) != value
    setattr(agent, name, value)
    agent.save(tmp_path / "agent")
    assert getattr(MTSAC.load(tmp_path / "agent", device="cpu"), name) == value
    env.close()


# As they were when settings were written several times: the folders of runs that exist keep their names.
IDENTITIES = {
    "": "7d5d6778",
    "env=mt10": "baf94a63",
    "env=mt10 agent=mtsac_baseline": "0cdea9ad",
    "env=mt10 agent=brc": "53fba62e",
    "env=mt10 agent=mtsac_regularized": "fd0ccc42",
    "experiment=mt10_laptop": "29fa8865",
    "env=pointmass": "407e6d1e",
    "env=pointmass balancer=famo seed=3": "5abfebf9",
    "env=mt10 agent.tau=0.1 balancer=igb_v1+cagrad": "d8199cdb",
    "env=mt10 env.workers=3 threads=2": "baf94a63",
    "env=mt10 agent.max_skipped_updates=7": "baf94a63",
    "env=mt10 evaluation.episodes=7": "7b57a973",
    "env=mt10 network=bronet": "84119da9",
}


@pytest.mark.parametrize("command", IDENTITIES)
def test_the_same_command_names_the_same_folder_as_ever(command: str) -> None:
    assert compose(command.split()).identity() == IDENTITIES[command]


def test_a_config_that_names_no_algorithm_is_one_of_mtsac() -> None:
    values = RunConfig().to_dict()
    del values["agent"]["algorithm"]
    assert RunConfig.from_dict(values) == RunConfig()


def test_what_may_change_when_a_run_is_resumed() -> None:
    free = {setting.name for setting in walk(RunConfig()) if setting.changes is not Changes.RESULT}
    assert {name for name in free if name.partition(".")[0] not in ("evaluation", "tracking", "checkpoint")} == {
        *("total_env_steps", "env.steps_per_task", "env.workers", "env.worker_timeout", "env.max_worker_restarts"),
        *("env.fast", "agent.max_skipped_updates", "schedule", "threads", "run_dir", "runs_dir", "max_wall_time"),
        *("takeover", "debug", "plugins", "again"),
    }


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "agent").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_preset_holds_only_what_differs_from_the_defaults(file: Path) -> None:
    import yaml

    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    del values["defaults"]
    defaults = RunConfig().to_dict()["agent"]
    parsed = RunConfig.from_dict({"agent": {name: _number(value) for name, value in values.items()}}).to_dict()["agent"]
    assert all(parsed[name] != defaults[name] for name in values)


def _number(value: object) -> object:
    """YAML reads 1e-4 and 4_000 otherwise than OmegaConf does."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
