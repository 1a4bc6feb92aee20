"""What a run is: frozen dataclasses, made from a plain dict and checked before anything heavy is built."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch

from agents.algorithms import ALGORITHMS, DEFAULT, find_algorithm
from agents.balancers import make_balancer
from agents.balancing.registry import BALANCERS, methods_of, options_by_method
from agents.errors import ConfigurationError
from agents.networks import NETWORKS, TASK_IDS
from agents.registry import Record
from agents.settings import (
    AgentPreset,
    Amount,
    Changes,
    Choice,
    Count,
    Later,
    Positive,
    Range,
    walk,
)
from envs import find_suite, list_suites, make_suite, takes_option
from mtrl.errors import ConfigError, nearest
from mtrl.network_options import checked_options, known_options
from mtrl.plugins import loaded_plugins, not_loaded, plugin_of, setting_of
from mtrl.schema import parse
from mtrl.task_embeddings import TaskEmbeddings, read_task_embeddings
from mtrl.weight_schedule import WeightSchedule, read_schedule

if TYPE_CHECKING:
    from envs import TaskSuite


@dataclass(frozen=True)
class EnvConfig:
    """Which tasks, and how they are simulated while training.

    :param suite: name in the registry of suites
    :param tasks: task names, for the suites that take a list of them
    :param horizon: steps per training episode; None is the suite's own
    :param copies: environments per task
    :param workers: simulating processes; 0 simulates in the learning process, None chooses from the machine's cores
    :param worker_timeout: seconds after which a silent worker counts as hanging
    :param max_worker_restarts: faults while training (an environment raises, hangs, dies or returns NaN) after which
        the environments concerned are rebuilt; the next fault ends the run
    :param steps_per_task: env_steps for each task when `total_env_steps` is not given
    :param options: further options of the suite, such as ``reward_version``
    :param fast: false steps the stock simulator where the suite has a faster one of the same bits; changes no result
    """

    suite: str = "pointmass"
    tasks: tuple[str, ...] | None = None
    horizon: Count | None = None
    copies: Count = 1
    workers: Annotated[Amount | None, Changes.NOTHING] = None
    worker_timeout: Annotated[Positive, Changes.NOTHING] = 60.0
    max_worker_restarts: Annotated[Amount, Changes.NOTHING] = 10
    steps_per_task: Annotated[Count, Changes.MEASUREMENT] = 2_000_000
    options: dict[str, Any] = field(default_factory=dict)
    fast: Annotated[bool, Changes.NOTHING] = True


@dataclass(frozen=True)
class NetworkConfig:
    """Actor and critics.

    :param name: name in the registry of networks
    :param hidden_sizes: width of every hidden layer; of bronet, one residual block for each
    :param actor_hidden_sizes: those of the actor; None gives it the critics'
    :param task_id: how the network is told which task it is in
    :param task_embeddings: an ``.npy`` file with one row of numbers for each task, which are told to the networks in
        place of a one-hot; its numbers become part of the config
    :param options: further options of the architecture; None is its default
    """

    name: str = "mlp"
    hidden_sizes: tuple[Count, ...] = (400, 400, 400)
    actor_hidden_sizes: tuple[Count, ...] | None = None
    task_id: Annotated[str, Choice(TASK_IDS)] = "one_hot"
    task_embeddings: Annotated[str | TaskEmbeddings | None, Later()] = None
    options: Annotated[dict[str, Any], Later()] = field(default_factory=dict)


@dataclass(frozen=True)
class BalancerConfig:
    """How K task losses become one update.

    :param name: a registered balancer, or a composition such as ``igb_v1+cagrad``
    :param options: its options; None is the method's default
    :param actor: another balancer for the actor; None takes the critic's
    :param actor_options: options of the actor's balancer
    """

    name: str = "unitary"
    options: dict[str, Any] = field(default_factory=dict)
    actor: str | None = None
    actor_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how success is measured.

    :param every_env_steps: between two evaluations while training; None measures twenty times in a run
    :param episodes: per task, while training
    :param stop_at_success: end episodes while training at their first success: cheaper, but the success at the last
        step and the return are known from the final evaluation alone
    :param final_episodes: per task, when training has ended
    :param horizon: steps per episode; None is the suite's own
    :param copies: environments per task in the final evaluation; None chooses
    :param workers: simulating processes of the final evaluation; None uses every core
    :param seed: of the goals; None takes the run's: the goals of training, as the standard protocol has it
    """

    every_env_steps: Count | None = None
    episodes: Count = 5
    stop_at_success: bool = True
    final_episodes: Count = 50
    horizon: Count | None = None
    copies: Count | None = None
    workers: Annotated[Amount | None, Changes.NOTHING] = None
    seed: Amount | None = None


@dataclass(frozen=True)
class TrackingConfig:
    """What is written while training; none of it changes a result.

    :param every_env_steps: between two lines of training metrics; None writes two hundred of them
    """

    every_env_steps: Count | None = None
    tensorboard: bool = True
    progress: bool = True
    plots: bool = True
    wandb: bool = False
    wandb_project: str = "mtrl-toolkit"


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is written down so that it can be resumed; none of it changes a result.

    :param every_env_steps: between two checkpoints; None takes a hundredth of the run, but at least a minute
    :param keep: how many of the newest are kept; the best is kept beside them
    :param exact: wait for a moment that can be resumed exactly: the end of the running episodes, where
        simulators cannot be saved
    """

    every_env_steps: Count | None = None
    keep: Annotated[int, Range(2)] = 2
    exact: bool = True


def _default_agent() -> AgentPreset:
    return find_algorithm(DEFAULT).preset()


@dataclass(frozen=True)
class RunConfig:
    """One run.

    :param seed: fixes the environments, the agent and its exploration
    :param total_env_steps: transitions over all tasks; None is ``env.steps_per_task`` for each
    :param schedule: file of task weights over the budget, as ``mtrl tune`` writes it, for ``balancer=schedule``; its
        numbers become the balancer's options
    :param device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``
    :param threads: threads of the learning process; None chooses from the machine's cores
    :param run_dir: the run's folder; None names it by the content of the config, inside `runs_dir`
    :param max_wall_time: seconds after which the run stops with a checkpoint and exit code 75; None does not stop
    :param takeover: resume in a folder whose owner, on another host, is dead
    :param debug: show tracebacks
    :param plugins: modules that register what the run uses; named here, imported by the command that composed this
    :param again: what becomes of a run whose plug-in, or a method's default, has changed since: true trains it again
        and keeps the old one under another name, false takes it as it is, None asks
    """

    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentPreset = field(default_factory=_default_agent)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    balancer: BalancerConfig = field(default_factory=BalancerConfig)
    evaluation: Annotated[EvaluationConfig, Changes.MEASUREMENT] = field(default_factory=EvaluationConfig)
    tracking: Annotated[TrackingConfig, Changes.NOTHING] = field(default_factory=TrackingConfig)
    checkpoint: Annotated[CheckpointConfig, Changes.NOTHING] = field(default_factory=CheckpointConfig)
    seed: Amount = 1
    total_env_steps: Annotated[Count | None, Changes.MEASUREMENT] = None
    schedule: Annotated[str | None, Changes.NOTHING] = None
    device: str = "auto"
    threads: Annotated[Count | None, Changes.NOTHING] = None
    run_dir: Annotated[str | None, Changes.NOTHING] = None
    runs_dir: Annotated[str, Changes.NOTHING] = "runs"
    max_wall_time: Annotated[Positive | None, Changes.NOTHING] = None
    takeover: Annotated[bool, Changes.NOTHING] = False
    debug: Annotated[bool, Changes.NOTHING] = False
    plugins: Annotated[tuple[str, ...], Changes.NOTHING] = ()
    again: Annotated[bool | None, Changes.NOTHING] = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """The config of a plain dict, checked as far as a config can be without building its suite; a schedule is read.

        :raises ConfigError: one sentence that names the setting, its value and what would be right
        """
        plugins = values.get("plugins") if isinstance(values, Mapping) else None
        check = _NameCheck(plugins if isinstance(plugins, (list, tuple)) else ())
        if isinstance(values, Mapping) and "agent" in values:
            values = {**values, "agent": _parse_agent(values["agent"], check)}
        config = _expanded(parse(cls, values))
        schedule = None if config.schedule is None else read_schedule(config.schedule)
        if schedule is not None:
            config = config.with_schedule(schedule)
        check("env.suite", config.env.suite, list_suites())
        check("network.name", config.network.name, NETWORKS)
        options = checked_options(config.network.name, config.network.options)
        embeddings = config.network.task_embeddings
        if isinstance(embeddings, str):
            embeddings = read_task_embeddings(os.path.expanduser(embeddings))
        config = replace(config, network=replace(config.network, options=options, task_embeddings=embeddings))
        if embeddings is not None and len(embeddings) != (tasks := config.make_suite().num_tasks):
            raise ConfigError(
                f"network.task_embeddings must have one row for each of {tasks} tasks, found {len(embeddings)} rows."
            )
        for name in filter(None, (config.balancer.name, config.balancer.actor)):
            for part in methods_of(name):
                check("balancer", part, BALANCERS, "" if part == name else f" in {name!r}")
        for name in ("hidden_sizes", "actor_hidden_sizes"):
            if getattr(config.network, name) == ():
                raise ConfigError(f"network.{name} must be widths such as [400, 400], found [].")
        _check_device(config.device)
        _refuse(config.agent.problems())
        if schedule is not None and schedule.tasks != (names := config.make_suite().task_names):
            raise ConfigError(
                f"schedule has the weights of other tasks: {', '.join(schedule.tasks)}; the run's, in this order, are "
                f"{', '.join(names)}."
            )
        return config

    def with_schedule(self, schedule: WeightSchedule) -> "RunConfig":
        """The config with these weights over the budget, which it then holds itself: no file is needed any more.

        :raises ConfigError: if its balancer takes none
        """
        words = methods_of(self.balancer.name)
        if "schedule" not in words:
            raise ConfigError(f"schedule needs balancer=schedule, found balancer={self.balancer.name}.")
        own = {"times": list(schedule.times), "weights": [list(row) for row in schedule.weights]}
        before = self.balancer.options
        options = (
            {**before, **own} if len(words) == 1 else {**before, "schedule": {**before.get("schedule", {}), **own}}
        )
        return replace(self, schedule=None, balancer=replace(self.balancer, options=options))

    def to_dict(self) -> dict[str, Any]:
        """The config as a plain dict: ``RunConfig.from_dict(config.to_dict()) == config``."""
        return _plain(dataclasses.asdict(self))

    def effective(self) -> dict[str, Any]:
        """As `to_dict`, with the value of every option of balancers and network that nobody set, and all plug-ins.

        It is what a run's folder holds: a default that changes later is then seen.
        """
        values = self.to_dict()
        balancer, actor = self.critic_balancer, self.actor_balancer
        values["balancer"]["options"] = _effective(*balancer)
        if actor[0] is not None:
            values["balancer"]["actor_options"] = _effective(actor[0], actor[1])
        defaults = _stated(NETWORKS[self.network.name].defaults)
        own = {name: defaults[name] for name in known_options(self.network.name) if name in defaults}
        values["network"]["options"] = {**own, **values["network"]["options"]}
        values["plugins"] = list(dict.fromkeys([*self.plugins, *loaded_plugins()]))
        return _plain(values)

    def of_plugins(self) -> dict[str, list[str]]:
        """What the run uses that plug-ins registered: ``{"myrl": ["balancer mine"]}``."""
        methods = [word for name in (self.balancer.name, self.balancer.actor) if name for word in methods_of(name)]
        used: dict[str, str] = {f"balancer {name}": BALANCERS[name].module for name in methods}
        named: list[tuple[str, Record[Any]]] = [
            ("algorithm", find_algorithm(self.agent.algorithm)),
            ("network", NETWORKS[self.network.name]),
        ]
        used |= {f"{kind} {record.name}": record.module for kind, record in named}
        used[f"suite {self.env.suite}"] = find_suite(self.env.suite).module
        found: dict[str, list[str]] = {}
        for what, module in used.items():
            if (plugin := plugin_of(module)) is not None:
                found.setdefault(plugin, []).append(what)
        return found

    def essentials(self) -> dict[str, Any]:
        """What can change a result, as a plain dict; `from_dict` takes it, with defaults for the rest."""
        return _without(self.to_dict(), [setting.name for setting in walk(self) if setting.changes is Changes.NOTHING])

    def identity(self) -> str:
        """Eight hexadecimal digits that change when anything that can change a result does."""
        values = _without(self.essentials(), ["seed", *(setting.name for setting in walk(self) if setting.unnamed)])
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    def make_suite(self) -> "TaskSuite":
        """Build the suite, and check the settings that depend on its number of tasks.

        :raises SuiteError: for an unknown task or option of the suite
        :raises ConfigError: for a batch that cannot be divided by the number of tasks, or an option that is a setting
        :raises ConfigurationError: for an option that the balancer does not take
        """
        for option, setting in (("name", "suite"), ("tasks", "tasks"), ("fast", "fast")):
            if option in self.env.options:
                raise ConfigError(f"env.options.{option} is no option of a suite: give it as env.{setting}.")
        tasks = {} if self.env.tasks is None else {"tasks": list(self.env.tasks)}
        fast = {} if self.env.fast else {"fast": False}  # on is every suite's default, off is for those that have it
        options = {**tasks, **self.env.options, **fast}
        if self.env.horizon is not None and takes_option(self.env.suite, "fallback_horizon"):
            options = {"fallback_horizon": self.env.horizon, **options}
        suite = make_suite(self.env.suite, **options)
        for horizon in (self.env.horizon, self.evaluation.horizon):
            suite.horizons_of_tasks(horizon)
        tasks_count = suite.num_tasks
        _refuse(self.agent.problems(tasks_count))
        make_balancer(self.critic_balancer[0], num_tasks=tasks_count, **self.critic_balancer[1])
        if self.actor_balancer[0] is not None:
            make_balancer(self.actor_balancer[0], num_tasks=tasks_count, **self.actor_balancer[1])
        return suite

    @property
    def critic_balancer(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the balancer of the critic's losses."""
        return self.balancer.name, flat_options(self.balancer.options)

    @property
    def actor_balancer(self) -> tuple[str | None, dict[str, Any]]:
        """Name and options of the balancer of the actor's losses; without a name it is like the critic's."""
        return self.balancer.actor, flat_options(self.balancer.actor_options)

    @property
    def evaluation_seed(self) -> int:
        """The seed that fixes the goals of evaluation."""
        return self.seed if self.evaluation.seed is None else self.evaluation.seed

    def seeds(self) -> dict[str, int]:
        """Every seed of the run, for its record."""
        return {"run": self.seed, "environments": self.seed, "agent": self.seed, "evaluation": self.evaluation_seed}

    def budget(self, num_tasks: int) -> int:
        """env_steps of the whole run, over all tasks."""
        return self.total_env_steps or self.env.steps_per_task * num_tasks


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"agent": {"tau": 0.1}}`` -> ``{"agent.tau": 0.1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def flat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``{"famo": {"gamma": 0.1}, "c": None}`` -> ``{"famo.gamma": 0.1}``: None leaves an option at its default."""
    return {name: value for name, value in flatten(options).items() if value is not None}


def _expanded(config: RunConfig) -> RunConfig:
    """With the home folder in place of a ``~`` that no shell has replaced."""
    places = {name: getattr(config, name) for name in ("run_dir", "runs_dir", "schedule")}
    return replace(config, **{name: place and os.path.expanduser(place) for name, place in places.items()})


def _parse_agent(values: Any, check: "_NameCheck") -> AgentPreset:
    """The settings of the algorithm that they name."""
    name = values.get("algorithm", DEFAULT) if isinstance(values, Mapping) else DEFAULT
    if check.missing:
        check("agent.algorithm", str(name), ALGORITHMS)
    try:
        preset = find_algorithm(str(name)).preset
    except ConfigurationError as error:
        raise ConfigError(f"agent.algorithm: {error}") from error
    return parse(preset, values, "agent")


def _refuse(problems: Iterable[str]) -> None:
    for problem in problems:
        raise ConfigError(f"agent.{problem}")


def _without(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A plain dict without some settings; what is in a group is named ``group.name``."""
    for name in names:
        *groups, last = name.split(".")
        inner = values
        for group in groups:
            inner = inner.get(group, {})
        inner.pop(last, None)
    return values


class _NameCheck:
    """Refuses names that nobody registered; a plug-in that the config names and nobody loaded is the likely reason.

    :param plugins: that the config names
    """

    def __init__(self, plugins: Iterable[Any]) -> None:
        self.missing = not_loaded([name for name in plugins if isinstance(name, str)])

    def __call__(self, setting: str, value: str, known: Iterable[str], where: str = "") -> None:
        """:raises ConfigError: for a name that is not known"""
        if value not in known:
            raise ConfigError(f"{setting} must be a registered name, found {value!r}{where}{self.hint(value, known)}")

    def hint(self, value: str, known: Iterable[str]) -> str:
        """The end of a sentence: the plug-in to give, or the nearest name."""
        if self.missing:
            return f"; it came with a plug-in: give {setting_of(self.missing)}."
        return nearest(value, known)


def _check_device(name: str) -> None:
    # Whether this machine has it is asked when a run begins: a config is also read where the run was not made.
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:1 or another of PyTorch's, found {name!r}.") from None


def _effective(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a balancer as they act: its defaults, and what was given; those of a composition by method.

    Options that cannot be told apart stay as they are: building the balancer says what is wrong with them.
    """
    try:
        shares = options_by_method(name, given)
    except ConfigurationError:
        return dict(given)
    found = {method: {**_stated(BALANCERS[method].defaults), **options} for method, options in shares.items()}
    return found if len(found) > 1 else found[name]


def _stated(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that a file can hold; None says that a method decides for itself."""
    return {name: value for name, value in defaults.items() if isinstance(value, (bool, int, float, str, tuple, list))}


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what JSON and YAML give back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
