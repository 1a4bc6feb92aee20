"""What a run leaves for a reader: the final table as CSV and Markdown, and the plots."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtrl.console import result_cells
from mtrl.evaluation import EvaluationResult
from mtrl.run_folder import AGENT_FILE, RESULTS_CSV, RESULTS_MARKDOWN
from mtrl.tracking import METRICS_FILE, read_metrics

SUCCESS_PLOT, WEIGHTS_PLOT = "plots/success.png", "plots/weights.png"
REPORTED = [RESULTS_MARKDOWN, RESULTS_CSV, SUCCESS_PLOT, WEIGHTS_PLOT, METRICS_FILE, "tensorboard", AGENT_FILE]
BATCH_FILE = "offending-batch.npz"  # of a run that ended because its updates met numbers that are not finite

_COLUMNS = ["task", "success", "95 % interval", "success at last step", "return", "episodes"]


def write_results(result: EvaluationResult, folder: Path) -> None:
    """Write ``results.csv`` and ``results.md``."""
    from tabulate import tabulate

    frame = result.to_frame()
    frame.to_csv(folder / RESULTS_CSV)
    rows = [result_cells(_in_markdown(str(task)), row) for task, row in frame.iterrows()]
    align = ["left"] + ["right"] * (len(_COLUMNS) - 1)
    # Cells are text already: tabulate must not read 1.00 as a number and print it as 1.
    table = tabulate(rows, headers=_COLUMNS, tablefmt="github", colalign=align, disable_numparse=True)
    (folder / RESULTS_MARKDOWN).write_text(table + "\n", encoding="utf-8")


def _in_markdown(name: str) -> str:
    """A task's name as the text of a cell: it may be anything, and must break neither table nor page."""
    return "".join(f"\\{c}" if c in "\\|<`[*" else c if c.isprintable() else " " for c in name)


def write_batch(batch: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Write the batch of updates that could not be made, for a reader: ``numpy.load(path, allow_pickle=False)``."""
    path = folder / BATCH_FILE
    np.savez(path, **dict(batch))  # type: ignore[arg-type]
    return path


def write_plots(folder: Path) -> None:
    """Write the plots that the metrics of a run allow; none for a run that measured nothing."""
    from mtrl.plots import plot_success, plot_weights

    metrics = read_metrics(folder)
    for draw, name in ((plot_success, SUCCESS_PLOT), (plot_weights, WEIGHTS_PLOT)):
        draw(metrics, folder / name)
