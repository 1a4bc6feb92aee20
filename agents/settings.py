"""Settings that say of themselves what they may be and what changing them may change.

A setting is a field of a frozen dataclass. Its annotation holds its type, its limits (`Range`, `Choice`, ...), and what
changing it may change (`Changes`); ``:param`` in the docstring of its class says what it does. From that follow an
agent's arguments with their checks and documentation, the settings of the command line, the tables of the docs, the
names of run folders, and what may change when a run is resumed.
"""

import dataclasses
import enum
import functools
import inspect
import math
import operator
import re
import textwrap
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import LinearSchedule

from agents.errors import ConfigurationError, nearest, unknown_name

# ---------------------------------------------------------------------- what a setting may be


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; without `low` itself if it is `exclusive`."""

    low: float
    high: float = float("inf")
    exclusive: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.exclusive else value >= self.low
        return bool(above and value <= self.high)

    def __str__(self) -> str:
        low = f"greater than {self.low:g}" if self.exclusive else f"at least {self.low:g}"
        return low if self.high == float("inf") else f"{low} and at most {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return "one of " + ", ".join(self.words)


@dataclass(frozen=True)
class Auto:
    """The word ``auto``, or ``auto_<number>`` with a number above 0.

    :param says: what the whole setting may be, for the sentences
    """

    says: str

    def __contains__(self, text: str) -> bool:
        start, _, number = text.partition("_")
        try:
            return start == "auto" and (text == "auto" or 0 < float(number) < float("inf"))
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.says


Limit = Range | Choice | Auto


@dataclass(frozen=True)
class Says:
    """What an argument may be, in words of its own, where the type cannot say it."""

    text: str


Count = Annotated[int, Range(1)]  # 1, 2, 3, ...
Amount = Annotated[int, Range(0)]  # 0, 1, 2, ...
Positive = Annotated[float, Range(0, exclusive=True)]
NotNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]

# ---------------------------------------------------------------------- what it changes, and where it goes


class Changes(enum.Enum):
    """What changing a setting may change; a setting that does not say so may change a result."""

    RESULT = "result"  # the trained agent: another folder, and no run is resumed with another value
    MEASUREMENT = "measurement"  # how long it learns and how it is measured: another folder, free to change on resuming
    NOTHING = "nothing"  # neither: the same folder, free to change on resuming


@dataclass(frozen=True)
class Later:
    """A setting that came after runs had been named: at its default it is left out of the name of a run's folder."""


@dataclass(frozen=True)
class Gives:
    """The constructor's argument that a setting of the command line becomes part of."""

    argument: str


IN_POLICY = Gives("policy_kwargs")


LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class AgentArguments:
    """What the constructor of every algorithm takes beside the policy, the environment and the session.

    :param learning_rate: a number, or SB3's schedule
    :param balancer: method that balances the task losses, such as ``famo`` or ``igb_v1+cagrad``
    :param balancer_kwargs: its options
    :param actor_balancer: method for the actor's task losses; None takes the critic's, or ``unitary`` where that
        method needs positive losses, which an actor's are not
    :param actor_balancer_kwargs: its options
    :param policy_kwargs: arguments of the policy
    :param stats_window_size: episodes in SB3's rollout statistics
    :param seed: fixes every generator, those of the environments included
    """

    # Names of the arguments that may be given by position, after `policy` and `env`.
    POSITIONAL: ClassVar[tuple[str, ...]] = ("learning_rate",)
    # Settings that become attributes beside those of SB3, to be changed while the agent learns.
    ATTRIBUTES: ClassVar[tuple[str, ...]] = ()

    learning_rate: Annotated[float | Schedule, Range(0, 1e300), Says("a number of at least 0, or a schedule")] = (
        LEARNING_RATE
    )
    balancer: str = "unitary"
    balancer_kwargs: dict[str, Any] | None = None
    actor_balancer: str | None = None
    actor_balancer_kwargs: dict[str, Any] | None = None
    policy_kwargs: dict[str, Any] | None = None
    stats_window_size: int = 100
    seed: int | None = None

    def refuse_contradictions(self) -> None:
        """:raises ConfigurationError: for values that are each in range and do not go together"""


@dataclass(frozen=True)
class AgentPreset:
    """An algorithm's settings as the command line has them: what ``agent=`` chooses and ``agent.<name>=`` changes.

    :param algorithm: registered name; ``mtrl list algorithms`` shows them
    :param name: what the settings are called, for the run's folder and tables
    """

    NETWORK: ClassVar[str | None] = None  # the choice of `network` where none is named; None leaves that to the config

    algorithm: str = ""
    name: str = ""

    def arguments(self, num_tasks: int, env_steps: int, copies: int) -> dict[str, Any]:
        """Arguments of the algorithm's constructor.

        :param num_tasks: K
        :param env_steps: of the whole run, over all tasks
        :param copies: environments of each task
        """
        raise NotImplementedError

    def problems(self, num_tasks: int | None = None) -> Iterator[str]:
        """What cannot work, as ends of the sentence that begins with ``agent.``.

        :param num_tasks: K, where it is known
        """
        return iter(())

    def doubts(self, num_tasks: int, env_steps: int) -> Iterator[str]:
        """What works and can hardly be meant, likewise.

        :param num_tasks: K
        :param env_steps: of the whole run, over all tasks
        """
        return iter(())


# ---------------------------------------------------------------------- reading the annotations


def hints(settings: type) -> dict[str, Any]:
    """The annotations of a class of settings by name, with all that they say."""
    found = get_type_hints(settings, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(settings)}


def described(hint: Any, kind: Any) -> Any:
    """What an annotation says of a kind, such as `Range` or `Gives`; None if it says nothing."""
    said = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((entry for entry in said if isinstance(entry, kind)), None)


def bare(hint: Any) -> Any:
    """The type alone."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the one type."""
    hint = bare(hint) if get_origin(bare(hint)) in (types.UnionType, Union) else hint
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


def default_of(settings: type, name: str) -> Any:
    """The default of a setting."""
    field = next(field for field in dataclasses.fields(settings) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def explanations(settings: type) -> dict[str, str]:
    """What every setting does, from the ``:param`` lines of a class and those it is derived from."""
    found: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        for name, said in re.findall(r"^:param (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE):
            found[name] = " ".join(said.split())
    return found


KINDS = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a group of settings",
    tuple: "a list",
    types.NoneType: "null",
}


def kind_of(hint: Any) -> str:
    """What a setting may be, in words: ``a number greater than 0``."""
    base, limit = bare(hint), described(hint, Limit)
    words = KINDS.get(get_origin(base) or base, "a group of settings")
    if isinstance(limit, Choice):
        return str(limit)
    return f"{words} {limit}" if isinstance(limit, Range) else words


@dataclass(frozen=True)
class Setting:
    """One setting, or one group of them.

    :param name: ``seed``; ``group.name`` for what is in a group
    :param hint: its annotation
    :param value: its value, or the group
    :param changes: what changing it may change: what it says itself, or what its group says
    :param unnamed: whether it came later and has its default: the name of a run does not depend on it
    """

    name: str
    hint: Any
    value: Any
    changes: Changes
    unnamed: bool


def walk(settings: Any, prefix: str = "", changes: Changes = Changes.RESULT) -> Iterator[Setting]:
    """Every setting of a dataclass, the groups in it and the settings in these.

    :param settings: an instance
    :param changes: of what says nothing itself
    """
    for name, hint in hints(type(settings)).items():
        value, word = getattr(settings, name), described(hint, Changes) or changes
        unnamed = described(hint, Later) is not None and value == default_of(type(settings), name)
        yield Setting(f"{prefix}{name}", hint, value, word, unnamed)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{name}.", word)


# ---------------------------------------------------------------------- arguments of an agent


# Arguments of a constructor that belong to a session, and not to the agent: no file keeps them.
_BEFORE = (("policy", "MultiTaskPolicy", str | type[BasePolicy]), ("env", None, GymEnv | None))
_AFTER = (
    ("tensorboard_log", None, str | None),
    ("verbose", 0, int),
    ("device", "auto", torch.device | str),
    ("_init_setup_model", True, bool),
)
SESSION = frozenset(name for name, _, _ in (*_BEFORE, *_AFTER))
_SESSION_DOCS = {
    "policy": "``MultiTaskPolicy``",
    "env": "a vectorised environment of K tasks (`mtrl.make_env`), or None to load an agent for prediction",
    "tensorboard_log": "folder of event files",
    "verbose": "0 silent, 1 prints the log",
    "device": "``auto``, ``cpu``, ``cuda``",
}


def signature_of(arguments: type[AgentArguments]) -> inspect.Signature:
    """The signature of an algorithm's constructor."""
    named = [name for name in hints(arguments) if name not in arguments.POSITIONAL]
    either, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY

    def setting(name: str, kind: Any) -> inspect.Parameter:
        hint = _without_notes(hints(arguments)[name])
        return inspect.Parameter(name, kind, default=default_of(arguments, name), annotation=hint)

    return inspect.Signature(
        [
            *(inspect.Parameter(name, either, default=value, annotation=hint) for name, value, hint in _BEFORE),
            *(setting(name, either) for name in arguments.POSITIONAL),
            *(setting(name, keyword) for name in named),
            *(inspect.Parameter(name, keyword, default=value, annotation=hint) for name, value, hint in _AFTER),
        ]
    )


def documentation_of(arguments: type[AgentArguments]) -> str:
    """The ``:param`` lines of an algorithm's constructor."""
    said = {**explanations(arguments), **_SESSION_DOCS}
    lines = [f":param {name}: {said[name]}" for name in signature_of(arguments).parameters if name in said]
    lines = [textwrap.fill(line, 116, subsequent_indent="    ", break_on_hyphens=False) for line in lines]
    return "\n".join([*lines, ":raises ConfigurationError: for a setting that cannot work"])


def _without_notes(hint: Any) -> Any:
    """An annotation as a reader of a signature wants it."""
    if get_origin(bare(hint)) in (types.UnionType, Union):
        return functools.reduce(operator.or_, map(_without_notes, get_args(bare(hint))))
    return bare(hint)


def refuse_bad_arguments(arguments: AgentArguments) -> None:
    """Refuse sizes and numbers out of range, and words that are no choice.

    What is text or a number is checked by what it is for.

    :raises ConfigurationError: naming the argument, the value, and what would be right
    """
    for name, hint in hints(type(arguments)).items():
        value, says = getattr(arguments, name), described(hint, Says)
        if says is not None:
            if not any(_takes(option, value, hint) for option in alternatives(hint)):
                raise ConfigurationError(f"{name} must be {says.text}, found {value!r}.")
        elif isinstance(limit := described(hint, Limit), Choice):
            if value not in limit:
                raise unknown_name(name, str(value), limit.words)
        elif isinstance(limit, Range) and not _takes(bare(hint), value, hint):
            raise ConfigurationError(f"{name} must be {_range(bare(hint), limit)}, found {value!r}.")
    arguments.refuse_contradictions()


def _takes(option: Any, value: Any, whole: Any) -> bool:
    """Whether one alternative of an argument takes a value."""
    kind, limit = bare(option), described(option, Range) or described(whole, Range)
    if kind in (int, float):
        right = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return right and (limit is None or value in limit)
    return value is None if kind is types.NoneType else callable(value)


def _range(kind: type, limit: Range) -> str:
    if kind is int:
        return f"a whole number of at least {limit.low:g}"
    bounds = f"{'above' if limit.exclusive else 'of at least'} {limit.low:g}"
    return f"a number {bounds}" + (f" and at most {limit.high:g}" if limit.high < math.inf else "")


# Arguments of SB3's algorithms that do nothing here, and what stands in their place.
NOT_OFFERED = {
    "use_sde": "exploration draws from the policy, not from a state-dependent matrix (gSDE)",
    "sde_sample_freq": "exploration draws from the policy, not from a state-dependent matrix (gSDE)",
    "use_sde_at_warmup": "exploration draws from the policy, not from a state-dependent matrix (gSDE)",
    "n_steps": "TD targets look one step ahead",
    "vf_coef": "actor and critics have optimizers of their own",
    "clip_range_vf": "values are not clipped: their targets are normalised per task",
    "rollout_buffer_class": "a rollout is stored by task",
    "rollout_buffer_kwargs": "a rollout is stored by task",
    "optimize_memory_usage": "the replay buffer stores states without their one-hot, and time-outs need the next state",
    "replay_buffer_class": "the replay buffer is one ring per task",
    "replay_buffer_kwargs": "the replay buffer is one ring per task",
    "action_noise": "the policy is stochastic and needs no further noise",
    "target_update_interval": "target critics follow at every update, as fast as tau says",
}


def batch_problems(batch_size: int | None, num_tasks: int | None) -> Iterator[str]:
    """What is wrong with a batch of all tasks, as the end of the sentence that begins with ``agent.``.

    :param batch_size: None is always right
    :param num_tasks: K, where it is known
    """
    if num_tasks is not None and batch_size is not None and batch_size % num_tasks:
        near = max(round(batch_size / num_tasks), 1) * num_tasks
        yield f"batch_size must be divisible by the {num_tasks} tasks, found {batch_size}; {near} would be right."


def falling_rate(first: float, last: float | None) -> float | LinearSchedule:
    """A learning rate that falls in a straight line over the run; constant where `last` is None."""
    return first if last is None else LinearSchedule(first, last, end_fraction=1.0)


def refuse_unknown(owner: str, given: Iterable[str], signature: inspect.Signature) -> None:
    """Refuse arguments that a callable does not take, with the reason or the nearest name.

    :param owner: what the arguments were given to, for the sentence
    :raises ConfigurationError: for the first unknown argument
    """
    known = list(signature.parameters)
    for name in given:
        if name in NOT_OFFERED and name not in known:
            raise ConfigurationError(f"{owner} does not take '{name}': {NOT_OFFERED[name]}.")
        if name not in known:
            raise ConfigurationError(f"{owner} does not take '{name}'{nearest(name, known)}")


def require_device(device: torch.device | str) -> None:
    """:raises ConfigurationError: for a CUDA device that is not here; SB3 would learn on the CPU without a word"""
    asked = torch.device("cpu" if device == "auto" else device)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.type == "cuda" and (asked.index or 0) >= found:
        raise ConfigurationError(
            f"device must be auto, cpu or one of the CUDA devices that PyTorch finds here, which are {found}, found "
            f"'{device}'."
        )
