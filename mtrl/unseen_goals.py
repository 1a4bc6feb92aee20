"""Goals that an agent was trained on, beside goals that it has never seen: one table, and what of it is on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from envs import TaskSuite
from mtrl.errors import ConfigError
from mtrl.evaluation import EvaluationResult, wilson_interval

if TYPE_CHECKING:
    import pandas

FIRST = 1001  # of the seeds of unseen goals: far from those that runs have, and the same for all of them
TABLE = "unseen-goals.csv"


@dataclass(frozen=True)
class UnseenGoals:
    """One policy on its own goals and on others.

    :param trained: the evaluation on the goals of its training
    :param unseen: evaluations on other goals, by seed
    """

    trained: EvaluationResult
    unseen: dict[int, EvaluationResult]

    def to_frame(self) -> "pandas.DataFrame":
        """One row per task and a last row ``mean``: success on both, with 95 % intervals, and the range over seeds.

        Intervals are Wilson's over the pooled episodes; `lowest` and `highest` are over the seeds of unseen goals.
        """
        import pandas

        names = self.trained.task_names
        rows = [self._row(name, slice(k, k + 1)) for k, name in enumerate(names)]
        return pandas.DataFrame([*rows, self._row("mean", slice(None))]).set_index("task")

    def _row(self, name: str, tasks: slice) -> dict[str, object]:
        ours = self.trained.success[tasks]
        others = np.stack([result.success[tasks] for result in self.unseen.values()])  # [seeds, tasks, E]
        rates = others.mean(axis=(1, 2))
        return {
            "task": name,
            **_cells("trained", ours),
            **_cells("unseen", others),
            "difference": float(others.mean() - ours.mean()),
            "lowest": float(rates.min()),
            "highest": float(rates.max()),
        }

    def write(self, folder: Path) -> Path:
        """Write the table as CSV.

        :return: the file
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.to_frame().to_csv(folder / TABLE)
        return folder / TABLE


def unseen_seeds(trained: int, count: int) -> list[int]:
    """Seeds of goals that a run of another seed has not seen.

    :raises ConfigError: for a count below one
    """
    if count < 1:
        raise ConfigError(f"--goal-seeds must be at least 1, found {count}.")
    return [seed for seed in range(FIRST, FIRST + count + 1) if seed != trained][:count]


def refuse_endless_goals(suite: TaskSuite) -> None:
    """:raises ConfigError: for a suite with fresh goals at every episode, none of which is one that was trained on."""
    if not suite.num_goals:
        raise ConfigError(
            "--goal-seeds compares trained goals with unseen ones, and this run drew fresh ones throughout."
        )


def table_rows(found: UnseenGoals) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table as text."""
    header = ["task", "trained goals", "95 % interval", "unseen goals", "95 % interval", "difference", "seeds from, to"]
    rows = [
        [
            str(task),
            f"{row['trained']:.2f}",
            f"{row['trained_low']:.2f} to {row['trained_high']:.2f}",
            f"{row['unseen']:.2f}",
            f"{row['unseen_low']:.2f} to {row['unseen_high']:.2f}",
            f"{row['difference']:+.2f}",
            f"{row['lowest']:.2f}, {row['highest']:.2f}",
        ]
        for task, row in found.to_frame().iterrows()
    ]
    return header, rows


def _cells(name: str, success: np.ndarray) -> dict[str, float]:
    low, high = wilson_interval(int(success.sum()), success.size)
    return {name: float(success.mean()), f"{name}_low": low, f"{name}_high": high}
