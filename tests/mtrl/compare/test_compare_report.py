"""The report: what is in it, how long it takes, and that a browser shows it without asking any other host."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mtrl
from mtrl.cli import main
from mtrl.compare import compare_runs, write_report
from mtrl.compare.comparison import ENV_STEPS, SECONDS
from mtrl.errors import RunFolderError
from tests.mtrl.compare.browser import Page, find_browser, open_browser
from tests.mtrl.compare.conftest import MakeRun
from tests.mtrl.compare.made_up import write_run

FIGURES = {
    "scores",
    "differences",
    "curves-env-steps",
    "curves-wall-clock",
    "tasks",
    "profiles",
    "improvement",
    "weights",
    "conflict",
    "cost",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of three methods, one of them with hostile names and one seed short."""
    folder = tmp_path_factory.mktemp("report")
    for seed in range(1, 7):
        for balancer, level in (("unitary", 0.4), ("pcgrad", 0.7), ("<script>alert(1)</script>", 0.5)):
            if (balancer, seed) != ("pcgrad", 6):
                write_run(folder / "runs" / f"{balancer[:3]}{seed}", balancer, seed, level)
    return write_report(compare_runs([folder / "runs"]), folder / "out")


def test_the_page_is_self_contained(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") == len(FIGURES)
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert links
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert "@import" not in page
    assert "default-src 'none'" in page
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    for identifier in set(re.findall(r'href="#([^"]*)"', page) + re.findall(r"url\(#([^)]*)\)", page)):
        assert identifier in identifiers


def test_the_page_escapes_names(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_report_says_what_must_stand_in_it(report: Path, name: str) -> None:
    text = (report.parent / name).read_text(encoding="utf-8")
    for words in (
        "pcgrad",
        "better than unitary in final success",
        "pcgrad has 5 of 6 seeds: seed 6 missing",
        "Final and best success",
        "Probability of improvement",
        "reward_version",
        "python train.py balancer=unitary seed=3",
        "Not recorded by",
        "ms per update",
    ):
        assert words in text, words


def test_numbers_and_figures_lie_beside_the_page(report: Path) -> None:
    assert {path.stem for path in (report.parent / "figures").glob("*.png")} == FIGURES
    for path in (report.parent / "figures").iterdir():
        assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 20
    summary = pd.read_csv(report.parent / "data" / "summary.csv")
    assert set(summary.columns) >= {"method", "seeds", "final", "final_low", "final_high", "final_iqm", "best"}
    scores = pd.read_csv(report.parent / "data" / "scores.csv")
    assert len(scores) == 17 * 4
    assert scores.groupby("method")["final"].mean()["pcgrad"] == pytest.approx(
        summary.set_index("method").loc["pcgrad", "final"]
    )


def test_methods_without_weights_and_conflict_say_so(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("unitary", 1)
    page = write_report(mtrl.compare.compare_runs([tmp_path / "runs"]), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "No method has any other than 1 throughout" in text
    assert "so none records it" in text
    assert "One method only" in text
    assert not (tmp_path / "out" / "figures" / "weights.png").exists()


def test_a_report_never_replaces_a_run(make_run: MakeRun) -> None:
    folder = make_run("unitary", 1)
    with pytest.raises(RunFolderError, match="is a file or a run"):
        write_report(compare_runs([folder]), folder)


def test_the_command_writes_the_report_and_prints_the_verdict(
    two_methods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "report")
    assert main(["compare", str(two_methods), "--out", out, "--labels", "pcgrad=projection", "--worst", "2"]) == 0
    said = capsys.readouterr().out
    assert "projection is better than unitary in final success" in said
    assert "2 worst" in said
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "pcgrad"], "labels must be given as METHOD=NAME, found 'pcgrad'.\n"),
        (["--seed", "-1"], "seed must be at least 0, found -1.\n"),
        (["--worst", "5"], "worst must be between 1 and the 4 tasks, found 5.\n"),
        (["--baseline", "unitari"], "found 'unitari'; did you mean 'unitary'?\n"),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], said: str, two_methods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(two_methods), "--out", str(tmp_path / "report"), *arguments]) == 2
    assert capsys.readouterr().err.endswith(said)
    assert not (tmp_path / "report").exists()


def test_a_hundred_and_fifty_runs_take_seconds_and_not_minutes(tmp_path: Path) -> None:
    for method in range(15):
        name = "unitary" if method == 0 else f"method_{method}"
        for seed in range(10):
            write_run(tmp_path / "runs" / f"{name}-{seed}", name, seed, 0.3 + 0.04 * method, lines=40)
    started = time.process_time()  # of this process, since tests run side by side
    # The goal of 20 seconds (docs/performance.md) is for one machine; here the slowest must keep within the bound.
    write_report(compare_runs([tmp_path / "runs"]), tmp_path / "out")
    elapsed = time.process_time() - started
    assert elapsed < 60
    assert len(pd.read_csv(tmp_path / "out" / "data" / "improvement.csv")) == 15 * 14


# ---------------------------------------------------------------------- in a browser


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium or Chrome on the PATH (Debian: apt-get install chromium)")
    with open_browser(browser, tmp_path / "profile") as opened:
        yield opened


def test_the_page_renders_in_a_browser_and_asks_no_other_host(report: Path, page: Page, tmp_path: Path) -> None:
    page.open(report)
    assert [address for address in page.requests if not address.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.dataset.ready") == "yes"  # its script ran to the end
    sizes = page.evaluate("[...document.querySelectorAll('svg.figure')].map(s => s.getBoundingClientRect().height)")
    assert len(sizes) == len(FIGURES)
    assert min(sizes) > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    page.screenshot(tmp_path / "page.png")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100  # text and figures, not a blank sheet


def test_pointing_at_a_method_brings_it_forward(report: Path, page: Page) -> None:
    page.open(report)
    page.evaluate("document.querySelector('nav button[data-method=m1]').click()")
    opacities = "[...document.querySelectorAll('svg.figure g[id*=line-m{}]')].map(g => g.style.opacity)"
    assert set(page.evaluate(opacities.format(1))) == {""}
    assert set(page.evaluate(opacities.format(2))) == {"0.12"}


def test_a_request_to_another_host_would_be_seen(page: Page, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<img src='http://elsewhere.invalid/figure.png'>")
    page.open(tmp_path / "page.html")
    assert "http://elsewhere.invalid/figure.png" in page.requests


def rescale(run: Path, **factors: float) -> None:
    """Multiply what a run has recorded, as `wall_time` or `env_steps`."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.update({name: line[name] * factor for name, factor in factors.items()})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("methods", [2, 8])  # in one panel, and each in its own
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("slower", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("evaluations", [1, 5])
def test_a_method_of_another_speed_and_a_final_evaluation_alone_are_reported(
    make_run: MakeRun, tmp_path: Path, methods: int, seeds: int, slower: float, evaluations: int
) -> None:
    for number in range(methods):
        for seed in range(1, seeds + 1):
            run = make_run("unitary" if number == 0 else f"m{number}", seed, evaluations=evaluations, lines=4)
            rescale(run, wall_time=(slower if number == 0 else 1.0) * (1 + seed / 10))
    comparison = compare_runs([tmp_path / "runs"])
    for clock in (ENV_STEPS, SECONDS):
        assert set(comparison.curves(clock)["method"]) == {method.label for method in comparison.methods}
    if methods == 2 or (seeds, slower) == (2, 1e6):
        assert write_report(comparison, tmp_path / "out").exists()


@pytest.mark.parametrize("methods", [1, 2, 8])
def test_runs_that_were_never_measured_at_the_same_step_have_no_common_curve(
    make_run: MakeRun, tmp_path: Path, methods: int
) -> None:
    for number in range(methods):
        for seed in (1, 2):
            run = make_run("unitary" if number == 0 else f"m{number}", seed, evaluations=1, lines=4)
            rescale(run, env_steps=float(seed))
    comparison = compare_runs([tmp_path / "runs"], allow_mixed=True)
    assert comparison.curves(ENV_STEPS).empty and len(comparison.curves(SECONDS)) == methods
    assert write_report(comparison, tmp_path / "out").exists()
