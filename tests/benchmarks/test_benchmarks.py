"""The benchmarks measure what they say; how fast this machine is, they do not assert."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks import checkpoint, footprint, jacobian, networks, scheduling, update
from benchmarks.timing import markdown, take_turns
from tests.grids import grid

ROOT = Path(__file__).resolve().parents[2]


def test_contenders_take_turns_and_the_first_is_the_baseline():
    calls = []
    waits = {"short": 0.002, "long": 0.02}
    timings = take_turns(
        {name: lambda name=name: (calls.append(name), time.sleep(waits[name])) for name in waits}, rounds=3, warmup=1
    )
    assert calls == ["short", "long"] * 4
    assert [timing.name for timing in timings] == ["short", "long"]
    assert timings[0].ratio == 1.0
    assert timings[1].ratio > 1.5
    assert timings[1].seconds >= 0.02


def test_a_table_has_a_row_for_each_contender():
    assert markdown(["a", "b"], [["x", 1]]).splitlines() == ["| a | b |", "| --- | ---: |", "| x | 1 |"]


def test_an_update_is_measured_beside_that_of_sb3():
    timings = update.measure(rounds=1, num_tasks=2, samples=4, hidden_sizes=(8,), transitions=20, compiled=False)
    assert timings[0].name == update.BASELINE
    assert len(timings) == 4
    assert all(timing.seconds > 0 for timing in timings)


def test_updates_of_halves_are_measured_beside_updates_of_all_tasks():
    timings = scheduling.measure("moco", rounds=1, num_tasks=4, samples=2, hidden_sizes=(8,))
    assert [timing.name for timing in timings] == ["son_goku:moco, all tasks", "son_goku:moco, two halves in turn"]
    assert all(timing.seconds > 0 for timing in timings)


def test_both_agents_of_the_update_benchmark_learn_from_equal_transitions():
    import numpy as np
    from stable_baselines3 import SAC

    from agents import MTSAC
    from envs import make_suite

    env = make_suite("gym", tasks={"a": update.MetaWorldShapes, "b": update.MetaWorldShapes}, horizon=5)
    env = env.make_vec_env(seed=0)
    ours = MTSAC("MultiTaskPolicy", env, buffer_size=20, policy_kwargs={"hidden_sizes": [8]}, device="cpu")
    theirs = SAC("MlpPolicy", env, buffer_size=20, policy_kwargs={"net_arch": [8]}, device="cpu")
    for model in (ours, theirs):
        update.fill(model, 10)
    env.close()
    rows = ours.replay_buffer.rows.numpy()
    states, actions = update.STATES, update.ACTIONS
    np.testing.assert_allclose(rows[0, :, :states], theirs.replay_buffer.observations[:, 0, :states])
    np.testing.assert_allclose(rows[1, :, states : states + actions], theirs.replay_buffer.actions[:, 1])


def test_the_product_error_of_the_highest_mode_is_float32s_own():
    assert update.product_error("highest") < 1e-5


def test_the_ways_to_task_gradients_agree():
    timings, error = jacobian.measure(3, 4, rounds=1, rounds_of_passes=1, hidden_sizes=(8, 8))
    balanced = [jacobian.WRITTEN_OUT, jacobian.LAYER_BY_LAYER]
    assert [timing.name for timing in timings] == [jacobian.BASELINE, jacobian.JACOBIAN, *balanced, jacobian.PASSES]
    assert error < 1e-5


def test_importing_mtrl_takes_at_most_three_seconds():
    assert footprint.import_seconds("import mtrl", rounds=1) < 3.0


def test_memory_is_that_of_a_whole_run():
    assert 100 < footprint.run_megabytes(transitions=4_000, workers=0, suite="pointmass") < 3_000


def test_a_checkpoint_is_written_twice_and_gone_on_from(tmp_path):
    costs = checkpoint.measure(transitions=2_000, folder=tmp_path, hidden_sizes=(8,))
    assert 0 < costs.later_blocked < costs.later_written
    assert costs.resume > 0
    assert costs.megabytes > 2_000 * 336 / 1e6  # bytes of a transition of Meta-World
    assert list(tmp_path.iterdir()) == []


@grid("name", ["nonsense", "updat"], always=["updat"])
def test_an_unknown_benchmark_is_one_sentence_with_the_known_ones(name):
    done = subprocess.run([sys.executable, "-m", "benchmarks", name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"there is no benchmark '{name}'" in done.stderr
    assert "jacobian" in done.stderr


def test_every_architecture_is_measured_beside_an_mlp_of_as_many_parameters():
    timings, error = networks.gradients("film", rounds=1, num_tasks=2, samples=4)
    assert [timing.name for timing in timings] == [networks.MEAN, networks.JACOBIAN, networks.MATCHED_MEAN]
    assert error < 1e-5
