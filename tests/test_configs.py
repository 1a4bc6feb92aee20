"""Every YAML file composes into a valid config, and a group's numbers stay with that group."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from agents.balancers import list_balancers
from agents.errors import ConfigurationError
from agents.reward_scale import DeviationScale
from agents.settings import walk
from envs import SuiteError
from mtrl.build import make_agent, make_training_env
from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.launch import prepare
from tests.grids import grid

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CHOICES = [f"{file.parent.name}={file.stem}" for file in sorted(CONFIGS.glob("*/*.yaml"))]
NEEDS = {
    "env=gym": ["env.tasks=[Pendulum-v1]"],
    "env=metaworld": ["env.tasks=[reach-v3,push-v3]"],
    "balancer=static": ["balancer.options.weights=[1,1,2,3]"],
}


@pytest.fixture(scope="module", autouse=True)
def hydra_over_configs() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def config_of(*overrides: str) -> RunConfig:
    """The config that a command line composes."""
    before = dict(ConfigStore.instance().repo)
    try:
        composed = compose("config", prepare(overrides, CONFIGS))
    finally:
        ConfigStore.instance().repo = before
    return RunConfig.from_dict(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes_and_is_valid(choice: str) -> None:
    config_of(choice, *NEEDS.get(choice, [])).make_suite()


def test_the_plain_command_is_the_quickstart_on_four_or_more_metaworld_tasks() -> None:
    config = config_of()
    assert config.env.suite == "metaworld"
    assert config.make_suite().num_tasks >= 4
    assert config.evaluation.horizon is None  # evaluated at the suite's 500 steps, whatever it trains with
    assert config.evaluation.final_episodes == 50


@pytest.mark.parametrize("env", ["mt10", "mt25", "mt50"])
def test_the_quickstarts_numbers_stay_with_the_quickstart(env: str) -> None:
    config = config_of(f"env={env}")
    tasks = int(env[2:])
    assert config.budget(tasks) == 2_000_000 * tasks
    assert config.env.horizon is None
    assert config.evaluation == RunConfig().evaluation


@pytest.mark.parametrize(("override", "fast"), [([], True), (["env.fast=false"], False)])
def test_stock_steps_are_one_setting_away(override: list[str], fast: bool) -> None:
    suite = config_of("env=mt10", *override).make_suite()
    assert [maker.keywords["fast"] for maker in suite.makers] == [fast] * 10  # type: ignore[attr-defined]


def test_the_command_of_the_readme_means_what_it_says() -> None:
    config = config_of("env=mt10", "agent=mtsac", "balancer=unitary", "seed=3", "total_env_steps=2_000_000")
    assert (config.env.suite, config.agent.name, config.balancer.name) == ("mt10", "mtsac", "unitary")
    assert (config.seed, config.total_env_steps) == (3, 2_000_000)


def test_the_baseline_has_the_published_numbers() -> None:
    agent = config_of("env=mt10", "agent=mtsac_baseline").agent
    assert (agent.samples_per_task, agent.replay_per_task, agent.warmup_steps_per_task) == (128, 100_000, 4_000)
    assert (agent.learning_rate, agent.adam_epsilon, agent.max_grad_norm) == (3e-4, 1e-5, 1.0)
    assert (agent.critic_layer_norm, agent.temperature, agent.precision) == (False, "per_task", "float32")


def test_the_regularized_agent_is_the_plain_one_with_four_stabilisers() -> None:
    plain, regularized = (config_of("env=mt10", f"agent={name}").agent for name in ("mtsac", "mtsac_regularized"))
    changed = {
        field.name: getattr(regularized, field.name)
        for field in dataclasses.fields(plain)
        if getattr(plain, field.name) != getattr(regularized, field.name)
    }
    assert changed == {
        "name": "mtsac_regularized",
        "replay_per_task": None,
        "temperature": "shared",
        "reward_scale": "std",
        "actor_weight_decay": 3e-4,
    }


def test_brc_has_its_published_numbers_and_brings_its_network_unless_another_is_named() -> None:
    config = config_of("env=mt10", "agent=brc")
    agent, network = config.agent, config.network
    assert (network.name, network.task_id, network.actor_hidden_sizes) == ("bronet", "critic_embedding", (256,))
    assert (agent.critic, agent.ensemble_reduction, agent.reward_scale) == ("categorical", "mean", "return")
    assert (agent.categorical.num_atoms, agent.categorical.v_min, agent.categorical.v_max) == (101, -10.0, 10.0)
    assert (agent.gradient_steps, agent.weight_decay, agent.temperature_beta1) == (2, 1e-4, 0.5)
    assert config_of("env=mt10", "agent=brc", "network=mlp").network.name == "mlp"
    assert config_of("env=mt10", "agent=brc", "network.hidden_sizes=[64]").network.hidden_sizes == (64,)


def test_brc_learns_from_its_config_and_another_size_of_support_reaches_the_rewards() -> None:
    config = config_of("env=pointmass", "agent=brc", "agent.categorical.v_max=5", "agent.categorical.v_min=-5")
    env = make_training_env(config, config.make_suite())
    agent = make_agent(config, env)
    assert agent.reward_scale.limit == agent.critic.value.limit == 5.0  # type: ignore[attr-defined]
    agent.learn(agent.learning_starts + 20)
    assert agent._n_updates > 0 and (agent.reward_scale.largest > 0).all()  # type: ignore[operator]
    env.close()


def test_the_regularized_agent_forgets_no_transition_of_its_run() -> None:
    config = config_of("env=pointmass", "agent=mtsac_regularized", "total_env_steps=1_200", "env.copies=2")
    env = make_training_env(config, config.make_suite())
    agent = make_agent(config, env)
    assert agent.replay_buffer is not None and agent.replay_buffer.capacity >= 1_200 // env.num_tasks
    agent.learn(1_200)
    assert agent.replay_buffer.filled.sum() == agent.num_timesteps
    assert len(agent.temperature.log_alpha) == 1
    assert [group["weight_decay"] for group in agent.actor_optimizer.param_groups] == [3e-4]
    assert [group["weight_decay"] for group in agent.critic_optimizer.param_groups] == [0.0]
    assert isinstance(agent.reward_scale, DeviationScale) and (agent.reward_scale.scale() != 1).all()
    env.close()


@grid("name", [record.name for record in list_balancers()], every=8)
def test_every_registered_balancer_is_a_choice_without_a_file_of_its_own(name: str) -> None:
    assert config_of("env=pointmass", f"balancer={name}").balancer.name == name


def test_compositions_are_choices_and_take_options_by_method_or_plainly() -> None:
    config = config_of("env=pointmass", "balancer=rlw+unitary", "balancer.options.distribution=dirichlet")
    assert config.balancer.name == "rlw+unitary"
    assert config.critic_balancer == ("rlw+unitary", {"distribution": "dirichlet"})
    config = config_of("env=pointmass", "balancer=rlw+unitary", "balancer.options.rlw.distribution=dirichlet")
    assert config.critic_balancer == ("rlw+unitary", {"rlw.distribution": "dirichlet"})
    config.make_suite()


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["env=mt10", "env.options.num_goals=0"], {"num_goals": 0}),
        (["env=mt10", "env.options.reward_version=v1"], {"reward_version": "v1"}),
        (["env=gym", "env.tasks=[Pendulum-v1]", "env.options.success_return=-200"], {"success_return": -200}),
        (
            [
                "env=pointmass",
                "env.options.num_tasks=3",
                "env.options.reward_scale_spread=10",
                "env.options.difficulty=0.5",
                "env.options.horizon=20",
                "env.options.num_goals=7",
            ],
            {"num_tasks": 3, "reward_scale_spread": 10, "difficulty": 0.5, "horizon": 20, "num_goals": 7},
        ),
        (["env=pointmass", "env.options={num_tasks: 3, num_goals: 7}"], {"num_tasks": 3, "num_goals": 7}),
        (["env=pointmass", "+env.options.num_tasks=3"], {"num_tasks": 3}),
    ],
)
def test_the_options_of_suites_that_the_documents_name_are_settings(
    overrides: list[str], options: dict[str, object]
) -> None:
    config = config_of(*overrides)
    assert config.env.options == options
    protocol = config.make_suite().protocol
    assert all(protocol[name] == value for name, value in options.items() if name in protocol)


def test_a_misspelt_option_of_a_suite_is_named_by_the_suite() -> None:
    config = config_of("env=pointmass", "env.options.num_gaols=0")
    with pytest.raises(SuiteError, match=r"suite 'pointmass' has no option 'num_gaols'; did you mean 'num_goals' or"):
        config.make_suite()


def test_the_actors_balancer_takes_options_of_its_own() -> None:
    config = config_of("env=pointmass", "balancer.actor=cagrad", "balancer.actor_options.c=0.3")
    assert config.actor_balancer == ("cagrad", {"c": 0.3})
    config.make_suite()
    config = config_of("env=pointmass", "balancer.actor=cagrad", "balancer.actor_options.cc=0.3")
    with pytest.raises(ConfigurationError, match="Balancer 'cagrad' has no option 'cc'"):
        config.make_suite()


@pytest.mark.parametrize(
    "overrides",
    [
        ["network.options.embedding_size=7"],
        ["network.options={embedding_size: 7}"],
        ["+network.options.embedding_size=7"],
    ],
)
def test_options_of_a_network_reach_actor_and_critics(overrides: list[str]) -> None:
    config = config_of("env=pointmass", "network=mlp", "network.task_id=embedding", *overrides)
    assert config.network.options == {"embedding_size": 7}
    env = make_training_env(config, config.make_suite())
    agent = make_agent(config, env)
    for network in (agent.actor.network, agent.critic.network):
        assert network.task_encoding.size == 7  # type: ignore[union-attr]
    env.close()


@pytest.mark.parametrize("name", ["soft_modules", "paco", "moore", "care", "film"])
def test_a_matched_mlp_is_one_command_away(name: str) -> None:
    counts = []
    for choice in ([f"network={name}"], ["network=mlp", f"network.options.match={name}"]):
        config = config_of("env=pointmass", *choice, "network.hidden_sizes=[64,64]")
        env = make_training_env(config, config.make_suite())
        agent = make_agent(config, env)
        counts.append([sum(value.numel() for value in side.parameters()) for side in (agent.actor, agent.critic)])
        env.close()
    assert counts[1] == pytest.approx(counts[0], rel=0.03)


def test_options_of_the_matched_architecture_come_from_the_command_line() -> None:
    options = ["network.options.match=paco", "network.options.match_options.parameter_sets=20"]
    config = config_of("env=pointmass", "network=mlp", *options)
    assert config.network.options == {"match": "paco", "match_options": {"parameter_sets": 20}}


def test_the_published_sizes_are_the_defaults() -> None:
    config = config_of("env=mt10", "network=soft_modules", "network.options.num_modules=4", "network.options.depth=4")
    assert config.network.hidden_sizes == (256, 256)
    assert config.network.options == {"num_modules": 4, "depth": 4}


def write_rows(path: Path, rows: object) -> str:
    np.save(path, np.asarray(rows))
    return f"network.task_embeddings={path}"


@pytest.mark.parametrize("name", ["care", "film", "mlp", "soft_modules"])
def test_task_embeddings_of_a_file_become_part_of_the_config(tmp_path: Path, name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    setting = write_rows(tmp_path / "rows.npy", rows)
    config = config_of("env=pointmass", f"network={name}", setting, "network.hidden_sizes=[16,16]")
    (tmp_path / "rows.npy").unlink()
    assert RunConfig.from_dict(config.to_dict()) == config
    env = make_training_env(config, config.make_suite())
    agent = make_agent(config, env)
    for network in (agent.actor.network, agent.critic.network):
        assert torch.equal(network.task_encoding.table, torch.from_numpy(rows))  # type: ignore[union-attr,arg-type]
    env.close()


def test_runs_with_and_without_task_embeddings_differ_and_older_ones_keep_their_identity(tmp_path: Path) -> None:
    plain = config_of("env=pointmass")
    assert "network.task_embeddings" in [setting.name for setting in walk(plain) if setting.unnamed]
    given = config_of("env=pointmass", write_rows(tmp_path / "rows.npy", np.ones((4, 2))))
    assert given.identity() != plain.identity()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.ones((3, 2)), "must have one row for each of 4 tasks, found 3 rows"),
        (np.full((4, 2), np.nan), "must be finite numbers, row 0 of .* has others"),
        (np.ones(4), r"must hold numbers \[K, n\], .* holds float64 \[4\]"),
        (np.array([["a"], ["b"], ["c"], ["d"]]), "must hold numbers"),
        (np.array([[None]] * 4), "must be an .npy file of numbers, .* is none"),
    ],
)
def test_a_file_that_holds_no_task_embeddings_is_refused(tmp_path: Path, rows: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"network.task_embeddings {sentence}"):
        config_of("env=pointmass", write_rows(tmp_path / "rows.npy", rows))


def test_a_file_of_task_embeddings_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be an .npy file, .*: No such file or directory"):
        config_of("env=pointmass", f"network.task_embeddings={tmp_path / 'none.npy'}")


def test_an_option_that_is_null_is_the_architectures_default() -> None:
    config = config_of("env=pointmass", "network.options.embedding_size=null")
    assert config == config_of("env=pointmass") and config.network.options == {}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["network.options.embeding_size=7"],
            "'network.options.embeding_size' is no option of mlp; did you mean 'embedding_size'?",
        ),
        (
            ["network=bronet", "network.options.head_scale=1"],
            "'network.options.head_scale' is no option of bronet; known: embedding_size.",
        ),
        (
            ["network.options.embedding_size=large"],
            "network.options.embedding_size must be an integer, found 'large'.",
        ),
        (
            ["network.options.task_id=none"],
            "network.options.task_id is no option of a network: give it as network.task_id.",
        ),
    ],
)
def test_an_option_that_a_network_does_not_take_is_refused_in_a_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of("env=pointmass", *overrides)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("choice", ["mt10_laptop", "mt10_laptop.yaml", "'mt10_laptop'", "[mt10_laptop]"])
def test_an_experiment_may_be_written_as_hydra_reads_it(choice: str) -> None:
    assert config_of(f"experiment={choice}").env.suite == "mt10"


def test_without_its_experiment_a_suite_has_the_agents_own_settings() -> None:
    assert config_of("env=pointmass", "~experiment").agent == RunConfig().agent != config_of("env=pointmass").agent
    assert config_of("env=pointmass", "experiment=${env}") == config_of("env=pointmass")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["experiment=mt10_laptp"], "experiment has no choice 'mt10_laptp'; did you mean 'mt10_laptop'?"),
        (["experiment=quickstart,mt50_gqu"], "experiment has no choice 'mt50_gqu'; did you mean 'mt50_gpu'?"),
        (
            ["experiment=null"],
            "experiment has no choice 'null'; known: mt10_gpu, mt10_laptop, mt10_minutes, mt50_gpu, mt50_hours, "
            "pointmass, quickstart.",
        ),
        (
            ["balancer=dwa", "balancer.options.temprature=1"],
            "'balancer.options.temprature' is no option of dwa; did you mean 'temperature'?",
        ),
        (
            ["balancer=unitary", "balancer.options.d=1"],
            "'balancer.options.d' is no option of unitary, which takes none.",
        ),
        (
            ["balancer=rlw+unitary", "balancer.options.rlw.d=1"],
            "'balancer.options.rlw.d' is no option of rlw+unitary; known: distribution, rlw.distribution.",
        ),
    ],
)
def test_what_no_file_and_no_balancer_has_is_refused_before_anything_is_composed(
    overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(*overrides)
    assert str(caught.value) == sentence


def test_files_and_dataclasses_agree_on_the_defaults() -> None:
    assert config_of("env=mt10").evaluation == RunConfig().evaluation
    assert config_of("env=mt10").tracking == RunConfig().tracking
    assert config_of("env=mt10").network == RunConfig().network
    assert config_of("env=mt10").agent == RunConfig().agent
