"""Where time goes in code that knows nothing of it: nested spans of the parent's calls, stretches of every worker.

Nothing of torch is imported here: worker processes load this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

Path = tuple[str, ...]


class Span(NamedTuple):
    """A call that has ended.

    :param path: names of the calls that it was made within, outermost first, and its own
    :param begin: seconds, on the clock that all processes of a machine share
    :param end: seconds
    """

    path: Path
    begin: float
    end: float


class Spans:
    """Records calls of chosen functions; about a microsecond each.

    :ivar recorded: an inner call stands before the outer one, for it ends first
    """

    def __init__(self) -> None:
        self.recorded: list[Span] = []
        self._path: list[str] = []

    def timed(self, name: str | Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, recorded.

        :param name: or a function of its arguments that gives the name
        """
        path, recorded, clock = self._path, self.recorded, time.perf_counter

        def call(*arguments: Any, **options: Any) -> Any:
            path.append(name if isinstance(name, str) else name(*arguments, **options))
            begin = clock()
            try:
                return function(*arguments, **options)
            finally:
                recorded.append(Span((*path,), begin, clock()))
                path.pop()

        return call

    def watch(self, stack: ExitStack, owner: Any, attribute: str, name: str | Callable[..., str]) -> None:
        """Record the calls of a method or function of `owner` until the stack is left."""
        original = getattr(owner, attribute)
        stack.enter_context(mock.patch.object(owner, attribute, self.timed(name, original)))


class TimedTask:
    """One environment that notes when each of its steps began and ended, a reset at the end of the episode included.

    `get_attr("stretches")` reads the notes, ``[begin, end]`` in seconds.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self.stretches: list[tuple[float, float]] = []

    @property
    def target(self) -> TimedTask:
        """What `get_attr` reads from: this."""
        return self

    def reset(self, goal: int) -> np.ndarray:
        state: np.ndarray = self._task.reset(goal)
        if self.stretches:
            self.stretches[-1] = (self.stretches[-1][0], time.perf_counter())
        return state

    def step(self, action: np.ndarray) -> Any:
        begin = time.perf_counter()
        result = self._task.step(action)
        self.stretches.append((begin, time.perf_counter()))
        return result

    def render(self) -> np.ndarray:
        image: np.ndarray = self._task.render()
        return image

    def close(self) -> None:
        self._task.close()


@dataclass(frozen=True)
class TimedMaker:
    """A suite's maker of an environment whose steps are timed where it lives; travels to the worker."""

    maker: Callable[..., Any]

    def __call__(self, seed: int, horizon: int, render_mode: str | None) -> TimedTask:
        return TimedTask(self.maker(seed, horizon, render_mode))


class Part(NamedTuple):
    """A span of an average repetition.

    :param path: as in `Span`, from the repeated call on
    :param begin: seconds after the repeated call began
    :param end: seconds after it began
    :param own: seconds of it in none of its parts
    """

    path: Path
    begin: float
    end: float
    own: float


def repetitions(spans: Sequence[Span], root: str) -> list[list[Span]]:
    """The calls of `root`, each with the calls made within it; the outer one stands last."""
    found: list[list[Span]] = []
    running: list[Span] = []
    for span in spans:
        if span.path[0] == root:
            running.append(span)
        if span.path == (root,):
            found.append(running)
            running = []
    return found


def average(repeated: Sequence[Sequence[Span]]) -> list[Part]:
    """The average repetition, in the order in which its parts begin.

    A part that is called several times within a repetition counts with its first begin, last end and all its time; one
    that is called now and then has the place where it happens, and a share of every repetition.

    :param repeated: as `repetitions` gives them, at least one
    """
    parts = [_parts(repetition) for repetition in repeated]
    found = []
    for path in {path for repetition in parts for path in repetition}:
        rows = np.array([repetition[path] for repetition in parts if path in repetition])  # [R, 3]
        begin, end = rows[:, :2].mean(0)
        found.append(Part(path, float(begin), float(end), float(rows[:, 2].sum() / len(parts))))
    return sorted(found, key=_order)


def _order(part: Part) -> tuple[float, int]:
    return part.begin, len(part.path)


def _parts(repetition: Sequence[Span]) -> dict[Path, tuple[float, float, float]]:
    """First begin, last end and own time by path."""
    start = repetition[-1].begin
    parts: dict[Path, tuple[float, float, float]] = {}
    for path, begin, end in repetition:
        first, last, whole = parts.get(path, (begin - start, 0.0, 0.0))
        parts[path] = (min(first, begin - start), max(last, end - start), whole + end - begin)
    inner = dict.fromkeys(parts, 0.0)
    for path, begin, end in repetition:
        if len(path) > 1:
            inner[path[:-1]] += end - begin
    return {path: (first, last, whole - inner[path]) for path, (first, last, whole) in parts.items()}
