"""The benchmark of the pipeline: spans add up, the real loop is what is measured, and the picture shows all lanes."""

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import operations, pipeline
from benchmarks.balancers import Contest
from benchmarks.spans import Span, Spans, average, repetitions

TWO_TASKS = {"suite": "metaworld", "tasks": ["reach-v3", "push-v3"]}


def test_own_time_is_what_no_inner_call_took():
    spans = Spans()
    inner = spans.timed("inner", time.sleep)

    def outer(seconds):
        time.sleep(seconds)
        inner(3 * seconds)

    repeated = spans.timed("outer", outer)
    for _ in range(3):
        repeated(0.002)
    parts = average(repetitions(spans.recorded, "outer"))
    assert [part.path for part in parts] == [("outer",), ("outer", "inner")]
    assert sum(part.own for part in parts) == pytest.approx(parts[0].end - parts[0].begin)
    assert parts[0].own > 0.002 and parts[1].own > 0.006


def test_a_call_that_is_made_now_and_then_has_its_share_of_every_repetition():
    recorded = [Span(("step",), 0, 4), Span(("step", "rare"), 11, 13), Span(("step",), 10, 14)]
    (step, rare) = average(repetitions(recorded, "step"))
    assert (rare.begin, rare.end, rare.own) == (1, 3, 1)  # where it happens, and half of two seconds
    assert (step.end, step.own) == (4, 3)


def test_a_call_that_raises_is_recorded_and_the_path_goes_on():
    spans = Spans()
    with pytest.raises(TypeError):
        spans.timed("bad", len)(3)
    spans.timed("good", len)("")
    assert [span.path for span in spans.recorded] == [("bad",), ("good",)]


def test_every_operation_of_an_update_is_counted_in_one_group():
    contest = Contest(2, 4, hidden_sizes=(8,), critic_layer_norm=True, precision="bfloat16")
    groups = operations.measure(contest.call("unitary"), rounds=2)
    contest.close()
    assert set(groups) == {*operations.GROUPS, operations.OTHER}
    # Target: actor, critics; critic: forward, weights of two layers, inputs of the second; actor: both networks, ...
    assert groups["matrix products"][1] == 2 * 2 + (2 + 3) + (2 + 2 + 3 + 2)
    assert groups["Adam"][1] == 3 and groups["Polyak"][1] == 1
    assert all(seconds > 0 for seconds, _ in groups.values())


@pytest.fixture(scope="module", params=[0, 1])
def breakdown(request):
    config = pipeline.loop_config({**TWO_TASKS, "workers": request.param}, samples=4)
    loop = pipeline.LearningLoop(config, timed=True)
    updates = loop.agent._n_updates
    found = pipeline.break_down(loop, "two tasks", 20)
    assert loop.agent._n_updates == updates + 20  # the loop learns, and takes nothing back
    assert "_sample_action" not in vars(loop.agent), "the loop is left as it was"
    loop.close()
    return found


def test_the_parts_of_a_vector_step_add_up_to_it(breakdown):
    rows = dict(breakdown.rows())
    in_learner = sum(own for name, own in rows.items() if not name.startswith("worker"))
    assert in_learner == pytest.approx(breakdown.seconds)
    assert all(own >= 0 for own in rows.values())
    for name in ("act", "sample", "target", "critic: forward", "critic: backward", "actor: optimiser", "Polyak"):
        assert rows[name] > 0


def test_simulation_is_a_part_of_the_learner_or_of_a_worker(breakdown):
    rows = dict(breakdown.rows())
    assert ("simulate" in rows) != ("wait for workers" in rows)
    assert ("simulate" in rows) == (breakdown.simulation == [])
    for begin, end in breakdown.simulation:
        assert 0 < begin < end < breakdown.seconds  # within the vector step, while the learner does its own


def test_the_report_has_a_table_for_each_suite_both_ratios_and_a_picture(tmp_path: Path):
    from PIL import Image

    text = pipeline.describe({"two": TWO_TASKS, "again": TWO_TASKS}, 4, 10, 1, tmp_path / "pipeline.png")
    assert text.count("| whole vector step |") == 2
    assert "times the env steps per second of the same work done in sequence" in text
    assert "| an update of again |" in text
    picture = np.asarray(Image.open(tmp_path / "pipeline.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
