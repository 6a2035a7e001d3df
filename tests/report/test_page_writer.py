"""The driver writes the page as the run goes on, for little of its time, and never at the run's cost."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from arena_ray.config import EvalPlan
from arena_ray.records import EpisodeRecord
from arena_ray.report import page_writer
from arena_ray.report.page_writer import PageWriter
from tests.report.pages import data_of, rows_of
from tests.worlds import walk_job


class Reader:
    """Looks at the page while the run goes on."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        self.page = run_dir / "report.html"

    def recorded(self, record: EpisodeRecord) -> None:
        if self.page.exists():
            self.seen.append((data_of(self.page.read_text())["status"], len(rows_of(self.page))))

    def event(self, line: Mapping[str, Any]) -> None: ...

    def tick(self) -> None: ...

    def finished(self, result: RunResult) -> None:
        self.seen.append((data_of(self.page.read_text())["status"], len(rows_of(self.page))))


def test_the_page_grows_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_writer, "PERIOD_S", 0.05)
    monkeypatch.setattr(page_writer, "SHARE", 0.5)
    reader = Reader()
    job = walk_job(num_episodes=40, env_kwargs={"step_s": 0.01, "max_length": 10})
    evaluate({"jobs": [job]}, inline=True, chunk_size=5, video_base_dir=str(tmp_path), observer=reader)
    statuses, counts = zip(*reader.seen, strict=True)
    assert reader.seen[-1] == ("completed", 40)
    assert set(statuses[:-1]) == {"running"}
    assert list(counts) == sorted(counts)
    assert len(set(counts)) > 2


@pytest.fixture
def folder(run: RunResult, tmp_path: Path) -> Path:
    copied = shutil.copytree(run.run_dir, tmp_path / "copy")
    (copied / "report.html").unlink()
    return copied


def test_nothing_is_written_before_it_is_time(folder: Path) -> None:
    writer = PageWriter(folder)
    for _ in range(50):
        writer.tick()
    assert not (folder / "report.html").exists()


def test_writing_takes_a_small_share_of_the_time(folder: Path) -> None:
    writer = PageWriter(folder, period_s=0.0)
    pages, began, cpu_s = 0, time.monotonic(), time.process_time()
    seen = None
    while time.monotonic() - began < 6:
        writer.tick()
        time.sleep(0.02)
        if (folder / "report.html").exists():
            stamp = (folder / "report.html").stat().st_mtime_ns
            pages += stamp != seen
            seen = stamp
    spent = time.process_time() - cpu_s
    assert pages >= 2
    assert spent / 6 < 3 * page_writer.SHARE  # The loop above takes its part.


def test_a_page_that_cannot_be_written_is_a_line_in_the_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "report.html").mkdir()
    writer = PageWriter(folder, period_s=0.0)
    with caplog.at_level(logging.WARNING):
        writer.finish()
    assert "the page could not be written" in caplog.text
    assert not list(folder.glob(".report.html*"))
