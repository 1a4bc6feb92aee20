"""What a person sees of a run: a live bar on a terminal, a line per evaluation elsewhere, tables at the end."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from envs import SuiteError
from mtrl.errors import ConfigError
from mtrl.evaluation import EvaluationResult

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")
_REFRESH_SECONDS = 0.5


def say(text: str) -> None:
    """Print a line of plain text; a run continues where there is no room for it, or nobody who reads it."""
    with suppress(OSError):
        print(text, flush=True)


def without_harm(what: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T | None:
    """Do something that a run can do without: an error becomes one line, and None is returned.

    :param what: what is missing then, as the beginning of the sentence
    :raises ConfigError: for what is not installed or cannot be asked for, which is known before anything runs
    """
    try:
        return function(*arguments, **options)
    except (ConfigError, SuiteError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"Warning: {what} failed and is left out from here on; all else continues. ({reason})")
        return None


def print_table(table: Table) -> None:
    """Print a table; into a file or pipe as wide as it needs to be."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    with console.capture() as captured:
        console.print(table)
    say(captured.get().rstrip("\n"))


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print text in rows and columns."""
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    print_table(table)


class Reporter(Protocol):
    """Shows the progress of a run."""

    def __enter__(self) -> "Reporter": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def step(self, env_steps: int, updates: int) -> None:
        """Called after every vector step."""

    def evaluated(self, env_steps: int, result: EvaluationResult) -> None:
        """Called after every evaluation."""


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step(self, env_steps: int, updates: int) -> None:
        return None

    def evaluated(self, env_steps: int, result: EvaluationResult) -> None:
        return None


class PlainReporter(Quiet):
    """One line per evaluation: for log files and pipes."""

    def __init__(self, total_env_steps: int) -> None:
        self.total, self.updates = total_env_steps, 0
        self.started = time.monotonic()

    def step(self, env_steps: int, updates: int) -> None:
        self.updates = updates

    def evaluated(self, env_steps: int, result: EvaluationResult) -> None:
        minutes = (time.monotonic() - self.started) / 60
        say(
            f"{env_steps:,} of {self.total:,} env steps, {minutes:.1f} min, {self.updates:,} updates: "
            f"{describe_success(result)}"
        )


class LiveReporter:
    """A progress bar: env steps, steps/s, updates/s, mean success, worst task, time left."""

    def __init__(self, total_env_steps: int, env_steps: int = 0, updates: int = 0) -> None:
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} env steps"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("[cyan]{task.fields[speed]}"),
            TextColumn("[green]{task.fields[success]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            refresh_per_second=2,
            expand=True,
        )
        self.bar = self.progress.add_task("train", total=total_env_steps, completed=env_steps, speed="", success="")
        self.last = (time.monotonic(), env_steps, updates)

    def __enter__(self) -> "LiveReporter":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def step(self, env_steps: int, updates: int) -> None:
        now, (then, steps_then, updates_then) = time.monotonic(), self.last
        if now - then < _REFRESH_SECONDS:
            return
        self.last = (now, env_steps, updates)
        steps_rate, updates_rate = (env_steps - steps_then) / (now - then), (updates - updates_then) / (now - then)
        speed = f"{steps_rate:,.0f} steps/s {updates_rate:,.0f} updates/s"
        self.progress.update(self.bar, completed=env_steps, speed=speed)

    def evaluated(self, env_steps: int, result: EvaluationResult) -> None:
        self.progress.update(self.bar, completed=env_steps, success=describe_success(result))
        # An evaluation is no training: it must not count as a slow step.
        self.last = (time.monotonic(), env_steps, self.last[2])


def make_reporter(total_env_steps: int, wanted: bool, env_steps: int = 0, updates: int = 0) -> Reporter:
    """A live bar on a terminal, plain lines elsewhere, nothing if it is not wanted.

    :param env_steps: made before, by a run that is resumed
    :param updates: made before
    """
    if not wanted:
        return Quiet()
    return LiveReporter(total_env_steps, env_steps, updates) if sys.stdout.isatty() else PlainReporter(total_env_steps)


def describe_success(result: EvaluationResult) -> str:
    """``success 0.62, worst push-v3 0.10``; the return where no task says what a success is."""
    if not result.judges_success:
        worst, value = min(result.task_return.items(), key=_second)
        return f"return {result.returns.mean():,.1f}, worst {worst} {value:,.1f}"
    worst, rate = min(result.task_success.items(), key=_second)
    return f"success {result.success_rate:.2f}, worst {worst} {rate:.2f}"


def print_results(frame: "pandas.DataFrame", title: str) -> None:
    """Print the table of :meth:`EvaluationResult.to_frame`, as it is or as it was read back from CSV."""
    table = Table(title=title, title_justify="left")
    for name in ("task", "success", "95 % interval", "at last step", "return", "episodes"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=name == "task")
    for task, row in frame.iterrows():
        table.add_row(*result_cells(str(task), row), end_section=bool(task == frame.index[-2]))
    print_table(table)


def result_cells(task: str, row: "pandas.Series") -> list[str]:
    """One row of a results table as text."""
    at_end = row["success_at_end"]
    return [
        task,
        f"{row['success']:.2f}",
        f"{row['low']:.2f} to {row['high']:.2f}",
        "" if at_end is None or at_end != at_end else f"{at_end:.2f}",
        f"{row['return']:,.1f}",
        f"{int(row['episodes'])}",
    ]


def print_files(folder: Path, names: list[str]) -> None:
    """Say where the run is and what it wrote."""
    say(f"Written to {folder}: {', '.join(name for name in names if (folder / name).exists())}")


def _second(pair: tuple[str, float]) -> float:
    return pair[1]
