"""What a run is: frozen dataclasses, made from a plain dict and checked before anything heavy is built."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch

from agents.balancers import list_balancers, make_balancer
from agents.balancing.task_gradients import JACOBIANS
from agents.critics import CATEGORICAL_TARGETS, CRITICS, REDUCTIONS
from agents.networks import NETWORKS, TASK_IDS
from agents.policies import LOG_STD_RANGES
from agents.precision import PRECISIONS
from agents.reward_scale import REWARD_SCALES
from agents.temperature import TEMPERATURES
from envs import list_suites, make_suite
from mtrl.errors import ConfigError, nearest
from mtrl.network_options import checked_options
from mtrl.schema import Amount, Choice, Count, Fraction, NotNegative, Positive, Range, parse
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
        the environments concerned are built anew; the next fault ends the run
    :param steps_per_task: env_steps for each task when `total_env_steps` is not given
    :param options: further options of the suite, such as ``reward_version``
    :param fast: false steps the stock simulator where the suite has a faster one of the same bits; changes no result
    """

    suite: str = "pointmass"
    tasks: tuple[str, ...] | None = None
    horizon: Count | None = None
    copies: Count = 1
    workers: Amount | None = None
    worker_timeout: Positive = 60.0
    max_worker_restarts: Amount = 10
    steps_per_task: Count = 2_000_000
    options: dict[str, Any] = field(default_factory=dict)
    fast: bool = True


@dataclass(frozen=True)
class CategoricalConfig:
    """A critic whose values are distributions over atoms; used with ``agent.critic=categorical``.

    :param num_atoms: of the distributions, evenly spaced
    :param v_min: value of the first atom; targets below it are clipped
    :param v_max: value of the last one; targets above it are clipped
    :param target: ``projection`` moves the next state's distribution (C51), ``hl_gauss`` spreads its mean
    :param sigma: standard deviation of ``hl_gauss``, in distances between atoms
    """

    num_atoms: Annotated[int, Range(2)] = 101
    v_min: float = -10.0
    v_max: float = 10.0
    target: Annotated[str, Choice(CATEGORICAL_TARGETS)] = "projection"
    sigma: Positive = 0.75


@dataclass(frozen=True)
class AgentConfig:
    """Multitask SAC. Sizes that grow with the number of tasks K are given per task.

    :param name: what the settings are called, for the run folder and tables
    :param samples_per_task: transitions of each task in a batch
    :param batch_size: transitions of all tasks in a batch; instead of `samples_per_task`, divisible by K
    :param replay_per_task: transitions kept of each task; None keeps all of the run
    :param warmup_steps_per_task: random actions in each task before learning starts
    :param final_learning_rate: the rate falls in a straight line to this one over the run; None keeps it constant
    :param train_freq: vector steps between two rounds of updates
    :param gradient_steps: updates in a round
    :param target_entropy: in nats; auto is -A, the size of an action, and auto_0.5 half of it
    :param temperature_beta1: first-moment decay of the temperature's Adam
    :param reward_scale: rewards of each task, when they are sampled: divided by their standard deviation (std), by the
        largest return so that values fit into a critic's support (return), or multiplied by a number
    :param jacobian: how task gradients are kept: written out, layer by layer, or whichever costs less
    :param compile: compile target and losses (torch.compile): up to a minute at the first update, then shorter updates
    :param max_grad_norm: gradients are clipped to this norm; None does not clip
    :param weight_decay: decoupled, of actor and critics: AdamW
    :param actor_weight_decay: coupled L2 on the actor alone
    :param critic: values are numbers (scalar) or distributions over atoms (categorical)
    :param categorical: the atoms
    :param ensemble_reduction: one value of the two critics, for targets and actor: the smaller one, or the mean
    :param critic_layer_norm: of the networks that leave the choice; bronet always has it
    :param log_std: how the actor's log standard deviations are bounded: cut off at [-20, 2], or squashed into [-10, 2]
    :param max_skipped_updates: updates in a row, skipped for a loss or gradient that is not finite, that end the run
    """

    name: str = "mtsac"
    samples_per_task: Count = 32
    batch_size: Count | None = None
    replay_per_task: Count | None = 100_000
    warmup_steps_per_task: Amount = 1_000
    learning_rate: Positive = 3e-4
    final_learning_rate: Positive | None = None
    tau: Annotated[float, Range(0, 1, exclusive=True)] = 0.005
    gamma: Fraction = 0.99
    train_freq: Count = 1
    gradient_steps: Count = 1
    ent_coef: str | Positive = "auto"
    temperature: Annotated[str, Choice(TEMPERATURES)] = "per_task"
    target_entropy: float | str = "auto"
    temperature_beta1: Annotated[float, Range(0, 0.999)] = 0.9
    reward_scale: Positive | Annotated[str, Choice(REWARD_SCALES)] = "none"
    max_grad_norm: Positive | None = 1.0
    weight_decay: NotNegative = 0.0
    actor_weight_decay: NotNegative = 0.0
    adam_epsilon: Positive = 1e-5
    max_skipped_updates: Count = 20
    critic: Annotated[str, Choice(tuple(CRITICS))] = "scalar"
    categorical: CategoricalConfig = field(default_factory=CategoricalConfig)
    ensemble_reduction: Annotated[str, Choice(REDUCTIONS)] = "min"
    log_std: Annotated[str, Choice(tuple(LOG_STD_RANGES))] = "clamp"
    critic_layer_norm: bool = True
    actor_layer_norm: bool = False
    precision: Annotated[str, Choice(PRECISIONS)] = "auto"
    jacobian: Annotated[str, Choice(JACOBIANS)] = "auto"
    compile: bool = False
    pipeline: bool = True


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
    task_embeddings: str | TaskEmbeddings | None = None
    options: dict[str, Any] = field(default_factory=dict)


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
    workers: Amount | None = None
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
    """When a run is written down so that it can go on; none of it changes a result.

    :param every_env_steps: between two checkpoints; None takes a hundredth of the run, but at least a minute
    :param keep: how many of the newest are kept; the best is kept beside them
    :param exact: wait for a moment that can be gone on from exactly: the end of the running episodes, where
        simulators cannot be saved
    """

    every_env_steps: Count | None = None
    keep: Annotated[int, Range(2)] = 2
    exact: bool = True


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
    :param takeover: go on in a folder whose owner, on another host, is dead
    :param debug: show tracebacks
    """

    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    balancer: BalancerConfig = field(default_factory=BalancerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: Amount = 1
    total_env_steps: Count | None = None
    schedule: str | None = None
    device: str = "auto"
    threads: Count | None = None
    run_dir: str | None = None
    runs_dir: str = "runs"
    max_wall_time: Positive | None = None
    takeover: bool = False
    debug: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """The config of a plain dict, checked as far as a config can be without building its suite; a schedule is read.

        :raises ConfigError: one sentence that names the setting, its value and what would be right
        """
        config = parse(cls, values)
        schedule = None if config.schedule is None else read_schedule(config.schedule)
        if schedule is not None:
            config = config.with_schedule(schedule)
        _check_name("env.suite", config.env.suite, list_suites())
        _check_name("network.name", config.network.name, NETWORKS)
        options = checked_options(config.network.name, config.network.options)
        embeddings = config.network.task_embeddings
        if isinstance(embeddings, str):
            embeddings = read_task_embeddings(embeddings)
        config = replace(config, network=replace(config.network, options=options, task_embeddings=embeddings))
        if embeddings is not None and len(embeddings) != (tasks := config.make_suite().num_tasks):
            raise ConfigError(
                f"network.task_embeddings must have one row for each of {tasks} tasks, found {len(embeddings)} rows."
            )
        for name in filter(None, (config.balancer.name, config.balancer.actor)):
            _check_balancer(name)
        for name in ("hidden_sizes", "actor_hidden_sizes"):
            if getattr(config.network, name) == ():
                raise ConfigError(f"network.{name} must be widths such as [400, 400], found [].")
        _check_device(config.device)
        ent_coef, entropy = config.agent.ent_coef, config.agent.target_entropy
        if isinstance(ent_coef, str) and not _is_auto(ent_coef):
            raise ConfigError(f"agent.ent_coef must be auto, auto_0.1 or a number greater than 0, found {ent_coef!r}.")
        if isinstance(entropy, str) and not _is_auto(entropy):
            raise ConfigError(f"agent.target_entropy must be auto, auto_0.5 or a number in nats, found {entropy!r}.")
        atoms = config.agent.categorical
        if not atoms.v_min < atoms.v_max:
            raise ConfigError(
                f"agent.categorical.v_min must be smaller than v_max, found {atoms.v_min:g} and {atoms.v_max:g}."
            )
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
        words = self.balancer.name.replace(":", "+").split("+")
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

    def essentials(self) -> dict[str, Any]:
        """What can change a result, as a plain dict; `from_dict` takes it, with defaults for the rest."""
        values = self.to_dict()
        for key in ("tracking", "checkpoint", "threads", "run_dir", "runs_dir", "max_wall_time", "takeover", "debug"):
            del values[key]
        del values["schedule"]  # what it says is in the balancer's options
        for group in ("env", "evaluation"):
            del values[group]["workers"]
        del values["env"]["fast"]
        # What acts on a fault alone changes no result.
        del values["env"]["worker_timeout"], values["env"]["max_worker_restarts"]
        del values["agent"]["max_skipped_updates"]
        if not self.network.options:  # as in the runs of versions that had none, which keep their identity
            del values["network"]["options"]
        if self.network.task_embeddings is None:
            del values["network"]["task_embeddings"]
        return values

    def identity(self) -> str:
        """Eight hexadecimal digits that change when anything that can change a result does."""
        values = self.essentials()
        del values["seed"]
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
        suite = make_suite(self.env.suite, **tasks, **self.env.options, **fast)
        for horizon in (self.env.horizon, self.evaluation.horizon):
            suite.horizons_of_tasks(horizon)
        tasks_count, batch = suite.num_tasks, self.agent.batch_size
        if batch is not None and batch % tasks_count:
            near = max(round(batch / tasks_count), 1) * tasks_count
            raise ConfigError(
                f"agent.batch_size must be divisible by the {tasks_count} tasks, found {batch}; {near} would be right."
            )
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


def flat_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"famo": {"gamma": 0.1}, "c": None}`` -> ``{"famo.gamma": 0.1}``: None leaves an option at its default."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat |= flat_options(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_name(setting: str, value: str, known: Any) -> None:
    if value not in known:
        raise ConfigError(f"{setting} must be a registered name, found {value!r}{nearest(value, known)}")


def _check_device(name: str) -> None:
    # Whether this machine has it is asked when a run begins: a config is also read where the run was not made.
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:1 or another of PyTorch's, found {name!r}.") from None


def _check_balancer(name: str) -> None:
    known = [record.name for record in list_balancers()]
    for part in name.replace(":", "+").split("+"):
        if part not in known:
            inside = "" if part == name else f" in {name!r}"
            raise ConfigError(f"balancer must be a registered name, found {part!r}{inside}{nearest(part, known)}")


def _is_auto(text: str) -> bool:
    start, _, number = text.partition("_")
    try:
        return start == "auto" and (text == "auto" or 0 < float(number) < float("inf"))
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what JSON and YAML give back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
