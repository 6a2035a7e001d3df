"""Two runs compared as a page: verdicts, and flipped episodes with the videos of both side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from arena_ray import RunResult, compare, evaluate
from arena_ray.cli import run_command
from tests.report.pages import COMPARISON_DATA, Cells, data_of
from tests.report.test_report_in_browser import Page, brightness

RECORDED = {"record_viewport_video": True, "record_camera_video": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, RunResult]:
    """Two policies, of which the second succeeds less often, on the same seeds."""
    base = tmp_path_factory.mktemp("runs")
    results = []
    for level in (0.6, -0.4):
        job = {
            "name": "judged",
            "env": {"entry_point": "tests.report.judged:Judged"},
            "policy": {"entry_point": "tests.report.judged:Level", "kwargs": {"level": level}},
            "num_episodes": 20,
            "video": RECORDED,
        }
        results.append(evaluate({"jobs": [job]}, inline=True, video_base_dir=str(base)))
    return results[0], results[1]


@pytest.fixture(scope="module")
def written(runs: tuple[RunResult, RunResult]) -> Path:
    """The page, in a folder beside the runs'."""
    path = runs[0].run_dir.parent / "pages" / "compare.html"
    path.parent.mkdir()
    words = ["compare", *(str(run.run_dir) for run in runs), "--html", str(path)]
    assert run_command(words) == 0
    return path


def test_it_says_what_the_terminal_says(runs: tuple[RunResult, RunResult], written: Path) -> None:
    comparison, html = compare(*runs), written.read_text()
    assert comparison.flipped
    content = data_of(html, COMPARISON_DATA)
    assert content["jobs"]["judged"]["success_rate"] == comparison.jobs["judged"]["success_rate"].to_json()
    texts = [text for _, _, text in Cells(html, "verdicts").cells]
    assert texts[8:11] == ["judged", "success", "20"]
    assert texts[15] == (comparison.jobs["judged"]["success_rate"].verdict or "").replace("_", " ")
    assert "B is worse" in html
    flips = {(flip["job"], flip["episode"], flip["a"]["success"], flip["b"]["success"]) for flip in content["flips"]}
    assert flips == {(flip.job, flip.episode, flip.a, flip.b) for flip in comparison.flipped}


def test_videos_are_those_of_both_runs(runs: tuple[RunResult, RunResult], written: Path) -> None:
    comparison = compare(*runs)
    shown = {flip["episode"]: flip for flip in data_of(written.read_text(), COMPARISON_DATA)["flips"]}
    for flip in comparison.flipped:
        for side, paths in zip(("a", "b"), comparison.videos(flip), strict=True):
            listed = [video[1] for video in shown[flip.episode][side]["videos"]]
            assert [(written.parent / path).resolve() for path in listed] == [path.resolve() for path in paths]
            assert all(path.startswith("../") for path in listed)


def test_runs_that_are_not_comparable_make_a_page_too(runs: tuple[RunResult, RunResult], tmp_path: Path) -> None:
    job = {"name": "other", "env": {"id": "CartPole-v1"}, "policy": {"type": "random"}, "num_episodes": 2}
    other = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    path = tmp_path / "compare.html"
    assert run_command(["compare", str(runs[0].run_dir), str(other.run_dir), "--html", str(path)]) == 0
    assert "Not comparable" in path.read_text()


def test_a_file_that_cannot_be_written_is_bad_input(
    runs: tuple[RunResult, RunResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", *(str(run.run_dir) for run in runs), "--html", str(tmp_path / "nowhere" / "x.html")]
    assert run_command(words) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.fixture
def page(browser: webdriver.Chrome, written: Path) -> Iterator[Page]:
    page = Page(browser)
    page.open(written.as_uri())
    yield page
    assert not page.problems()


@pytest.mark.heavy
def test_flipped_episodes_play_side_by_side_and_in_step(page: Page, runs: tuple[RunResult, RunResult]) -> None:
    flips = compare(*runs).flipped
    assert page.found() == f"{len(flips)} of {len(flips)} episodes"
    page.browser.find_element(By.CSS_SELECTOR, "#grid [data-place='0']").click()
    page.videos_ready()
    captions = page.js("return [...document.querySelectorAll('dialog figcaption')].map((one) => one.textContent)")
    assert captions[:2] == ["A · viewport · success", "B · viewport · failure"]
    assert [caption.split(" · ")[1] for caption in captions] == ["viewport", "viewport", "front", "front"]
    page.js("arena.page.player.seek(0.55)")
    seen = page.until(lambda: brightness(page))
    assert seen == pytest.approx([20] * 4, abs=4)
    page.press(Keys.END)  # The shorter one rests at its last frame.
    shown = page.until(lambda: (now := brightness(page)) and now[1] > 60 and now)
    assert shown == pytest.approx([40, 80, 40, 80], abs=6)
    page.press("j")
    assert "2 of" in page.browser.find_element(By.CSS_SELECTOR, "dialog header").text
    page.press(Keys.ESCAPE)


@pytest.mark.heavy
def test_flips_can_be_narrowed_to_one_direction(page: Page, runs: tuple[RunResult, RunResult]) -> None:
    select = Select(page.browser.find_element(By.ID, "filter-way"))
    for way, wanted in (("better", True), ("worse", False)):
        select.select_by_value(way)
        number = sum(flip.b is wanted for flip in compare(*runs).flipped)
        assert page.found().startswith(f"{number} of ")
    assert page.js("return document.querySelectorAll('#differences svg [aria-label=dot] *').length") == 1
