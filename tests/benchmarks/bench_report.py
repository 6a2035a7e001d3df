"""How a page of 10,000 episodes loads and scrolls in Chromium, and how large it is.

``python -m tests.benchmarks.bench_report [EPISODES]`` prints a table, and the same as JSON in the last line. The
records are made up, with four videos each whose files do not exist: what is measured is the page, not the decoder.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver

from arena_ray import evaluate
from arena_ray.report.page import write_page
from arena_ray.report.run_reader import RunReader
from tests.browsing import chromium

EPISODES, JOBS, REPEATS = 10_000, 20, 3
CAMERAS = ("front", "wrist", "overhead")

LOADED = """
const done = arguments[0], timing = performance.getEntriesByType('navigation')[0];
const tell = () => requestAnimationFrame(() => setTimeout(() => done({
  dom_ms: timing.domContentLoadedEventEnd, load_ms: timing.loadEventEnd, ready_ms: performance.now(),
  episodes: arena.page.model.episodes.length, elements: document.querySelectorAll('*').length})));
document.readyState === 'complete' ? tell() : addEventListener('load', () => setTimeout(tell));
"""

SCROLL = """
const done = arguments[0], frames = [], most = document.documentElement.scrollHeight - innerHeight;
let before = performance.now(), began = before, cards = 0;
const step = (now) => {
  frames.push(now - before);
  before = now;
  cards = Math.max(cards, document.querySelectorAll('#grid > *').length);
  scrollTo(0, most * Math.min(1, (now - began) / 4000));
  now - began < 4000 ? requestAnimationFrame(step) : done({frames: frames.slice(2), cards, height: most});
};
requestAnimationFrame(step);
"""

FILTER = """
const field = document.getElementById('filter-text'), began = performance.now();
field.value = arguments[0];
field.dispatchEvent(new Event('input'));
return performance.now() - began;
"""


def make_run(base: Path, episodes: int) -> Path:
    """Run a few episodes, and make many records of their kind."""
    jobs = [
        {
            "name": f"task-{number:02}-a-name-of-usual-length",
            "env": {"id": "CartPole-v1"},
            "policy": {"type": "random"},
            "num_episodes": episodes // JOBS,
            "tags": {"suite": f"suite-{number % 4}"},
        }
        for number in range(JOBS)
    ]
    run_dir = evaluate({"jobs": jobs}, overrides=["*:num_episodes=2"], inline=True, video_base_dir=str(base)).run_dir
    run = json.loads((run_dir / "run.json").read_text())
    for job in run["jobs"]:
        job["num_episodes"] = episodes // JOBS
    (run_dir / "run.json").write_text(json.dumps(run))
    (run_dir / "summary.json").unlink()
    first = json.loads((run_dir / "episodes.jsonl").read_text().splitlines()[0])
    random = np.random.default_rng(0)
    with (run_dir / "episodes.jsonl").open("w") as file:
        for episode in range(episodes // JOBS):
            for job in jobs:
                file.write(json.dumps(record(first, str(job["name"]), episode, random)) + "\n")
    return run_dir


def record(first: dict[str, Any], job: str, episode: int, random: np.random.Generator) -> dict[str, Any]:
    """Return a record as the first one."""
    names = [("viewport", None), *(("camera", camera) for camera in CAMERAS)]
    stems = [f"viewport-env0-episode-{episode}", *(f"robot-cam-env0-{name}-episode-{episode}" for name in CAMERAS)]
    videos = [
        {"kind": kind, "camera": camera, "path": f"{job}/{stem}.mp4", "frames": 200, "fps": 30.0, "bytes": 90_000}
        for (kind, camera), stem in zip(names, stems, strict=True)
    ]
    seed, length = int(random.integers(2**31)), int(random.integers(20, 500))
    found = {"success": bool(random.random() < 0.6), "return": float(random.normal(50, 20)), "length": length}
    broken = random.random() < 0.01
    error = {"type": "RuntimeError", "message": f"joint {episode % 7} is out of range", "traceback": "Traceback\n" * 30}
    failed = {"status": "error", "success": None, "return": None, "error": error} if broken else {}
    return {**first, "job": job, "episode": episode, "seed": seed, **found, "videos": videos, **failed}


def measure(browser: webdriver.Chrome, address: str) -> dict[str, Any]:
    """Load and scroll once."""
    browser.get("about:blank")
    began = time.monotonic()
    browser.get(address)
    loaded = browser.execute_async_script(LOADED)
    wall_s = time.monotonic() - began
    browser.execute_script("location.hash = '#/episodes'")
    scrolled = browser.execute_async_script(SCROLL)
    frames = np.array(scrolled["frames"])
    filters_ms = [browser.execute_script(FILTER, words) for words in ("joint 3", "task-07", "")]
    return {
        "load_s": wall_s,
        "ready_ms": loaded["ready_ms"],
        "elements": loaded["elements"],
        "episodes": loaded["episodes"],
        "frame_median_ms": float(np.median(frames)),
        "frame_p95_ms": float(np.percentile(frames, 95)),
        "frame_worst_ms": float(frames.max()),
        "cards": scrolled["cards"],
        "filter_worst_ms": max(filters_ms),
    }


def main(episodes: int = EPISODES) -> None:
    """Measure, and print a table."""
    folder = Path(tempfile.mkdtemp())
    try:
        run_dir = make_run(folder, episodes)
        began = time.monotonic()
        reader = RunReader(run_dir)
        reader.refresh()
        read_s = time.monotonic() - began
        page = write_page(reader)
        written_s = time.monotonic() - began - read_s
        again = time.monotonic()
        reader.refresh()
        write_page(reader)
        again_s = time.monotonic() - again
        with chromium(folder) as browser:
            measured = [measure(browser, page.as_uri()) for _ in range(REPEATS)]
        found = {key: float(np.median([one[key] for one in measured])) for key in measured[0]}
        size_mb = page.stat().st_size / 1e6
        figures = {"read_s": read_s, "write_s": written_s, "write_again_s": again_s, "size_mb": size_mb, **found}
        for name, value in figures.items():
            print(f"{name:<18} {value:>10.2f}")
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
