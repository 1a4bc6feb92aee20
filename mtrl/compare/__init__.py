"""Runs -> statistics -> figures -> one report page.

``compare_runs(paths)`` sets methods side by side, every number as a pandas frame; ``write_report`` writes the page.
"""

from mtrl.compare.comparison import Comparison, compare_runs
from mtrl.compare.methods import Method
from mtrl.compare.protocol import MixedProtocols
from mtrl.compare.report import write_report
from mtrl.compare.runs import Run, read_runs
from mtrl.compare.verdict import Verdict, judge

__all__ = [
    "Comparison",
    "Method",
    "MixedProtocols",
    "Run",
    "Verdict",
    "compare_runs",
    "judge",
    "read_runs",
    "write_report",
]
