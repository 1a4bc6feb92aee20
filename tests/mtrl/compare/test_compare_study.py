"""What a planned study asks: primary outcome, power, factors, failures, sizes, published results, protocols."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from mtrl.cli import main
from mtrl.compare import compare_runs, judge, split_by_protocol, write_report
from mtrl.compare.factorial import Design, estimate_effects, split_factors
from mtrl.compare.measures import area_under_curve
from mtrl.compare.power import Spread, detectable_difference, seeds_for, seeds_for_correction
from mtrl.compare.references import read_references
from mtrl.compare.tables import architecture_table, summary_table
from mtrl.errors import ConfigError
from tests.mtrl.compare.conftest import MakeRun

# ---------------------------------------------------------------------- the primary outcome


def test_the_area_of_a_line_from_zero_is_half_its_end() -> None:
    assert area_under_curve(np.array([25.0, 50.0, 100.0]), np.array([0.2, 0.4, 0.8])) == pytest.approx(0.4)
    assert area_under_curve(np.array([100.0]), np.array([0.8])) == pytest.approx(0.4)


@pytest.mark.parametrize("measure", ["worst", "auc", "per_minute"])
def test_the_verdict_speaks_of_the_declared_outcome(measure: str, two_methods: Path) -> None:
    comparison = compare_runs([two_methods], primary=measure)
    verdict = judge(comparison)
    words = comparison.primary_measure.words
    assert f"better than unitary in {words}" in verdict.headline
    assert "declared before the runs" in verdict.declared and words in verdict.declared
    assert words in verdict.change
    row = comparison.primary_differences.iloc[0]
    assert comparison.primary_measure.signed(row["difference"]) in summary_table(comparison).rows[0]


def test_without_a_declaration_final_success_leads_and_nothing_is_called_declared(two_methods: Path) -> None:
    verdict = judge(compare_runs([two_methods]))
    assert verdict.declared == ""
    assert "final success" in verdict.headline


def test_success_per_minute_needs_the_time_of_every_run(two_methods: Path) -> None:
    file = two_methods / "pcgrad-mtsac-3" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": {}}))
    table = compare_runs([two_methods]).differences.set_index("measure")
    assert (table.loc["per_minute", "seeds"], table.loc["final", "seeds"]) == (5, 6)
    with pytest.raises(ConfigError, match="needs the learning time of every run, and .*pcgrad-mtsac-3' has none"):
        compare_runs([two_methods], primary="per_minute")


# ---------------------------------------------------------------------- what the seeds can tell


@pytest.mark.parametrize("paired", [True, False])
def test_a_detectable_difference_is_found_four_times_in_five(paired: bool) -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.standard_normal((2, 4_000, 8))
    spread = Spread(paired, (1.0,) if paired else (1.0, 1.0), (8,) if paired else (8, 8))
    shift = detectable_difference(spread)
    if paired:
        p = reference.ttest_1samp(ours + shift, 0, axis=1).pvalue
    else:
        p = reference.ttest_ind(ours + shift, theirs, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.025)


def test_power_agrees_with_published_tables() -> None:
    """Cohen 1988, table 2.3.5: an effect of half a deviation takes 64 runs of each of two groups."""
    assert seeds_for(0.5, Spread(paired=False, deviations=(1.0, 1.0), runs=(5, 5))) == 64
    assert seeds_for(1e-9, Spread(paired=True, deviations=(1.0,), runs=(5,))) is None


def test_few_seeds_cannot_stand_correction_and_the_page_says_how_many_could(
    two_methods: Path, make_run: MakeRun
) -> None:
    for seed in range(1, 7):
        make_run("rlw", seed, 0.4)
    assert seeds_for_correction(1) == 6 and seeds_for_correction(2) == 7
    comparison = compare_runs([two_methods])
    assert "After correction for 2 comparisons none can be: that takes 7 seeds at least." in judge(comparison).change
    table = comparison.sensitivity.set_index("method")
    assert (table["corrected"] > table["detectable"]).all()
    assert table.loc["pcgrad", "detectable"] < 0.3 and table.loc["pcgrad", "needed"] <= 6


# ---------------------------------------------------------------------- two factors


def _made_design(a: float, b: float, both: float, seeds: int, noise: float, seed: int = 0) -> Design:
    """Effects `a`, `b` and interaction `both` on a level of 0.3, with the luck of every seed shared by all cells."""
    generator = np.random.default_rng(seed)
    cells = 0.3 + np.array([[0.0, b], [a, a + b + both]])[:, :, None]
    cells = cells + 0.2 * generator.standard_normal(seeds) + noise * generator.standard_normal((2, 2, seeds))
    methods = (("00", "01"), ("10", "11"))
    return Design(("first", "second"), (("off", "on"), ("none", "some")), cells, tuple(range(seeds)), methods)


def test_effects_without_noise_are_their_closed_form() -> None:
    table = estimate_effects(_made_design(0.2, 0.1, 0.06, 5, noise=0.0), np.random.default_rng(0))
    assert table["effect"].tolist() == ["main effect", "main effect", "interaction"]
    assert table["difference"].to_numpy() == pytest.approx(
        [0.23, 0.13, 0.06]
    )  # half of the interaction in each main one
    assert table["low"].to_numpy() == pytest.approx([0.23, 0.13, 0.06])


def test_intervals_hold_known_effects_as_often_as_they_say() -> None:
    held = np.zeros(3)
    for seed in range(120):
        table = estimate_effects(_made_design(0.2, 0.0, 0.1, 6, 0.1, seed), np.random.default_rng(seed))
        held += (table["low"] <= [0.25, 0.05, 0.1]) & (table["high"] >= [0.25, 0.05, 0.1])
    assert (held / 120 >= 0.88).all() and (held / 120).mean() == pytest.approx(0.95, abs=0.04)


def test_a_design_is_read_from_runs(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(1, 7):
        for agent, balancer, level in (
            ("plain", "unitary", 0.2),
            ("plain", "famo", 0.3),
            ("sound", "unitary", 0.7),
            ("sound", "famo", 0.5),
            ("sound", "rlw", 0.5),
        ):
            make_run(balancer, seed, level, agent=agent)
    comparison = compare_runs([tmp_path / "runs"], baseline="unitary (plain)", factors=("agent", "balancer"))
    design = comparison.design
    assert design is not None
    assert design.levels == (("plain", "sound"), ("unitary", "famo"))
    assert design.left_out == ("rlw",)
    found = comparison.effects.set_index("effect")["difference"]
    assert found["main effect"].tolist() == pytest.approx([0.35, -0.05], abs=0.05)
    assert found["interaction"] == pytest.approx(-0.3, abs=0.08)
    page = write_report(comparison, tmp_path / "out").read_text(encoding="utf-8")
    assert "agent: sound against plain" in page and "Left out for want of combinations: rlw" in page
    assert len(pd.read_csv(tmp_path / "out" / "data" / "effects.csv")) == 3


def test_a_design_that_cannot_be_made_is_one_sentence(two_methods: Path, make_run: MakeRun) -> None:
    with pytest.raises(
        ConfigError, match="factors must be two settings such as agent.critic,balancer, found 'balancer'"
    ):
        split_factors("balancer")
    with pytest.raises(ConfigError, match="found agent=mtsac in all"):
        compare_runs([two_methods], factors=("agent", "balancer"))
    with pytest.raises(ConfigError, match="found 'agent.tua'; did you mean 'agent.tau'"):
        compare_runs([two_methods], factors=("agent.tua", "balancer"))
    make_run("unitary", 1, agent="other")
    with pytest.raises(ConfigError, match="need every combination, found no run with agent=other and balancer=pcgrad"):
        compare_runs([two_methods], baseline="unitary (mtsac)", factors=("agent", "balancer"))


# ---------------------------------------------------------------------- what stands beside every method


def test_failures_are_counted_also_where_another_try_succeeded(two_methods: Path, make_run: MakeRun) -> None:
    make_run("pcgrad", 7, status="failed")
    make_run("unitary", 1, name="unitary-mtsac-1.failed-1", status="failed")
    make_run("unitary", 1, name="unitary-mtsac-1.interrupted-1", status="interrupted")
    comparison = compare_runs([two_methods])
    assert comparison.summary.set_index("method")["failures"].to_dict() == {"pcgrad": 1, "unitary": 1}
    assert any("Runs failed: pcgrad 1 and unitary 1." in line for line in judge(comparison).caution)


def test_each_side_of_an_agent_is_named_plainly(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    make_run("fairgrad", 1, actor="pcgrad")
    make_run("fairgrad", 1, name="one")
    labels = [method.label for method in compare_runs([tmp_path / "runs"]).methods]
    assert labels == ["critic: fairgrad, actor: pcgrad", "fairgrad", "unitary"]


def test_parameters_stand_beside_methods_and_group_them_by_architecture(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1, 0.3, parameters={"actor": 12_345, "critic": 67_890})
    make_run("famo", 1, 0.9, network="moore", name="a")
    make_run("unitary", 1, 0.6, network="moore", name="b", parameters={"actor": 1, "critic": 2})
    comparison = compare_runs([tmp_path / "runs"], baseline="unitary (mlp)")
    assert {method.network for method in comparison.methods} == {"mlp", "moore"}
    rows = {row[0]: row for row in summary_table(comparison).rows}
    assert rows["unitary (mlp)"][-3:-1] == ["12,345", "67,890"]
    assert rows["famo"][-3:-1] == ["\N{EN DASH}"] * 2  # of a run that did not record them
    grouped = architecture_table(comparison)
    assert [row[0] for row in grouped.rows] == ["moore", "moore", "mlp"]
    assert [row[3] for row in grouped.rows] == ["famo", "unitary (moore)", "unitary (mlp)"]


def test_a_control_of_equal_size_is_named_for_what_it_matches(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    file = make_run("unitary", 1, name="control") / "config.yaml"
    config = json.loads(file.read_text())
    config["network"]["options"] = {"match": "moore"}
    file.write_text(json.dumps(config))
    methods = compare_runs([tmp_path / "runs"], baseline="unitary (match=default)").methods
    assert {method.network for method in methods} == {"mlp", "mlp as large as moore"}


# ---------------------------------------------------------------------- published results


def test_published_results_say_whose_they_are_and_enter_no_number(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run("unitary", seed, protocol={"suite": "mt10"})
        make_run("famo", seed, protocol={"suite": "mt10"})
    plain = compare_runs([tmp_path / "runs"])
    beside = compare_runs([tmp_path / "runs"], reference="bests")
    pd.testing.assert_frame_equal(plain.differences, beside.differences)
    page = write_report(beside, tmp_path / "out").read_text(encoding="utf-8")
    for words in ("Other people's numbers under other people's protocols", "arXiv 2505.23150", "horizon 200", "TOPPO"):
        assert words in page.replace("&#39;", "'")
    assert (tmp_path / "out" / "figures" / "references.png").exists()


def test_every_published_result_has_a_source_a_protocol_and_possible_numbers() -> None:
    for reference_ in read_references("bests"):
        assert "arXiv" in reference_.source or "OpenReview" in reference_.source
        assert len(reference_.protocol) > 20
        steps, success = zip(*reference_.success, strict=True)
        assert list(steps) == sorted(set(steps)) and steps[0] > 0 and steps[-1] <= 2_000_000
        assert all(0 < value <= 1 for value in success)
        assert reference_.suite in ("mt10", "mt50")
    with pytest.raises(ConfigError, match="found 'best'; did you mean 'bests'"):
        read_references("best")


# ---------------------------------------------------------------------- several protocols


def test_protocols_stand_side_by_side_and_no_number_is_over_two(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(1, 6):
        for suite, shift in (("mt10", 0.0), ("pointmass", 0.4)):
            for balancer, level in (("unitary", 0.5), ("famo", 0.3 + shift)):
                make_run(balancer, seed, level, name=f"{suite}-{balancer}-{seed}", protocol={"suite": suite})
    make_run("unitary", 1, name="short", protocol={"suite": "mt10", "env_steps": 1000})
    make_run("famo", 1, name="short-famo", protocol={"suite": "mt10", "env_steps": 1000})
    parts, left_out = split_by_protocol([tmp_path / "runs"])
    assert [part.title for part in parts] == ["mt10 (env steps 1,000)", "mt10 (env steps 200,000)", "pointmass"]
    assert [len(part.folders) for part in parts] == [2, 10, 10] and left_out == []
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "runs"), "--by-protocol", "--reference", "bests", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "famo is worse than unitary" in said and "famo is better than unitary" in said
    assert "No published result of 'bests' is of pointmass." in said
    page, text = (out / "report.html").read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")
    for written in (page, text):
        assert "No number on this page is taken over runs of two protocols" in written
        assert "worse" in written and "better" in written
    family = pd.read_csv(out / "primary.csv")  # corrected over all parts, each with its own difference
    assert len(family) == 3
    smallest = family["p"].min()
    assert family.loc[family["p"] == smallest, "p_holm"].iloc[0] == pytest.approx(min(3 * smallest, 1))
    for link in ("pointmass/report.html", "mt10__env_steps_200_000_/report.html"):
        assert link in page and (out / link).exists()
