"""Errors of the agent: one sentence with the bad value and what would be right."""

import difflib
from collections.abc import Iterable, Sequence

import numpy as np


class ConfigurationError(ValueError):
    """A setting that cannot work, found before anything is built."""


class NonFiniteUpdate(RuntimeError):
    """Training that ended because too many updates in a row met numbers that are not finite.

    :param sentence: which term of which task, and when
    :param term: ``target``, ``critic loss``, ``critic gradient``, ``temperature``, ...
    :param tasks: names of the tasks concerned
    :param batch: the offending batch and what was computed from it, by name
    """

    def __init__(self, sentence: str, term: str, tasks: Sequence[str], batch: dict[str, np.ndarray]) -> None:
        super().__init__(sentence)
        self.term, self.tasks, self.batch = term, tuple(tasks), batch


# What other libraries call it, and what it is called here: the first that the callable takes.
_HIDDEN_SIZES = ("'hidden_sizes'", "policy_kwargs={'hidden_sizes': [...]}")
CALLED_ELSEWHERE = {
    **dict.fromkeys(("net_arch", "hidden_dims", "hidden_layers", "layers"), _HIDDEN_SIZES),
    **dict.fromkeys(("lr", "learning_rates", "actor_lr", "critic_lr", "q_lr", "policy_lr"), ("'learning_rate'",)),
    **dict.fromkeys(("alpha", "entropy_coef", "temperature_init"), ("'ent_coef'",)),
    **dict.fromkeys(("polyak", "soft_update"), ("'tau'",)),
    **dict.fromkeys(("discount", "discount_factor"), ("'gamma'",)),
    **dict.fromkeys(("replay_size", "memory_size", "replay_buffer_size"), ("'buffer_size'",)),
    **dict.fromkeys(("start_steps", "warmup_steps", "random_steps"), ("'learning_starts'",)),
    **dict.fromkeys(("n_critics", "num_qs", "ensemble_size"), ("policy_kwargs={'num_critics': E}", "'num_critics'")),
    **{name: (f"policy_kwargs={{'{name}': ...}}",) for name in ("hidden_sizes", "network", "task_id", "num_critics")},
}


def called_here(name: str) -> str:
    """The setting that other libraries call `name`; `name` itself for any other."""
    first = CALLED_ELSEWHERE.get(name, ("",))[0]
    return first.strip("'") if first.startswith("'") else name


_FEW = 12  # names that make a sentence


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` for the closest known name, or nothing."""
    matches = difflib.get_close_matches(name, [other for other in known if other != name], n=1, cutoff=0.5)
    return f", did you mean '{matches[0]}'?" if matches else "."


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that is not in a registry: all names if they are few, else the nearest three."""
    known = sorted(known)
    if len(known) > _FEW:
        # Without a cutoff there are always three.
        *first, last = map(repr, difflib.get_close_matches(str(name), known, n=3, cutoff=0.0))
        return ConfigurationError(f"Unknown {what} '{name}': did you mean {', '.join(first)} or {last}?")
    return ConfigurationError(f"Unknown {what} '{name}': choose from {', '.join(known)}{nearest(name, known)}")
