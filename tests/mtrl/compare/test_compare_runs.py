"""From folders to methods: what is found, what is refused, what is missing."""

import json
from pathlib import Path

import numpy as np
import pytest

from mtrl.compare import MixedProtocols, compare_runs, judge, read_runs
from mtrl.compare.comparison import ALIKE, BETTER, ENV_STEPS, SECONDS, TOO_FEW
from mtrl.compare.protocol import protocol_of
from mtrl.compare.runs import find_runs, read_run
from mtrl.errors import ConfigError, RunFolderError
from mtrl.experiment import Result
from tests.mtrl.compare.conftest import MakeRun
from tests.mtrl.compare.made_up import TASKS, write_run


def test_a_run_of_training_is_read_as_it_was_measured(finished: Result) -> None:
    ((run,), left_out) = read_runs([finished.folder])
    assert left_out == []
    assert run.final == pytest.approx(finished.table["success"].iloc[:-1].to_numpy())
    assert run.success.values[-1] == pytest.approx(run.final)
    assert run.success.env_steps[-1] == run.env_steps == 160
    assert run.weights is not None and not np.allclose(run.weights.values, 1.0)
    assert run.updates > 0
    assert {"learning", "evaluations"} <= set(run.seconds)


def test_runs_are_found_below_a_folder_once(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("unitary", 1)
    make_run("famo", 1)
    make_run("famo", 1, name="famo-mtsac-1.interrupted-1", status="interrupted")  # a new run has taken its place
    assert len(find_runs([tmp_path / "runs", folder, tmp_path])) == 2


def test_folders_without_runs_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="there is no such folder"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(RunFolderError, match=r"holds a run\.json"):
        find_runs([tmp_path])


def test_without_a_finished_run_the_states_are_said(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1, status="failed")
    with pytest.raises(RunFolderError, match="unitary-mtsac-1 is failed"):
        compare_runs([tmp_path / "runs"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reward_version", "v1"),
        ("horizon", 200),
        ("num_goals", 0),
        ("goals", "fresh at every episode"),
        ("success", "at the last step"),
        ("task_id", "none"),
        ("env_steps", 100_000),
        ("tasks", [*TASKS[:3], "window-open-v3"]),
    ],
)
def test_protocols_are_not_mixed(field: str, value: object, make_run: MakeRun, tmp_path: Path) -> None:
    tasks = value if field == "tasks" else TASKS
    make_run("famo", 1, tasks=tasks, protocol={field: value})
    make_run("unitary", 1)
    with pytest.raises(MixedProtocols) as refused:
        compare_runs([tmp_path / "runs"])
    said = str(refused.value)
    assert "famo-mtsac-1" in said and "unitary-mtsac-1" in said
    assert f"differ in {field} (" in said
    assert "--allow-mixed" in said
    comparison = compare_runs([tmp_path / "runs"], allow_mixed=True)
    assert list(comparison.mixed or {}) == [field]
    assert comparison.tasks == (TASKS[:3] if field == "tasks" else TASKS)
    assert any(field in line for line in judge(comparison).caution)


def test_goals_of_other_seeds_are_one_protocol_and_versions_are_none(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    make_run("unitary", 2, protocol={"versions": {"mujoco": "3.4.0"}})
    assert compare_runs([tmp_path / "runs"]).mixed == {}


def test_goals_of_a_fixed_seed_are_one_protocol_also_for_the_run_of_that_seed(
    make_run: MakeRun, tmp_path: Path
) -> None:
    for seed in (1, 2):
        fixed = write_run(tmp_path / "runs" / f"fixed-{seed}", "unitary", seed, evaluation_seed=1)
        assert protocol_of(read_run(fixed))["evaluation.goals"].endswith("seed 1")
    assert compare_runs([tmp_path / "runs"]).mixed == {}
    make_run("famo", 2)  # measured on goals of its own
    with pytest.raises(MixedProtocols, match=r"differ in evaluation\.goals"):
        compare_runs([tmp_path / "runs"])


def test_mixed_runs_of_one_balancer_are_two_methods(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    make_run("unitary", 1, name="short", protocol={"horizon": 200})
    comparison = compare_runs([tmp_path / "runs"], allow_mixed=True, baseline="unitary (horizon=500)")
    assert [method.label for method in comparison.methods] == ["unitary (horizon=200)", "unitary (horizon=500)"]


def test_runs_without_a_common_task_are_never_compared(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    make_run("famo", 1, tasks=["other-v3"])
    with pytest.raises(ConfigError, match="no task in common"):
        compare_runs([tmp_path / "runs"], allow_mixed=True)


def test_missing_and_unfinished_seeds_are_named(two_methods: Path, make_run: MakeRun) -> None:
    make_run("famo", 1)
    make_run("famo", 2, status="interrupted")
    make_run("rlw", 1, status="running")
    comparison = compare_runs([two_methods])
    assert [method.label for method in comparison.methods] == ["famo", "pcgrad", "unitary"]
    assert judge(comparison).seeds == (
        "famo has 1 of 6 seeds: seed 2 is interrupted at 50 %; seeds 3, 4, 5 and 6 missing.",
        "rlw has no finished run and is not compared: seed 1 is running at 50 %.",
    )


def test_a_folder_that_cannot_be_read_is_left_out_with_its_reason(two_methods: Path, make_run: MakeRun) -> None:
    (make_run("famo", 1) / "config.yaml").unlink()
    (make_run("famo", 2) / "results.csv").unlink()
    (make_run("famo", 3) / "metrics.jsonl").write_text("no JSON\n")
    comparison = compare_runs([two_methods])
    reasons = {left.folder.name: left.reason for left in comparison.left_out}
    assert reasons["famo-mtsac-1"] == "it holds no config.yaml"
    assert reasons["famo-mtsac-2"] == "it is finished, but holds no results.csv"
    assert "famo-mtsac-3" in reasons
    assert any("famo-mtsac-1' is left out" in line for line in judge(comparison).seeds)


def test_two_results_for_one_seed_are_refused_and_a_finished_one_outdoes_an_unfinished(
    make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("unitary", 1)
    make_run("unitary", 1, name="again", status="failed")
    assert compare_runs([tmp_path / "runs"]).methods[0].unfinished == ()
    make_run("unitary", 1, name="twice")
    with pytest.raises(ConfigError, match="both unitary with seed 1"):
        compare_runs([tmp_path / "runs"])


def test_labels_tell_methods_apart_with_few_words(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    make_run("unitary", 1, agent="mtsac_regularized")
    make_run("famo", 1, name="a", options={"gamma": 0.02})
    make_run("famo", 1, name="b", options={"gamma": None})
    comparison = compare_runs([tmp_path / "runs"])
    labels = ["famo (gamma=0.02)", "famo (gamma=default)", "unitary (mtsac)", "unitary (mtsac_regularized)"]
    assert [method.label for method in comparison.methods] == labels
    assert comparison.baseline.label == "unitary (mtsac)"


def test_an_option_at_its_default_makes_no_other_method(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("famo", 1, options={"gamma": 0.01})  # as runs write it now
    make_run("famo", 2, options={"gamma": None})  # as they wrote it before
    assert [method.label for method in compare_runs([tmp_path / "runs"]).methods] == ["famo"]


def test_another_source_of_a_plug_in_is_another_method(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run("mine", seed)
    for file, digest in zip(sorted(tmp_path.rglob("run.json")), ("a" * 64, "b" * 64), strict=True):
        plugins = {"myrl": {"version": None, "sha256": digest, "registers": ["balancer mine"]}}
        file.write_text(json.dumps({**json.loads(file.read_text()), "plugins": plugins}))
    labels = [method.label for method in compare_runs([tmp_path / "runs"], baseline="mine (myrl=aaaaaaaaaaaa)").methods]
    assert labels == ["mine (myrl=aaaaaaaaaaaa)", "mine (myrl=bbbbbbbbbbbb)"]


def test_a_baseline_must_be_there(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("famo", 1)
    make_run("rlw", 1)
    with pytest.raises(ConfigError, match="none of these runs is the plain average; known: famo, rlw"):
        compare_runs([tmp_path / "runs"])
    with pytest.raises(ConfigError, match="found 'fano'; did you mean 'famo'"):
        compare_runs([tmp_path / "runs"], baseline="fano")
    assert compare_runs([tmp_path / "runs"], baseline="rlw").baseline.label == "rlw"


def test_labels_can_be_given(two_methods: Path) -> None:
    comparison = compare_runs([two_methods], labels={"pcgrad": "projection"})
    assert [method.label for method in comparison.methods] == ["projection", "unitary"]
    with pytest.raises(ConfigError, match="did you mean 'pcgrad'"):
        compare_runs([two_methods], labels={"pcgrat": "projection"})
    with pytest.raises(ConfigError, match="must be different"):
        compare_runs([two_methods], labels={"pcgrad": "unitary"})


def test_a_clear_difference_is_found_and_its_correction_said(two_methods: Path, make_run: MakeRun) -> None:
    for seed in range(1, 7):
        make_run("rlw", seed, 0.4)
    comparison = compare_runs([two_methods])
    table = comparison.differences.set_index(["method", "measure"])
    assert table.loc[("pcgrad", "final"), "verdict"] == BETTER
    assert table.loc[("pcgrad", "final"), "difference"] == pytest.approx(0.3, abs=0.06)
    assert table.loc[("pcgrad", "final"), "p"] == pytest.approx(2 / 2**6)
    assert table.loc[("rlw", "final"), "verdict"] == ALIKE
    verdict = judge(comparison)
    assert verdict.headline.startswith("pcgrad is better than unitary in final success; rlw is not distinguishable")
    assert "none stands correction for 2 comparisons" in verdict.headline  # 2 / 2^6 twice is more than 0.05
    assert "Holm's correction" in verdict.caution[0]


def test_few_seeds_allow_no_verdict_however_clear_they_look(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_run("unitary", seed, 0.1)
        make_run("famo", seed, 0.9)
    comparison = compare_runs([tmp_path / "runs"])
    assert set(comparison.differences["verdict"]) == {TOO_FEW}
    assert judge(comparison).headline.startswith("Too few seeds for a verdict")


def test_final_and_best_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("unitary", 1, 0.2)
    with (folder / "metrics.jsonl").open("a") as file:
        line = {"env_steps": 100, "wall_time": 200.0} | {f"eval_success/{task}": 1.0 for task in TASKS}
        file.write(json.dumps(line) + "\n")
    row = compare_runs([tmp_path / "runs"]).by_run.iloc[0]
    assert row["best"] == 1.0
    assert row["final"] == pytest.approx(0.2, abs=0.1)


def test_best_and_final_are_of_the_tasks_that_all_runs_have(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1, [0.3, 0.3, 1.0, 1.0])
    make_run("famo", 1, tasks=TASKS[:2])
    comparison = compare_runs([tmp_path / "runs"], allow_mixed=True)
    assert comparison.tasks == TASKS[:2]
    row = comparison.by_run.set_index("method").loc["unitary"]
    evaluated = comparison.evaluations().query("method == 'unitary'").groupby("env_steps")["success"].mean()
    assert row["best"] == pytest.approx(evaluated.max())
    assert row["final"] <= row["best"] < 0.5


def test_curves_run_over_env_steps_and_over_time(two_methods: Path) -> None:
    comparison = compare_runs([two_methods])
    for clock, end in ((ENV_STEPS, 200_000), (SECONDS, 110)):
        curve = comparison.curves(clock).query("method == 'pcgrad'")
        assert curve[clock].iloc[-1] == pytest.approx(end)
        assert curve["value"].iloc[-1] == pytest.approx(comparison.summary.set_index("method").loc["pcgrad", "final"])
        assert (curve["low"] <= curve["value"]).all() and (curve["value"] <= curve["high"]).all()


def test_the_clock_of_a_continued_run_goes_on(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("unitary", 1)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines[len(lines) // 2 :]:
        line["wall_time"] -= 50.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ((run,), _) = read_runs([folder])
    assert (np.diff(run.success.seconds) > 0).all()
    assert run.success.seconds[-1] > 100


def test_numbers_depend_on_their_seed_alone(two_methods: Path, make_run: MakeRun) -> None:
    alone = compare_runs([two_methods]).summary.set_index("method")
    make_run("famo", 1)
    beside = compare_runs([two_methods]).summary.set_index("method")
    assert alone.loc["pcgrad"].tolist() == beside.loc["pcgrad"].tolist()
    other = compare_runs([two_methods], seed=1).summary.set_index("method")
    assert alone.loc["pcgrad", "final_low"] != other.loc["pcgrad", "final_low"]


def test_settings_that_change_no_result_or_came_later_make_no_other_method(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, more in enumerate(({}, {"algorithm": "mtsac"}, {"max_skipped_updates": 7}), start=1):
        file = make_run("unitary", seed) / "config.yaml"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "agent": {**config["agent"], **more}}))
    (method,) = compare_runs([tmp_path / "runs"]).methods
    assert method.seeds == (1, 2, 3)


def test_another_algorithm_is_another_method(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    file = make_run("unitary", 1, name="other") / "config.yaml"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "agent": {**config["agent"], "algorithm": "unknown_here"}}))
    comparison = compare_runs([tmp_path / "runs"], baseline="unitary (algorithm=default)")
    assert len(comparison.methods) == 2
