"""Contenders that take turns, so that a change of the machine's speed meets all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timing:
    """One contender.

    :param name: what is written in the table
    :param seconds: median of one call
    :param ratio: median over rounds of the ratio to the baseline in the same round
    """

    name: str
    seconds: float
    ratio: float


def take_turns(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time every contender once in each round; the first contender is the baseline.

    :param contenders: calls by name
    :param rounds: turns of each that count
    :param warmup: turns before them that do not
    :param clock: seconds; ``time.process_time`` counts this process alone
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name, call in contenders.items():
            began = clock()
            call()
            if turn >= warmup:
                seconds[name].append(clock() - began)
    baseline = next(iter(seconds.values()))
    return [
        Timing(name, statistics.median(mine), statistics.median(a / b for a, b in zip(mine, baseline, strict=True)))
        for name, mine in seconds.items()
    ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; columns after the first are set to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def timing_table(title: str, timings: Sequence[Timing]) -> str:
    """Median milliseconds and the ratio to the first row."""
    rows = [[timing.name, f"{timing.seconds * 1e3:.1f}", f"{timing.ratio:.2f}"] for timing in timings]
    return markdown([title, "ms (median)", "ratio"], rows)


def machine() -> str:
    """Processor, cores in use and versions, for the line above a table."""
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {torch.get_num_threads()} torch threads{accelerator}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
