"""What `learn` makes sure of before the first step: better a sentence now than a failure hours later."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EventCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger

from agents.errors import ConfigurationError

_INDENT = 3  # that SB3 puts before a name under its tag


def require_env(env: Any) -> Any:
    """The environment.

    :raises ConfigurationError: where there is none to learn in
    """
    if env is None:
        raise ConfigurationError("The agent has no environment to learn in: give it one with set_env(make_env(...)).")
    return env


def refuse_pickled_replay(callback: Any) -> None:
    """Refuse SB3's callback that would pickle the replay buffer, at its first checkpoint.

    :param callback: what `learn` was given: a callback, several, or a function
    :raises ConfigurationError: with what to do instead
    """
    if any(isinstance(found, CheckpointCallback) and found.save_replay_buffer for found in _all(callback)):
        raise ConfigurationError(
            "CheckpointCallback(save_replay_buffer=True) would write a pickle, which is refused: leave it out, and "
            "keep everything with model.save_state(folder)."
        )


def _all(callback: Any) -> Iterator[BaseCallback]:
    """A callback and those inside it."""
    inside: Iterable[Any] = ()
    if isinstance(callback, list):
        inside = callback
    elif isinstance(callback, BaseCallback):
        yield callback
        inside = callback.callbacks if isinstance(callback, CallbackList) else ()
        if isinstance(callback, EventCallback):
            inside = (callback.callback, getattr(callback, "callback_on_new_best", None))
    for part in inside:
        yield from _all(part)


def warn_of_no_update(num_timesteps: int, total_timesteps: int, learning_starts: int) -> None:
    """Say it where only random actions are taken, and nothing is learnt.

    :param num_timesteps: transitions so far
    :param total_timesteps: transitions at the end of `learn`
    :param learning_starts: transitions before the first update
    """
    if num_timesteps < total_timesteps <= learning_starts:
        warnings.warn(
            f"This call of learn ends at {total_timesteps:,} transitions and makes no update: learning starts after "
            f"{learning_starts:,}. Learn for longer, or lower learning_starts.",
            stacklevel=4,
        )


def fit_columns(logger: Logger, names: Sequence[str]) -> None:
    """Widen the columns of printed logs: SB3 raises where two names are equal once they are cut.

    :param names: of the tasks
    """
    for output in logger.output_formats:
        if isinstance(output, HumanOutputFormat):
            output.max_length = max(output.max_length, _INDENT + max(map(len, names)))


def dump(logger: Logger, step: int) -> None:
    """Write a log. What keeps it from being written is a warning: logging never ends training."""
    try:
        logger.dump(step=step)
    except (ValueError, OSError) as error:
        warnings.warn(f"A log could not be written ({error}); training continues.", stacklevel=3)
        logger.name_to_value.clear()
        logger.name_to_count.clear()
        logger.name_to_excluded.clear()
