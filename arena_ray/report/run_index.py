"""The runs in a folder, as a page with a line for each."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from arena_ray.errors import RunDirError
from arena_ray.records import Metric
from arena_ray.report.assets import render
from arena_ray.report.served_files import find_runs
from arena_ray.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class IndexLine:
    """A run in the index.

    Attributes:
        name: Of its folder.
        status: As in ``run.json``, or ``unreadable``.
        started_at: When it began.
        jobs: Names of its jobs.
        counts: Episodes by status; ``None`` while it goes on.
        success_rate: Over all jobs; ``None`` while it goes on.
    """

    name: str
    status: str
    started_at: str = ""
    jobs: tuple[str, ...] = ()
    counts: dict[str, int] | None = None
    success_rate: Metric | None = None


def index_html(base: Path) -> str:
    """Return the page that lists the runs in a folder."""
    return render("index.html", (), title=base.name or str(base), base=str(base), runs=index_lines(base))


def index_lines(base: Path) -> list[IndexLine]:
    """Return a line for each run, the newest first."""
    return [_line(RunDir(path)) for path in find_runs(base)]


def _line(run_dir: RunDir) -> IndexLine:
    try:
        run = run_dir.read_run()
        jobs = tuple(str(job["name"]) for job in run["jobs"])
        counts, rate = _overall(run_dir.read_summary())
        return IndexLine(run_dir.path.name, str(run["status"]), str(run["started_at"]), jobs, counts, rate)
    except (RunDirError, KeyError, TypeError, json.JSONDecodeError):
        return IndexLine(run_dir.path.name, "unreadable")


def _overall(summary: dict[str, Any] | None) -> tuple[dict[str, int] | None, Metric | None]:
    if summary is None or not summary.get("overall"):
        return None, None
    overall = summary["overall"]
    return overall["episodes"], Metric(**overall["metrics"]["success_rate"])
