"""Runs -> statistics -> figures -> one report page.

``compare_runs(paths)`` sets methods side by side, every number as a pandas frame; ``write_report`` writes the page.
``split_by_protocol(paths)`` and ``write_overview`` do it for each of several protocols.
"""

from mtrl.compare.comparison import Comparison, compare_runs
from mtrl.compare.methods import Method
from mtrl.compare.parts import Part, primary_family, split_by_protocol, write_overview
from mtrl.compare.protocol import MixedProtocols
from mtrl.compare.report import write_report
from mtrl.compare.runs import Run, read_runs
from mtrl.compare.verdict import Verdict, judge

__all__ = [
    "Comparison",
    "Method",
    "MixedProtocols",
    "Part",
    "Run",
    "Verdict",
    "compare_runs",
    "judge",
    "primary_family",
    "read_runs",
    "split_by_protocol",
    "write_overview",
    "write_report",
]
