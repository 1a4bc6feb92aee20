"""Closed forms of allocation on small point masses: ``python -m benchmarks.allocation_rules blocked``.

The measure is the area under the curve of the worst task's success; tasks that nothing can solve do not count. Runs are
paired: the same tasks and seeds for every rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from agents.balancers.igb.rule import MOVED, with_floor
from benchmarks.families import HELD_OUT, TRAINED
from benchmarks.stacked import Rule, Window, train
from benchmarks.timing import markdown
from benchmarks.train_weight_agent import FLOOR, interval

SEED = 1000
LEAST, SLOW = 1e-3, 0.5


def _proportional(wanted: Tensor, floor: float = FLOOR) -> Tensor:
    return with_floor(wanted / wanted.sum(-1, keepdim=True), floor)


def uniform() -> Rule:
    """Plain averaging."""
    return lambda number, window, used: torch.ones_like(window.gaps)


def gap(floor: float = FLOOR) -> Rule:
    """In proportion to the gap."""
    return lambda number, window, used: _proportional(window.gaps + LEAST, floor)


def patience(decisions: float, comes_back: float) -> Rule:
    """Gap times interest; `decisions` at weight one use interest up to 1 / e, and a part of what is lost comes back."""
    interest, reference, weights = torch.ones(()), torch.ones(()), torch.ones(())

    def rule(number: int, window: Window, used: float) -> Tensor:
        nonlocal interest, reference, weights
        if number == 0:
            interest, reference = torch.ones_like(window.gaps), window.gaps
        else:
            moved = (window.gaps - reference).abs() > MOVED
            still = interest * (-weights / decisions).exp() + comes_back * (1 - interest)
            interest = torch.where(moved, 1.0, still)
            reference = torch.where(moved, window.gaps, reference)
        weights = _proportional((window.gaps + LEAST) * interest)
        return weights

    return rule


def learning_progress(part: float = 1.0) -> Rule:
    """In proportion to the smoothed absolute change of the gap, mixed with the gap itself."""
    change, before = torch.zeros(()), torch.zeros(())

    def rule(number: int, window: Window, used: float) -> Tensor:
        nonlocal change, before
        new = torch.zeros_like(window.gaps) if number == 0 else (before - window.gaps).abs()
        change, before = SLOW * change + (1 - SLOW) * new, window.gaps
        moving, far = change + 0.01, window.gaps + LEAST
        shares = [values / values.sum(-1, keepdim=True) for values in (moving, far)]
        return with_floor(part * shares[0] + (1 - part) * shares[1], FLOOR)

    return rule


RULES: dict[str, Callable[[], Rule]] = {
    "uniform": uniform,
    "gap": gap,
    "gap, floor 0.5": lambda: gap(0.5),
    "gap, patience 2": lambda: patience(2.0, 0.1),
    "gap, patience 4": lambda: patience(4.0, 0.1),
    "gap, patience 8": lambda: patience(8.0, 0.1),
    "gap, patience 4, no return": lambda: patience(4.0, 0.0),
    "learning progress": learning_progress,
    "half gap, half learning progress": lambda: learning_progress(0.5),
}


def main() -> None:
    """Command line."""
    families = {**TRAINED, **HELD_OUT}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=families)
    parser.add_argument("--runs", type=int, default=32, help="runs per rule (default 32)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.families:
        tasks = families[name](arguments.runs, torch.Generator().manual_seed(SEED))
        base = torch.zeros(arguments.runs)
        for rule, make in RULES.items():
            worst = torch.where(tasks.reachable, train(tasks, make(), SEED), 2.0).amin(-1)  # [n, R]
            base = worst.mean(0) if rule == "uniform" else base
            rows.append([name, rule, f"{worst.mean():.3f}", f"{worst[-1].mean():.2f}", interval(worst.mean(0) - base)])
    print(markdown(["family", "rule", "AUC of the worst task", "final", "minus uniform"], rows))


if __name__ == "__main__":
    main()
