"""Errors of the runner, the nearest known name, and what a shell gets to see of an error."""

import difflib
from collections.abc import Iterable

BAD_INPUT, FAULT, INTERRUPTED, RESUMABLE = 2, 1, 130, 75


class ConfigError(ValueError):
    """A setting that cannot work: one sentence with the bad value and what would be right."""


class ForeignPackage(ImportError):
    """A package of another distribution has the name of one of ours, and is found first."""


class RunFolderError(ConfigError):
    """A folder that is no run, or that another process is using."""


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used, and why."""


class RunStopped(KeyboardInterrupt):
    """A run that was asked to stop and did. Its `then` says what comes next, as the end of the sentence.

    :param reason: who asked, as the beginning of the sentence
    :param code: exit code of the command
    :param by_signal: whether it was a signal, which means all runs of a sweep
    """

    def __init__(self, reason: str, code: int, by_signal: bool = False) -> None:
        super().__init__(reason)
        self.code, self.by_signal = code, by_signal
        self.then = "the same command resumes from the last checkpoint, or starts over where there is none"

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.then}."


class RunPaused(RunStopped):
    """A run that has come to the env step at which it was to wait for a decision; its checkpoint is written."""

    def __init__(self, env_steps: int) -> None:
        super().__init__(f"Paused at env step {env_steps:,}", RESUMABLE)


class MissingExtra(ConfigError):
    """An optional part that is not installed; the sentence says how to install it."""


_FEW = 12  # names that make a sentence


def nearest(value: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest known name; if none is close, the known names or the nearest three.

    The value itself is never proposed.
    """
    names = sorted(name for name in known if name != str(value))
    if not names:
        return "."
    matches = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean '{matches[0]}'?"
    if len(names) <= _FEW:
        return f"; known: {', '.join(names)}."
    # Without a cutoff there are always three.
    return f"; the nearest are {', '.join(difflib.get_close_matches(str(value), names, n=3, cutoff=0.0))}."


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ended with this error."""
    if isinstance(error, RunStopped):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, (ConfigError, ForeignPackage)):
        return BAD_INPUT
    return BAD_INPUT if isinstance(error, _bad_input_of_siblings()) else FAULT


def _bad_input_of_siblings() -> tuple[type[Exception], ...]:
    # Late: a command must be able to refuse a foreign package before anything of that name is imported.
    from agents.errors import ConfigurationError
    from agents.files.agent_file import AgentFileError
    from envs import SuiteError

    return ConfigurationError, SuiteError, AgentFileError


def sentence(error: BaseException) -> str:
    """The error as one sentence for a person."""
    if isinstance(error, RunStopped):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Stopped by you."
    text = " ".join(str(error).split()) or "no reason was given"
    if exit_code(error) == FAULT and not text.startswith(type(error).__name__):
        text = f"{type(error).__name__}: {text}"
    if not isinstance(error, ConfigError):  # ours begin with a capital, or with the name of a setting
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
