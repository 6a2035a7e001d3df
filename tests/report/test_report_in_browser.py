"""The page in a real Chromium: filters, keys, videos in step, what is new by itself; hostile texts stay texts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pandas
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from arena_ray import RunResult, evaluate
from arena_ray.report.page import write_report
from tests.report.hostile import CAMERA, MARKUP
from tests.report.serving import serving
from tests.test_stop_when import run as run_jobs
from tests.test_stop_when import sure_job
from tests.worlds import walk_job

pytestmark = pytest.mark.heavy


class Page:
    """A page that is open."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def open(self, address: str, part: str = "") -> None:
        self.browser.get("about:blank")  # Another part of the same page would not load it anew.
        self.problems()
        self.browser.get(f"{address}#/{part}")
        self.until(lambda: self.js("return document.readyState === 'complete'"))

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, true: Callable[[], Any], timeout_s: float = 15.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := true()):
            assert time.monotonic() < deadline, "it did not come to be"
            time.sleep(0.03)
        return found

    def found(self) -> str:
        return self.browser.find_element(By.ID, "found").text

    def shown(self) -> list[str]:
        """Job and index of the episodes that pass the filters, in order."""
        keys: list[str] = self.js("return arena.page.shown.map((episode) => episode.key)")
        return keys

    def select(self, name: str, value: str) -> None:
        Select(self.browser.find_element(By.ID, f"filter-{name}")).select_by_value(value)

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def until_open(self, title: str) -> None:
        """Wait until an episode is shown; its address changes first, and the page follows."""
        self.until(
            lambda: self.js("return document.getElementById('episode-title')?.textContent ?? ''").startswith(title)
        )

    def times(self) -> list[float]:
        """Where the videos of the open episode are, seconds."""
        times: list[float] = self.js(
            "return [...document.querySelectorAll('dialog video')].map((one) => one.currentTime)"
        )
        return times

    def videos_ready(self) -> None:
        self.until(
            lambda: self.js(
                "const all = [...document.querySelectorAll('dialog video')];"
                "return all.length && all.every((one) => one.readyState >= 2)"
            )
        )

    def problems(self) -> list[str]:
        told = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [line["message"] for line in told if line["level"] == "SEVERE"]


@pytest.fixture
def page(browser: webdriver.Chrome) -> Iterator[Page]:
    page = Page(browser)
    yield page
    assert not page.problems()


@pytest.fixture
def address(run: RunResult) -> str:
    return (run.run_dir / "report.html").as_uri()


@pytest.fixture(scope="module")
def frame(run: RunResult) -> pandas.DataFrame:
    return run.to_pandas()


def test_the_overview_plots_every_job_that_has_data(page: Page, address: str, run: RunResult) -> None:
    page.open(address)
    assert page.js("return document.querySelectorAll('#jobs-plot svg [aria-label=dot] *').length") == 2
    text = page.browser.find_element(By.ID, "jobs-plot").text
    assert all(name in text for name in run.jobs)
    Select(page.browser.find_element(By.ID, "plot-metric")).select_by_value("return")
    assert page.js("return document.querySelectorAll('#jobs-plot svg [aria-label=dot] *').length") == 3
    Select(page.browser.find_element(By.ID, "plot-group")).select_by_value("suite")
    assert page.js("return document.querySelectorAll('#jobs-plot svg [aria-label=dot] *').length") == 4
    assert "walks" in page.browser.find_element(By.ID, "jobs-plot").text


def test_figures_of_a_job_are_those_of_pandas(page: Page, address: str, frame: pandas.DataFrame) -> None:
    page.open(address, "episodes?job=reach")
    done = frame[(frame["job"] == "reach") & (frame["status"] == "completed")]
    shown = page.js(
        "return [...document.querySelectorAll('#job-figures [data-metric]')]"
        ".map((tile) => [tile.dataset.metric, Number(tile.dataset.value), tile.querySelector('b').textContent])"
    )
    figures = {name: (value, text) for name, value, text in shown}
    assert figures["success_rate"][0] == pytest.approx(done["success"].astype(float).mean())
    assert figures["return"][0] == pytest.approx(done["return"].mean())
    assert figures["length"][0] == pytest.approx(done["length"].mean())
    assert figures["distance"][0] == pytest.approx(done["metrics.distance"].mean())
    assert figures["success_rate"][1] == f"{100 * done['success'].astype(float).mean():.3g} %"
    assert float(page.js("return document.getElementById('job-progress').dataset.last")) == figures["success_rate"][0]
    bars = page.js("return document.querySelectorAll('#job-return svg [aria-label=rect] *').length")
    assert bars > 1


def test_filters_let_through_what_pandas_would(page: Page, address: str, frame: pandas.DataFrame) -> None:
    page.open(address, "episodes")
    assert page.found() == "28 of 28 episodes"
    counts = {
        "error": (frame["status"] == "error").sum(),
        "failure": (frame["success"] == False).sum(),  # noqa: E712
        "success": (frame["success"] == True).sum(),  # noqa: E712
    }
    chips = page.browser.find_elements(By.CSS_SELECTOR, "#filter-outcomes .chip")
    texts = {chip.text.split()[1]: int(chip.text.split()[-1]) for chip in chips}
    assert {name: texts[name] for name in counts} == counts
    assert page.shown()[0] == "reach/3"
    chips[1].click()
    assert page.found() == f"{counts['failure']} of 28 episodes"
    page.select("job", "push")
    wanted = frame[(frame["job"] == "push") & (frame["success"] == False)]  # noqa: E712
    assert page.shown() == [f"push/{episode}" for episode in wanted["episode"]]
    page.browser.find_element(By.ID, "filter-reset").click()
    assert page.found() == "28 of 28 episodes"
    page.select("camera", "1")
    assert {key.split("/")[0] for key in page.shown()} == {"reach"}
    page.select("camera", "")
    page.select("tag", '["suite","walks"]')
    assert page.found() == "23 of 28 episodes"
    page.select("tag", "")
    for words, number in (("red door", 14), ("poisoned", 1), (str(frame["seed"][5]), None), ("nothing at all", 0)):
        field = page.browser.find_element(By.ID, "filter-text")
        field.clear()
        field.send_keys(words)
        expected = number if number is not None else (frame["seed"] == frame["seed"][5]).sum()
        assert page.found() == f"{expected} of 28 episodes"
    assert page.browser.find_element(By.ID, "nothing").text == "No episode passes these filters."


def test_a_filter_is_part_of_the_address(page: Page, address: str) -> None:
    page.open(address, "episodes?job=push&outcome=success&order=episode")
    keys = page.shown()
    assert keys
    assert all(key.startswith("push/") for key in keys)
    page.browser.refresh()
    assert page.shown() == keys


def test_orders(page: Page, address: str, frame: pandas.DataFrame) -> None:
    page.open(address, "episodes?job=push")
    push = frame[frame["job"] == "push"]
    for order, key, ascending in (("low-return", "return", True), ("long", "length", False)):
        page.select("order", order)
        places = page.js(f"return arena.page.shown.map((episode) => episode['{key}'])")
        assert places == sorted(push[key], reverse=not ascending)


def test_keys_lead_through_the_episodes(page: Page, address: str) -> None:
    page.open(address, "episodes")
    keys = page.shown()
    page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ARROW_RIGHT)
    assert page.js("return document.activeElement.dataset.place") == "1"
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(Keys.ENTER)
    job, episode = keys[1].split("/")
    page.until_open(f"{job} · episode {episode} ")
    page.press("j")
    job, episode = keys[2].split("/")
    page.until_open(f"{job} · episode {episode} ")
    page.press("k")
    page.press("k")
    page.until_open("reach · episode 3 ")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.js("return document.getElementById('episode').open"))
    page.until(lambda: page.js("return document.activeElement.dataset.place") == "0")
    page.press("/")
    page.until(lambda: page.js("return document.activeElement.id") == "filter-text")


def test_cameras_play_and_are_sought_in_step(page: Page, address: str, run: RunResult) -> None:
    longest = max((r for r in run.jobs["reach"].episodes if r.status == "completed"), key=lambda r: r.length or 0)
    page.open(address, f"episode/reach/{longest.episode}")
    page.videos_ready()
    captions = page.js("return [...document.querySelectorAll('dialog figcaption')].map((one) => one.textContent)")
    assert captions == ["viewport", "front", "wrist"]
    duration_s = page.js("return document.querySelector('dialog video').duration")
    assert duration_s == pytest.approx(longest.videos[0].frames / longest.videos[0].fps, abs=0.06)
    page.press(Keys.SPACE)
    page.until(lambda: min(page.times()) > 0.3)
    moving = page.times()
    assert max(moving) - min(moving) < 0.2
    page.press(Keys.SPACE)
    page.until(lambda: page.js("return [...document.querySelectorAll('dialog video')].every((one) => one.paused)"))
    page.until(lambda: max(page.times()) - min(page.times()) < 0.03)
    page.js("arena.page.dialog.player.seek(arguments[0])", duration_s / 2)
    assert page.times() == pytest.approx([duration_s / 2] * 3, abs=0.01)
    seen = page.until(lambda: brightness(page))
    assert max(seen) - min(seen) < 3
    page.press(Keys.END)
    assert "frame" in page.browser.find_element(By.CSS_SELECTOR, "dialog .clock").text
    at_end = page.until(lambda: (shown := brightness(page)) and shown[0] > seen[0] + 10 and shown)
    assert at_end[0] == pytest.approx(min(255, 4 * (longest.videos[0].frames - 1)), abs=6)
    page.press(Keys.HOME)
    webdriver.ActionChains(page.browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert page.browser.find_element(By.CSS_SELECTOR, "dialog .clock").text.endswith("frame 1")


def brightness(page: Page) -> list[float] | None:
    """How bright the pictures are that one sees: the environment's frames are gray at 4 x step."""
    if page.js("return [...document.querySelectorAll('dialog video')].some((video) => video.seeking)"):
        return None
    pictures = [video.screenshot_as_png for video in page.browser.find_elements(By.CSS_SELECTOR, "dialog video")]
    return [middle(np.asarray(iio.imread(picture, extension=".png"))) for picture in pictures]


def middle(picture: Any) -> float:
    height, width = picture.shape[:2]
    return float(picture[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4, :3].mean())


def test_a_served_video_is_sought_in(page: Page, run: RunResult) -> None:
    longest = max((r for r in run.jobs["reach"].episodes if r.status == "completed"), key=lambda r: r.length or 0)
    with serving(run.run_dir) as (address, _):
        page.open(address, f"episode/reach/{longest.episode}")
        page.videos_ready()
        for frame in (5, 20, 1):
            page.js("arena.page.dialog.player.seek(arguments[0])", (frame + 0.5) / 10)
            seen = page.until(lambda: brightness(page))
            assert seen == pytest.approx([4 * frame] * 3, abs=5)
        page.browser.get("about:blank")


def test_only_what_is_seen_exists(page: Page, address: str) -> None:
    page.open(address, "episodes")
    page.until(
        lambda: page.js("return [...document.querySelectorAll('#grid video')].some((one) => one.readyState > 1)")
    )
    assert page.js("return document.querySelectorAll('#grid > *').length") <= 28
    page.select("form", "list")
    assert page.js("return document.querySelectorAll('#grid video').length") == 0
    page.select("form", "videos")


def test_new_episodes_appear_while_a_run_goes_on(page: Page, tmp_path: Path) -> None:
    job = walk_job("live", num_episodes=30, env_kwargs={"step_s": 0.03, "max_length": 12})
    gate: dict[str, Any] = {}

    def go() -> None:
        gate["result"] = evaluate({"jobs": [job]}, inline=True, chunk_size=5, video_base_dir=str(tmp_path))

    thread = threading.Thread(target=go)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not (found := list(tmp_path.glob("*/run.json"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        with serving(found[0].parent) as (address, _):
            page.open(address, "episodes?order=episode")
            page.until(lambda: page.js("return window.first = document.querySelector('#grid article')"))
            counts = set()

            def complete() -> bool:
                counts.add(page.js("return arena.page.model.episodes.length"))
                return bool(page.js("return arena.page.model.status === 'completed'"))

            page.until(complete, timeout_s=40)
            page.until(lambda: page.found() == "30 of 30 episodes")
            assert len(counts) > 2
            assert page.js("return window.first.isConnected")  # What was seen already was not made again.
            assert page.browser.find_element(By.CSS_SELECTOR, "[data-fragment=status] .badge").text == "completed"
            page.js("location.hash = '#/'")
            rate = page.browser.find_element(By.CSS_SELECTOR, "#jobs-table [data-metric=success_rate]")
            assert float(rate.get_attribute("data-value") or "nan") == gate_rate(gate, thread)
            page.browser.get("about:blank")
    finally:
        thread.join(timeout=60)


def gate_rate(gate: dict[str, Any], thread: threading.Thread) -> float | None:
    thread.join(timeout=60)
    rate: float | None = gate["result"].jobs["live"].metrics["success_rate"].value
    return rate


@pytest.mark.parametrize("live", [pytest.param(False, id="file"), pytest.param(True, id="served")])
def test_hostile_texts_stay_texts(page: Page, hostile: RunResult, live: bool) -> None:
    if live:
        with serving(hostile.run_dir) as (address, _):
            look_everywhere(page, address)
            page.js("arena.page.model.stamp = 'make the server tell everything again'")
            page.until(lambda: page.js("return arena.page.model.stamp[0] !== 'm'"))
            look_everywhere(page, address)
            page.browser.get("about:blank")
    else:
        look_everywhere(page, write_report(hostile.run_dir).as_uri())


def look_everywhere(page: Page, address: str) -> None:
    for part in ("", "episodes?job=hostile", "errors", "timeline", "about", "episode/hostile/1"):
        page.open(address, part)
        assert page.js("return window.hacked") is None
        assert page.js("return document.querySelectorAll('img').length") == 0
    assert MARKUP in page.js("return document.querySelector('dialog').textContent")
    page.open(address, "errors")
    assert MARKUP in page.js("return document.getElementById('errors').textContent")
    page.open(address, "episodes")
    assert CAMERA in page.js("return document.getElementById('filter-camera').textContent")


def test_without_javascript_it_is_a_plain_table(page: Page, address: str, run: RunResult) -> None:
    page.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.browser.get("about:blank")
        page.browser.get(address)
        body = page.browser.find_element(By.TAG_NAME, "body").text
        lines = page.browser.find_elements(By.CSS_SELECTOR, "#plain-episodes tbody tr")
        assert len(lines) == 28
        assert lines[0].is_displayed()
        rate = run.jobs["reach"].metrics["success_rate"].value
        assert rate is not None
        assert f"{100 * rate:.3g} %" in body
        assert "Where the time went" in body
        assert "poisoned step" in body
        assert not page.browser.find_element(By.ID, "filters").is_displayed()
        video = page.browser.find_element(By.CSS_SELECTOR, "#plain-episodes a").get_attribute("href")
        assert video is not None
        assert video.endswith(".mp4")
    finally:
        page.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", [pytest.param(360, id="narrow"), pytest.param(1400, id="wide")])
def test_nothing_is_wider_than_the_window(page: Page, address: str, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for part in ("", "episodes?job=reach", "episodes?form=list", "errors", "timeline", "about", "episode/reach/3"):
            page.open(address, part)
            assert page.js("return document.documentElement.scrollWidth") <= width, part
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_that_can_be_used_has_a_name(page: Page, address: str) -> None:
    page.open(address, "episode/reach/0")
    unnamed = page.js("""
        return [...document.querySelectorAll('button, select, input, dialog, nav, section, [role]')].filter((one) =>
          !one.getAttribute('aria-label') && !one.getAttribute('aria-labelledby') && !one.textContent.trim() &&
          !(one.labels && one.labels.length)).map((one) => one.outerHTML.slice(0, 100))""")
    assert unnamed == []


def test_a_job_that_stopped_shows_what_counts(browser: webdriver.Chrome, tmp_path: Path) -> None:
    result = run_jobs(tmp_path, sure_job(), chunk_size=50)
    (job,) = result.jobs.values()
    assert job.stopped is not None
    assert job.stopped.beyond > 0
    page = Page(browser)
    page.open(result.run_dir.joinpath("report.html").as_uri())
    assert f"sure after {job.stopped.at}" in browser.find_element(By.ID, "jobs-table").text
    page.open(result.run_dir.joinpath("report.html").as_uri(), "episodes")
    assert sorted(page.shown()) == sorted(f"{job.name}/{index}" for index in range(job.stopped.at))
