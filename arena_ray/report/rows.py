"""An episode as the page has it: a short list of numbers, with what repeats kept in tables beside it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from arena_ray.records import EpisodeRecord, VideoFile, WorkerInfo, finite

#: What the places of a row mean; ``static/model.js`` reads them by these names.
FIELDS = (
    "job",
    "episode",
    "seed",
    "status",
    "success",
    "return",
    "length",
    "truncated",
    "duration_s",
    "start_s",
    "chunk",
    "attempt",
    "slot",
    "worker",
    "metrics",
    "videos",
    "error",
)

STATUSES = ("completed", "error", "timeout")

#: Longest text of a traceback in the page, characters; what is cut off is its beginning.
MOST_TRACEBACK = 8_000

#: All tracebacks of a page together, characters; the records have the rest.
MOST_TRACEBACKS = 1_000_000

Row = list[Any]


class Table:
    """Values that rows name by their number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, key: Any, value: Any) -> int:
        """Return the number of a value; it is added if its key is new."""
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


class RowTables:
    """Makes rows of records.

    Args:
        started_at: When the run began, as in ``run.json``; times of rows are seconds since then.

    Attributes:
        cameras: ``[kind, name]`` of each camera.
        workers: ``[host, pid, gpus]`` of each worker.
        errors: ``[type, message, traceback]``, each once.
    """

    def __init__(self, started_at: str) -> None:
        self._began = _moment(started_at)
        self.cameras, self.workers, self.errors = Table(), Table(), Table()
        self._traced = 0

    def seconds(self, time: str | None) -> float | None:
        """Return a time as seconds since the run began."""
        return None if time is None else round((_moment(time) - self._began).total_seconds(), 3)

    def worker(self, worker: WorkerInfo | None) -> int | None:
        """Return the number of a worker."""
        if worker is None:
            return None
        return self.workers.number(worker, [worker.host, worker.pid, [*worker.gpus]])

    def row(self, record: EpisodeRecord, job: int, metrics: Sequence[str]) -> Row:
        """Return the row of a record.

        Args:
            record: The record.
            job: Number of its job.
            metrics: Names of the job's own metrics, in the order in which the row has them.
        """
        return [
            job,
            record.episode,
            record.seed,
            STATUSES.index(record.status),
            None if record.success is None else int(record.success),
            finite(record.episode_return),
            record.length,
            int(record.truncated),
            None if record.duration_s is None else round(record.duration_s, 3),
            self.seconds(record.started_at),
            record.chunk,
            record.attempt,
            record.slot,
            self.worker(record.worker),
            [finite(record.metrics.get(name)) for name in metrics],
            [self._video(video) for video in record.videos if video.bytes],
            self._error(record),
        ]

    def _video(self, video: VideoFile) -> list[Any]:
        camera = self.cameras.number((video.kind, video.camera), [video.kind, video.camera])
        return [camera, video.path, video.frames, video.fps, int(video.partial), video.segment]

    def _error(self, record: EpisodeRecord) -> int | None:
        if record.error is None:
            return None
        error = record.error
        return self.errors.number(error, [error.type, error.message, self._traceback(error.traceback)])

    def _traceback(self, text: str | None) -> str | None:
        if text is None or self._traced > MOST_TRACEBACKS:
            return None
        kept = text if len(text) <= MOST_TRACEBACK else f"...{text[-MOST_TRACEBACK:]}"
        self._traced += len(kept)
        return kept


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
