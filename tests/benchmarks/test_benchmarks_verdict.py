"""The study: its blocks can be made from nothing, skip what is finished, and report from small files alone."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks.verdict import __main__ as command
from benchmarks.verdict import design
from benchmarks.verdict.design import BLOCKS, CONDITIONED, METHODS, PILOT_SEEDS, SUITES, Block, find_blocks
from benchmarks.verdict.report import keep_small_files, write_study
from benchmarks.verdict.runs import Study, make, plan, rank
from mtrl.compose import compose
from mtrl.run_folder import FINISHED

TINY = (
    *("env.steps_per_task=60", "network.hidden_sizes=[8]", "evaluation.episodes=1", "evaluation.final_episodes=2"),
    *("agent.samples_per_task=4", "evaluation.horizon=20", "evaluation.every_env_steps=120"),
)
PROTOCOL = Path(design.__file__).resolve().parents[2] / "docs" / "results" / "verdict" / "protocol.md"


def _block(*methods: str, **changes: object) -> Block:
    return Block("small", "pointmass", (CONDITIONED["mtsac"],), (1, 2), methods, **changes)  # type: ignore[arg-type]


def test_pilot_seeds_are_in_no_other_block() -> None:
    for block in BLOCKS:
        assert block.pilot or not set(block.seeds) & set(PILOT_SEEDS)
    pilots = [Study(Path("runs")).place(block) for block in BLOCKS if block.pilot]
    assert not set(pilots) & {Study(Path("runs")).place(block) for block in BLOCKS if not block.pilot}


def test_the_protocol_declares_what_the_code_runs() -> None:
    text = PROTOCOL.read_text(encoding="utf-8")
    places = [text.index(f"| `{block.name}` |") for block in BLOCKS]
    assert places == sorted(places)
    for suite in SUITES.values():
        budgets = " | ".join(f"{suite.steps_per_task[name]:,}" for name in ("mtsac", "mtppo"))
        assert f"| {budgets} |" in next(line for line in text.splitlines() if line.startswith(f"| `{suite.name}` |"))
    for agent in design.PLAIN.values():
        assert " ".join(agent.settings) in text
    for overrides in METHODS.values():
        assert overrides[0].partition("=")[2] in text


@pytest.mark.parametrize("suite", ["pointmass", "five"])
def test_every_method_composes_with_every_agent(suite: str) -> None:
    """As far as a config can be checked without its suite; the identity tells every run from every other."""
    for agents in (design.CONDITIONED, design.PLAIN):
        for agent in agents.values():
            block = Block("all", suite, (agent,), (1,), tuple(METHODS))
            configs = [compose(list(one)) for one in design.points(block, agent, block.methods, block.seeds)]
            assert len({config.identity() for config in configs}) == len(METHODS)
            assert {config.agent.name for config in configs} == {agent.name}
            if suite == "pointmass":
                for config in configs:
                    config.make_suite()


def test_a_block_is_made_from_nothing_skips_what_is_finished_and_reports(tmp_path: Path) -> None:
    study, block = Study(tmp_path / "runs", extra=TINY), _block("unitary", "pcgrad")
    planned = plan(study, block)
    assert [one.point.config.seed for one in planned] == [1, 1, 2, 2]  # whole seeds first
    assert make(planned[:3]) == 0
    ended = {one.run.path: one.run.record["ended"] for one in planned[:3]}
    assert make(planned) == 0
    assert {one.run.status for one in planned} == {FINISHED}
    assert {path: one.run.record["ended"] for one in planned[:3] if (path := one.run.path)} == ended
    assert sorted(rank(study, block, block.agents[0])) == ["pcgrad", "unitary"]

    out = tmp_path / "out"
    keep_small_files(planned, out / "data" / "pointmass")
    shutil.rmtree(tmp_path / "runs")
    page = write_study(out)
    assert page == out / "report" / "report.html"
    assert "pcgrad" in page.read_text(encoding="utf-8")
    assert pd.read_csv(out / "report" / "primary.csv")["method"].tolist() == ["pcgrad"]
    assert pd.read_csv(out / "core-hours.csv")["runs"].tolist() == [4]
    for folder in (out / "data" / "pointmass").iterdir():
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert record["command"].startswith("python train.py env=pointmass")
        assert str(tmp_path) not in "".join(file.read_text(encoding="utf-8") for file in folder.iterdir())
        assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["runs_dir"] == "runs"
        assert sum(file.stat().st_size for file in folder.iterdir()) < 50_000


def test_a_run_that_fails_is_counted_and_ends_no_other(tmp_path: Path) -> None:
    study = Study(tmp_path / "runs", extra=(*TINY, "balancer.options.weights=[1,1,1]"))
    METHODS["static"] = ("balancer=static",)
    try:
        planned = plan(study, _block("static"))
    finally:
        del METHODS["static"]
    assert make(planned) == 2  # of four tasks


def test_a_block_waits_for_its_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="block five-screen must be finished first"):
        plan(Study(tmp_path), find_blocks(name="mt10-main")[0])
    with pytest.raises(SystemExit):
        command.main(["--block", "mt10-mian"])
    assert "block must be one of pointmass-pilot" in capsys.readouterr().err
