"""What ran where and when, from ``events.jsonl``: the chunks of each worker, and what happened to them."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from typing import Any

from arena_ray.records import WorkerInfo
from arena_ray.report.rows import RowTables
from arena_ray.results.usage import PARTS

#: The page draws so many chunks, the newest; more can neither be seen nor drawn quickly.
MOST_CHUNKS = 4_000

#: The page lists so many happenings, the newest.
MOST_HAPPENINGS = 500

#: Events that say what went wrong, or what was done about it.
_TOLD = {
    "worker_lost",
    "requeued",
    "episode_timeout",
    "quarantined",
    "warning",
    "worker_retired",
    "run_resumed",
    "salvaged",
    "chunk_video",
    "run_finished",
}


@dataclasses.dataclass
class ChunkSpan:
    """One try at a chunk.

    Attributes:
        job: Number of the job.
        chunk: Index of the chunk.
        attempt: 1 is the first.
        start_s: When it was handed out, seconds since the run began.
        end_s: When it was over; ``None`` while it runs.
        worker: Number of the worker; ``None`` while nobody has said.
        lost: Whether its worker was lost.
        usage: Seconds of each of `PARTS`; ``None`` if it did not tell.
    """

    job: int
    chunk: int
    attempt: int
    start_s: float
    end_s: float | None = None
    worker: int | None = None
    lost: bool = False
    usage: list[float] | None = None

    def to_json(self) -> list[Any]:
        """Return the list that stands in the page."""
        return [
            self.job,
            self.chunk,
            self.attempt,
            self.start_s,
            self.end_s,
            self.worker,
            int(self.lost),
            self.usage,
        ]


@dataclasses.dataclass(frozen=True)
class Happening:
    """Something that people should know.

    Attributes:
        time: When, UTC.
        seconds: When, since the run began.
        kind: As in ``events.jsonl``.
        job: Name of the job, or ``None``.
        chunk: Index of the chunk, or ``None``.
        text: What happened.
        traceback: Of an exception that did not belong to an episode, or ``None``.
    """

    time: str
    seconds: float
    kind: str
    job: str | None
    chunk: int | None
    text: str
    traceback: str | None = None


class Timeline:
    """Chunks and happenings of a run.

    Args:
        tables: Whose workers are named.
        jobs: Number of each job, by name.

    Attributes:
        happenings: The newest.
        counts: How many events there were of each kind.
        version: Grows with every event.
    """

    def __init__(self, tables: RowTables, jobs: Mapping[str, int]) -> None:
        self._tables, self._jobs = tables, jobs
        self._spans: deque[ChunkSpan] = deque(maxlen=MOST_CHUNKS)
        self._open: dict[tuple[int, int], ChunkSpan] = {}
        self._ran_early: dict[tuple[int, int], int | None] = {}
        self.happenings: deque[Happening] = deque(maxlen=MOST_HAPPENINGS)
        self.counts: dict[str, int] = {}
        self.version = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in an event.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is of another kind than it should be.
            ValueError: If its time is none.
        """
        self.version += 1
        kind, seconds = line["kind"], self._tables.seconds(line["time"]) or 0.0
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind in _TOLD:
            self.happenings.append(_happening(line, seconds))
        job, chunk = self._jobs.get(line.get("job", "")), line.get("chunk")
        if job is None or chunk is None:
            return
        if kind == "chunk_started":
            span = ChunkSpan(job, chunk, line["attempt"], seconds, worker=self._ran_early.pop((job, chunk), None))
            self._open[job, chunk] = span
            self._spans.append(span)
        elif kind == "worker_started":
            worker = line["worker"]
            self.ran(job, chunk, WorkerInfo(**{**worker, "gpus": tuple(worker["gpus"])}))
        elif kind in ("chunk_finished", "worker_lost"):
            self._over(job, chunk, line, seconds)

    def ran(self, job: int, chunk: int | None, worker: WorkerInfo | None) -> None:
        """Be told who runs a chunk."""
        if chunk is None or worker is None:
            return
        number = self._tables.worker(worker)
        span = self._open.get((job, chunk))
        if span is None:
            self._ran_early[job, chunk] = number  # Its record was read before the event that it began.
        else:
            span.worker = number

    def worker_of(self, job: int, chunk: int | None) -> int | None:
        """Return the number of the worker that ran a chunk; ``None`` if nobody said."""
        span = None if chunk is None else self._open.get((job, chunk))
        return None if span is None else span.worker

    def _over(self, job: int, chunk: int, line: Mapping[str, Any], seconds: float) -> None:
        span = self._open.get((job, chunk))
        if span is None:
            return
        span.end_s, span.lost = seconds, line["kind"] == "worker_lost"
        if "usage" in line:
            span.usage = [line["usage"][f"{part}_s"] for part in PARTS]

    def to_json(self) -> dict[str, Any]:
        """Return what stands in the page."""
        marks = [[one.seconds, one.kind, one.job, one.chunk, one.text] for one in self.happenings]
        omitted = self.counts.get("chunk_started", 0) - len(self._spans)
        return {"chunks": [span.to_json() for span in self._spans], "marks": marks, "omitted": omitted}


def _happening(line: Mapping[str, Any], seconds: float) -> Happening:
    return Happening(
        time=str(line["time"]),
        seconds=seconds,
        kind=line["kind"],
        job=line.get("job"),
        chunk=line.get("chunk"),
        text=_words(line),
        traceback=line.get("traceback"),
    )


def _words(line: Mapping[str, Any]) -> str:
    """Return what an event says to people."""
    kind = line["kind"]
    if kind == "requeued":
        suspects, waiting = (", ".join(map(str, line.get(key, ()))) or "none" for key in ("suspects", "waiting"))
        return f"tried again alone: {suspects}; waiting again: {waiting}"
    if kind == "chunk_video":
        return str(line.get("path", ""))
    if kind == "quarantined":
        gpus = ", ".join(map(str, line.get("gpus", ())))
        return f"GPU {gpus} of {line.get('host')}" if gpus else f"node {line.get('host')}"
    if kind == "salvaged":
        return f"{line.get('number')} videos of workers that were killed"
    if kind == "run_resumed":
        return "" if line.get("left") is None else f"{line['left']} episodes were left to run"
    cause = f"{line['cause']}: " if "cause" in line else ""
    return cause + str(line.get("message", line.get("reason", line.get("status", ""))))
