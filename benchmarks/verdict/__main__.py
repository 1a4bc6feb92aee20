"""``python -m benchmarks.verdict``: the study block by block, and its report. A command that is repeated resumes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.verdict.design import BLOCKS, SUITES, find_blocks
from benchmarks.verdict.report import keep_small_files, write_pilots, write_study
from benchmarks.verdict.runs import Study, make, plan
from mtrl.console import say

DOCS = Path(__file__).resolve().parents[2] / "docs" / "results" / "verdict"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        blocks = find_blocks(options.suite, options.block)
    except ValueError as error:
        _parser().error(str(error))
    study = Study(options.runs.resolve(), options.seeds, tuple(options.settings))
    if options.list:
        for block in BLOCKS:
            say(f"{block.name}: {len(block.agents)} agents, {len(study.seeds_of(block))} seeds")
        return 0
    failed = 0
    if not options.report:
        for block in blocks:
            say(f"Block {block.name}.")
            try:
                planned = plan(study, block)
            except ValueError as error:
                say(f"Block {block.name} has to wait: {error}")
                continue
            try:
                failed += make(planned, options.workers, options.address)
            finally:
                keep_small_files(planned, options.out / "data" / study.place(block).name)
    write_pilots(options.out)
    page = write_study(options.out)
    say("There are no two methods to compare yet." if page is None else f"Written to {page}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="for all runs: another study")
    parser.add_argument("--suite", choices=sorted(SUITES), help="the blocks of one suite (default: all)")
    parser.add_argument("--block", metavar="NAME", help="one block; --list names them")
    parser.add_argument("--seeds", type=int, metavar="N", help="of every method, 1 to N (default: the protocol's)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; more than cores: Ray (default: 1)")
    parser.add_argument("--address", help="of a running Ray cluster, or auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/verdict"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of small files and report")
    parser.add_argument("--report", action="store_true", help="write the report of what there is, and run nothing")
    parser.add_argument("--list", action="store_true", help="name the blocks in their order")
    return parser


if __name__ == "__main__":
    sys.exit(main())
