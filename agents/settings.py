"""What the arguments of an agent may be, checked before anything is built."""

import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import torch

from agents.balancing.task_gradients import JACOBIANS
from agents.errors import ConfigurationError, nearest, unknown_name
from agents.temperature import target_entropy_of

# Arguments of SB3's SAC that do nothing here, and what stands in their place.
NOT_OFFERED = {
    "use_sde": "exploration draws from the policy, not from a state-dependent matrix (gSDE)",
    "sde_sample_freq": "exploration draws from the policy, not from a state-dependent matrix (gSDE)",
    "use_sde_at_warmup": "exploration draws from the policy, not from a state-dependent matrix (gSDE)",
    "n_steps": "TD targets look one step ahead",
    "optimize_memory_usage": "the replay buffer stores states without their one-hot, and time-outs need the next state",
    "replay_buffer_class": "the replay buffer is one ring per task",
    "replay_buffer_kwargs": "the replay buffer is one ring per task",
    "action_noise": "the policy is stochastic and needs no further noise",
    "target_update_interval": "target critics follow at every update, as fast as tau says",
}

_WHOLE_NUMBERS = (
    ("buffer_size", 1),
    ("train_freq", 1),
    ("learning_starts", 0),
    ("gradient_steps", 0),
    ("max_skipped_updates", 1),
)

# Name, smallest value, whether that value itself is allowed, largest value.
_NUMBERS = (
    ("gamma", 0.0, False, 1.0),
    ("tau", 0.0, False, 1.0),
    ("adam_epsilon", 0.0, True, math.inf),
    ("actor_weight_decay", 0.0, True, math.inf),
    ("weight_decay", 0.0, True, math.inf),
    ("temperature_beta1", 0.0, True, 0.999),
)


def refuse_unknown(owner: str, given: Iterable[str], callable_: Callable[..., Any]) -> None:
    """Refuse arguments that a callable does not take, with the reason or the nearest name.

    :param owner: what the arguments were given to, for the sentence
    :raises ConfigurationError: for the first unknown argument
    """
    known = [name for name in inspect.signature(callable_).parameters if not name.startswith("_")]
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


def refuse_bad_settings(settings: dict[str, Any]) -> None:
    """Refuse sizes and numbers out of range.

    :raises ConfigurationError: naming the setting, the value, and what would be right
    """
    for name, least in _WHOLE_NUMBERS:
        if not _whole(settings[name]) or settings[name] < least:
            raise ConfigurationError(f"{name} must be a whole number of at least {least}, found {settings[name]!r}.")
    for name, lowest, included, highest in _NUMBERS:
        value = settings[name]
        if not _real(value) or not lowest <= value <= highest or (value == lowest and not included):
            bounds = f"{'of at least' if included else 'above'} {lowest:g}"
            bounds += f" and at most {highest:g}" if highest < math.inf else ""
            raise ConfigurationError(f"{name} must be a number {bounds}, found {value!r}.")
    rate, limit, batch_size = settings["learning_rate"], settings["max_grad_norm"], settings["batch_size"]
    if not callable(rate) and not (_real(rate) and 0.0 <= rate < math.inf):
        raise ConfigurationError(f"learning_rate must be a number of at least 0, or a schedule, found {rate!r}.")
    if limit is not None and not (_real(limit) and limit > 0.0):
        raise ConfigurationError(f"max_grad_norm must be a number above 0, or None for no clipping, found {limit!r}.")
    if batch_size is not None and not (_whole(batch_size) and batch_size > 0):
        raise ConfigurationError(
            f"batch_size must be a positive multiple of the number of tasks, found {batch_size!r}."
        )
    if settings["jacobian"] not in JACOBIANS:
        raise unknown_name("jacobian", str(settings["jacobian"]), JACOBIANS)
    target_entropy_of(settings["target_entropy"], 1)
    if settings["weight_decay"] and settings["actor_weight_decay"]:
        raise ConfigurationError(
            "weight_decay (decoupled) and actor_weight_decay (L2 on the actor alone) exclude each other, found "
            f"{settings['weight_decay']:g} and {settings['actor_weight_decay']:g}."
        )


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
