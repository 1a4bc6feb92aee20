"""What the constructor of an agent takes: a dataclass, from which its signature, checks and help are made."""

import functools
import inspect
import math
import operator
import textwrap
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import LinearSchedule

from agents.errors import CALLED_ELSEWHERE, ConfigurationError, nearest, unknown_name
from agents.settings import Choice, Limit, Range, Says, alternatives, bare, default_of, described, explanations, hints

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


def signature_with(cls: type, settings: type) -> inspect.Signature:
    """The signature of a constructor that ends in ``**settings``, with the settings listed one by one.

    For a class to assign to its ``__signature__``, which `inspect.signature` and `help` read.

    :param settings: the dataclass whose fields they are
    """
    _, *parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    own = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    fields = inspect.signature(settings).parameters.values()
    return inspect.Signature([*own, *(field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields)])


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
            called = [ours for ours in CALLED_ELSEWHERE.get(name, ()) if ours.partition("=")[0].strip("'") in known]
            hint = f", did you mean {called[0]}?" if called else nearest(name, known)
            raise ConfigurationError(f"{owner} does not take '{name}'{hint}")


def require_device(device: torch.device | str) -> None:
    """:raises ConfigurationError: for a CUDA device that is not here; SB3 would learn on the CPU without a word"""
    asked = torch.device("cpu" if device == "auto" else device)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.type == "cuda" and (asked.index or 0) >= found:
        raise ConfigurationError(
            f"device must be auto, cpu or one of the CUDA devices that PyTorch finds here, which are {found}, found "
            f"'{device}'."
        )
