"""The fingerprint of training: two runs of the same code agree, and what differs is named."""

import copy

import pytest

from benchmarks.fingerprint import PARTS, combinations, differences, fingerprint, measure

NAMES = ("mtsac", "igb_rl", "mlp")
ROW = " ".join(NAMES)


def test_two_runs_agree_and_another_budget_does_not() -> None:
    first, second = (measure([NAMES], updates=12) for _ in range(2))
    assert differences(first, second) == []
    longer = {ROW: fingerprint(*NAMES, updates=13)}
    (line,) = differences(first, longer)
    assert all(part in line for part in PARTS)


@pytest.mark.parametrize("part", [*PARTS, "train/critic_loss"])
def test_what_differs_is_named(part: str) -> None:
    before = {ROW: {**dict.fromkeys(PARTS, "0"), "metrics": {"train/critic_loss": "0x1p+0"}}}
    after = copy.deepcopy(before)
    (after[ROW] if part in PARTS else after[ROW]["metrics"])[part] = "1"
    assert differences(before, after) == [f"{ROW}: {part}"]


def test_a_new_metric_is_no_difference_and_a_lost_row_is_one() -> None:
    before = {ROW: {**dict.fromkeys(PARTS, "0"), "metrics": {}}}
    after = copy.deepcopy(before)
    after[ROW]["metrics"]["train/new"] = "0x0p+0"
    assert differences(before, after) == []
    assert differences(before, {}) == [f"{ROW}: only before"]


def test_every_agent_meets_every_balancer_and_every_network() -> None:
    assert len(combinations()) == len(set(combinations())) == 144
