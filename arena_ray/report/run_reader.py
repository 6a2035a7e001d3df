"""A run directory as the page shows it, read piece by piece while the run goes on."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena_ray.errors import RunDirError
from arena_ray.records import EpisodeRecord, EpisodeReplay, VideoFile
from arena_ray.report.growing_lines import GrowingLines, Shrunk
from arena_ray.report.rows import FIELDS, Row, RowTables
from arena_ray.report.timeline import Timeline
from arena_ray.results import RunResult, read_verdicts, tallies_for
from arena_ray.run_dir import RunDir, by_path
from arena_ray.specs import EvalJob

if TYPE_CHECKING:
    import os

logger = logging.getLogger(__name__)

#: Of a worker's log the page shows the end, bytes; the file is linked.
LOG_TAIL = 4_000

#: A page has so many episodes, those that were recorded first, so that neither driver nor browser drowns in a run of
#: millions; the figures count all.
MOST_ROWS = 50_000

#: One answer to a page that is open brings so many episodes at most.
MOST_UPDATES = 2_000


class RunReader:
    """What stands in a run directory. `refresh` reads only what is new.

    Args:
        path: The run directory; the run may still go on.

    Attributes:
        run: The content of ``run.json``.
        jobs: Its jobs.
        epoch: Another one when everything had to be read anew.

    Raises:
        RunDirError: If it is no run directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.run_dir = RunDir.open(path)
        self._restart()

    def _restart(self) -> None:
        self.epoch = f"{time.time_ns():x}"
        self._run_stamp: Any = None
        self._read_run()
        self.tables = RowTables(self.run["started_at"])
        self.timeline = Timeline(self.tables, self._number)
        self._files = {
            "events": GrowingLines(self.run_dir.events_file),
            "replays": GrowingLines(self.run_dir.replays_file),
            "episodes": GrowingLines(self.run_dir.episodes_file),
        }
        self._rows: dict[tuple[int, int], Row] = {}
        self._added: dict[tuple[str, int], list[VideoFile]] = collections.defaultdict(list)
        self._changes: list[tuple[int, int]] = []
        self._omitted = 0
        self._tallies = tallies_for(self.jobs)
        self._events_broken = False

    def _read_run(self) -> bool:
        """Read ``run.json`` if it has changed; return whether it has."""
        stamp = _stamp(self.run_dir.run_file), _stamp(self.run_dir.summary_file)
        if stamp == self._run_stamp:
            return False
        run = self.run_dir.read_run()
        lacking = [key for key in ("jobs", "status", "notes", "started_at", "argv") if key not in run]
        if lacking:
            raise RunDirError(f"{self.run_dir.run_file} does not say {', '.join(lacking)}; it is no run of arena-ray")
        try:
            jobs = [EvalJob.model_validate(job) for job in run["jobs"]]
        except (TypeError, ValueError) as error:
            raise RunDirError(f"{self.run_dir.run_file} does not say what was run: {error}") from error
        self.run, self.jobs, self._run_stamp = run, jobs, stamp
        self._number = {job.name: number for number, job in enumerate(jobs)}
        self._metrics = [[metric.key for metric in job.metrics] for job in jobs]
        return True

    def refresh(self) -> bool:
        """Read what is new; return whether there was anything.

        Raises:
            RunDirError: If something cannot be read.
        """
        before = self.stamp
        try:
            changed = self._read_run()
            self._read_events()
            for line in self._files["replays"].new():
                self._replayed(_parsed(EpisodeReplay, line, self.run_dir.replays_file))
            for line in self._files["episodes"].new():
                self._recorded(_parsed(EpisodeRecord, line, self.run_dir.episodes_file))
        except Shrunk:
            self._restart()
            return self.refresh()
        if changed or before != self.stamp:
            self.__dict__.pop("result", None)
            return True
        return False

    def _read_events(self) -> None:
        """Events that cannot be read cost the timeline, and nothing else."""
        if self._events_broken:
            return
        try:
            for line in self._files["events"].new():
                self.timeline.add(line)
                if line["kind"] == "chunk_finished" and "usage" in line and line.get("job") in self._tallies:
                    self._tallies[line["job"]].usage.add(line["usage"])
        except (RunDirError, KeyError, TypeError, ValueError, AttributeError) as error:
            self._events_broken = True
            logger.warning("%s: what ran where is known only in part: %r", self.run_dir.events_file, error)

    def _recorded(self, record: EpisodeRecord) -> None:
        number = self._number.get(record.job)
        if number is None:
            return
        key = record.job, record.episode
        added = [video for video in self._added.get(key, ()) if (self.run_dir.path / video.path).is_file()]
        if added:
            record = dataclasses.replace(record, videos=by_path(record.videos, added))
        self._tallies[record.job].add(record)
        self.timeline.ran(number, record.chunk, record.worker)
        if len(self._rows) >= MOST_ROWS and (number, record.episode) not in self._rows:
            self._omitted += 1
            return
        self._rows[number, record.episode] = self.tables.row(record, number, self._metrics[number])
        self._changes.append((number, record.episode))

    def _replayed(self, replay: EpisodeReplay) -> None:
        """Add the videos of an equal replay to the episode's record, be it read already or not."""
        if not replay.equal:
            return
        key = replay.job, replay.episode
        self._added[key] += replay.videos
        if (self._number.get(replay.job, -1), replay.episode) in self._rows:
            newest = [record for record in self.run_dir.records() if (record.job, record.episode) == key]
            if newest:
                self._recorded(newest[-1])

    @functools.cached_property
    def result(self) -> RunResult:
        """What the run came to so far."""
        folder = self.run_dir
        verdicts, notes = read_verdicts(folder), tuple(self.run["notes"])
        return RunResult.from_tallies(folder.path, self.run["status"], self.jobs, self._tallies, verdicts, notes)

    @property
    def stamp(self) -> str:
        """Another one whenever anything is new."""
        return f"{self.epoch}-{self.cursor}-{self._omitted}-{self.timeline.version}-{self._run_stamp}"

    @property
    def cursor(self) -> int:
        """How many changes of episodes there were; `changes_since` counts by it."""
        return len(self._changes)

    def rows(self) -> list[Row]:
        """Return a row for each episode: jobs in order, episodes in order."""
        return [self._rows[key] for key in sorted(self._rows)]

    def changes_since(self, cursor: int) -> tuple[list[Row], int]:
        """Return the rows that have changed, at most `MOST_UPDATES`, and the cursor behind them."""
        end = min(cursor + MOST_UPDATES, self.cursor)
        keys = dict.fromkeys(itertools.islice(self._changes, cursor, end))
        return [self._rows[key] for key in keys], end

    def log_path(self, job: str, worker: int | None) -> str | None:
        """Return the path of a worker's log, relative to the run directory; ``None`` if there is none."""
        if worker is None:
            return None
        host, pid, _ = self.tables.workers.values[worker]
        path = self.run_dir.log_folder(job) / f"{host}-{pid}.log"
        inside = path.resolve().is_relative_to(self.run_dir.path.resolve())
        return path.relative_to(self.run_dir.path).as_posix() if inside and path.is_file() else None

    def document(self) -> dict[str, Any]:
        """Return everything that the page's scripts need."""
        return {
            "fields": [*FIELDS],
            "rows": self.rows(),
            "jobs": [_job(job) for job in self.jobs],
            **self.changing(),
            "errors": self.tables.errors.values,
        }

    def changing(self) -> dict[str, Any]:
        """Return what changes while the run goes on, besides episodes and their errors."""
        return {
            "name": self.run_dir.path.name,
            "status": self.run["status"],
            "epoch": self.epoch,
            "stamp": self.stamp,
            "omitted": self._omitted,
            "cursor": self.cursor,
            "summary": summary_without_videos(self.result),
            "cameras": self.tables.cameras.values,
            "workers": self.tables.workers.values,
            "timeline": self.timeline.to_json(),
        }


def summary_without_videos(result: RunResult) -> dict[str, Any]:
    """Return the content of ``summary.json`` without the paths of videos, which the rows have."""
    summary = result.summary()
    for job in summary["jobs"].values():
        del job["videos"]
    return summary


def log_tail(path: Path) -> str:
    """Return the end of a log."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    return text if size <= LOG_TAIL else "..." + text.partition("\n")[2]


def _job(job: EvalJob) -> dict[str, Any]:
    return {
        "name": job.name,
        "tags": {tag: value if isinstance(value, str) else json.dumps(value) for tag, value in job.tags.items()},
        "metrics": [metric.key for metric in job.metrics],
        "instruction": job.language_instruction,
        "requested": job.num_episodes,
    }


def _parsed(kind: Any, line: Mapping[str, Any], path: Path) -> Any:
    try:
        return kind.from_json(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirError(f"{path} has a line that is none of its own: {error!r}") from error


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
