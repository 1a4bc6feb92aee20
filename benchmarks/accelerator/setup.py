"""How large everything is: as the documents state it, or tiny for a rehearsal on the CPU; and how a call is timed."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Sizes of everything that is measured.

    :param device: ``cuda``, or ``cpu`` for a rehearsal
    :param tasks: numbers of tasks K that balancers are timed with
    :param samples: B
    :param hidden_sizes: of actor and critics
    :param presets: overrides of configs, by what they are called
    :param balancers: names; empty for all
    :param suites: overrides of configs with simulated tasks, by what they are called
    :param workers: numbers of processes that simulate
    :param rounds: of a timing, each of `calls` calls
    :param calls: between two looks at the clock
    :param vector_steps: of a timing that simulates
    :param training: overrides of the run that trains
    :param pause_at: env steps after which it ends; None leaves it to its wall time
    """

    device: str = "cuda"
    tasks: tuple[int, ...] = (10, 50)
    samples: int = 128
    hidden_sizes: tuple[int, ...] = (400, 400, 400)
    presets: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {name: (f"experiment={name}",) for name in ("mt10_gpu", "mt50_gpu")}
    )
    balancers: tuple[str, ...] = ()
    suites: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {n: (f"env={n}",) for n in ("mt10", "mt50")})
    workers: tuple[int, ...] = (2, 4, 6, 8, 10, 12, 15)
    rounds: int = 5
    calls: int = 4
    vector_steps: int = 60
    training: tuple[str, ...] = ("experiment=mt10_laptop", "max_wall_time=220", "evaluation.every_env_steps=50_000")

    pause_at: int | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """Of every config."""
        return (f"device={self.device}",)

    def time(self, call: Callable[[], object]) -> Row:
        """Milliseconds of a call, the median of some rounds; on an accelerator with the memory at the peak."""
        for _ in range(3):
            call()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.rounds):
            self._wait()
            began = time.perf_counter()
            for _ in range(self.calls):
                call()
            self._wait()
            seconds.append((time.perf_counter() - began) / self.calls)
        row: Row = {"ms": round(statistics.median(seconds) * 1e3, 3)}
        if self.device == "cuda":
            row["MB"] = round(torch.cuda.max_memory_allocated() / 1e6)
        return row

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


SMALL = ("env=pointmass", "network.hidden_sizes=[8,8]", "agent.samples_per_task=4")
REHEARSAL = Setup(
    device="cpu",
    tasks=(2,),
    samples=4,
    hidden_sizes=(8,),
    presets={"tiny brc": (*SMALL, "agent=brc", "network=bronet")},
    balancers=("unitary", "famo", "cagrad"),
    suites={"two tasks": ("env=metaworld", "env.tasks=[reach-v3,push-v3]")},
    workers=(1, 2),
    rounds=1,
    calls=1,
    vector_steps=3,
    training=(
        *SMALL,
        "total_env_steps=1_000_000",
        "agent.warmup_steps_per_task=20",
        "evaluation.every_env_steps=500",
        "tracking.every_env_steps=100",
    ),
    pause_at=2_000,
)
