"""``report.html``: a run in one file that needs nothing else but the videos beside it."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from arena_ray.json_files import replace_text
from arena_ray.report.assets import embedded_json, render, templates
from arena_ray.report.rows import FIELDS, STATUSES, Row
from arena_ray.report.run_reader import RunReader, log_tail
from arena_ray.results.usage import PARTS
from arena_ray.run_dir import utc_text

#: In the order in which they run.
SCRIPTS = (
    "vendor/d3.min.js",
    "vendor/plot.umd.min.js",
    "model.js",
    "plots.js",
    "player.js",
    "grid.js",
    "episode.js",
    "app.js",
)

#: The table for browsers without JavaScript has so many episodes, those that failed first.
MOST_PLAIN_ROWS = 2_000

#: The page lists so many kinds of errors, and of each so many episodes.
MOST_ERRORS, MOST_EPISODES_OF_AN_ERROR = 200, 30

#: The page shows the ends of so many logs.
MOST_LOGS = 50

_WORDS = {"completed": "unknown", "error": "error", "timeout": "timeout"}


@dataclasses.dataclass
class ErrorGroup:
    """Episodes that broke in one way.

    Attributes:
        type: Of the exception.
        message: Of the first.
        traceback: Of the first that has one, or ``None``.
        count: Episodes.
        episodes: Name of the job and index of the first ones.
        log: Path of the log of the worker that ran the first, or ``None``.
        log_tail: The end of it.
    """

    type: str
    message: str
    traceback: str | None
    count: int
    episodes: list[tuple[str, int]]
    log: str | None
    log_tail: str | None = None


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of a run, and return its path.

    Raises:
        RunDirError: If it is no run directory, or cannot be read.
        OSError: If the file cannot be written.
    """
    reader = RunReader(run_dir)
    reader.refresh()
    return write_page(reader)


def write_page(reader: RunReader) -> Path:
    """Write what was read as ``report.html``, and return its path."""
    path = reader.run_dir.report_file
    replace_text(path, page_html(reader))
    return path


def page_html(reader: RunReader, *, live: bool = False) -> str:
    """Return the page of a run.

    Args:
        reader: What was read of it.
        live: Whether it is served, and asks for what is new.
    """
    document = {**reader.document(), "live": live}
    return render(
        "run.html",
        SCRIPTS,
        title=reader.run_dir.path.name,
        status=reader.run["status"],
        data=embedded_json(document),
        fragments=fragments(reader),
        plain=_plain_rows(reader),
        omitted=max(0, len(document["rows"]) - MOST_PLAIN_ROWS),
    )


def fragments(reader: RunReader) -> dict[str, Markup]:
    """Return the parts of the page that are tables and text, by name; served pages replace them as the run goes on."""
    content = {
        "result": reader.result,
        "run": reader.run,
        "parts": PARTS,
        "lost": reader.timeline.counts.get("worker_lost", 0),
        "happenings": [*reversed(reader.timeline.happenings)],
        "errors": error_groups(reader),
        "command": shlex.join(map(str, reader.run["argv"])),
        "elapsed_s": _elapsed_s(reader),
        "now": utc_text(datetime.datetime.now(datetime.timezone.utc))[11:19],
        "workers": len(reader.tables.workers.values),
    }
    names = ("status", "overview", "errors", "events", "usage", "about")
    return {name: Markup(templates().get_template(f"_{name}.html").render(content)) for name in names}


def _elapsed_s(reader: RunReader) -> float | None:
    """Return how long the run took; of one that was resumed, nobody knows."""
    if reader.run.get("resumed_at"):
        return None
    end = reader.run.get("finished_at")
    return reader.tables.seconds(end or utc_text(datetime.datetime.now(datetime.timezone.utc)))


def error_groups(reader: RunReader) -> list[ErrorGroup]:
    """Return what broke episodes, the most frequent first; what has one exception and first line is one."""
    groups: dict[tuple[str, str], ErrorGroup] = {}
    tails: dict[str, str] = {}
    for row in reader.rows():
        episode = dict(zip(FIELDS, row, strict=True))
        if episode["error"] is not None:
            _add_error(groups, reader, episode)
    found = sorted(groups.values(), key=lambda group: -group.count)[:MOST_ERRORS]
    for group in found:
        if group.log is not None and len(tails) < MOST_LOGS:
            tails.setdefault(group.log, log_tail(reader.run_dir.path / group.log))
            group.log_tail = tails[group.log]
    return found


def _add_error(groups: dict[tuple[str, str], ErrorGroup], reader: RunReader, episode: Mapping[str, Any]) -> None:
    kind, message, traceback = reader.tables.errors.values[episode["error"]]
    job = reader.jobs[episode["job"]].name
    key = kind, message.partition("\n")[0]
    group = groups.get(key)
    if group is None:
        worker = episode["worker"]
        if worker is None:  # It was lost; the events may say who it was.
            worker = reader.timeline.worker_of(episode["job"], episode["chunk"])
        log = reader.log_path(job, worker)
        group = groups[key] = ErrorGroup(kind, message, traceback, 0, [], log)
    group.count += 1
    group.traceback = group.traceback or traceback
    if len(group.episodes) < MOST_EPISODES_OF_AN_ERROR:
        group.episodes.append((job, episode["episode"]))


def outcome(row: Row) -> str:
    """Return what an episode came to: ``success``, ``failure``, ``unknown``, ``error`` or ``timeout``."""
    episode = dict(zip(FIELDS, row, strict=True))
    if STATUSES[episode["status"]] == "completed" and episode["success"] is not None:
        return "success" if episode["success"] else "failure"
    return _WORDS[STATUSES[episode["status"]]]


def _plain_rows(reader: RunReader) -> list[dict[str, Any]]:
    """Return the episodes of the table for browsers without JavaScript, errors and failures first."""
    order = ("error", "timeout", "failure", "unknown", "success")
    rows = sorted(((order.index(outcome(row)), row) for row in reader.rows()), key=lambda pair: pair[0])
    cameras = [name or kind for kind, name in reader.tables.cameras.values]
    plain = []
    for rank, row in rows[:MOST_PLAIN_ROWS]:
        episode = dict(zip(FIELDS, row, strict=True))
        error = None if episode["error"] is None else reader.tables.errors.values[episode["error"]]
        videos = [(cameras[video[0]], video[1]) for video in episode["videos"]]
        job = reader.jobs[episode["job"]].name
        plain.append({**episode, "job": job, "outcome": order[rank], "videos": videos, "error": error})
    return plain
