"""What runs where in a run, read from its files: no Ray, no simulator, and no records built.

Which worker has a chunk stands in the events once it has built its environment; episodes in flight, or that wait there,
are those of a running chunk that have no record.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from arena_ray.errors import RunDirError
from arena_ray.index_ranges import parse_ranges, ranges_text
from arena_ray.run_dir import RunDir
from arena_ray.statistics import wilson_interval

#: Events after which a chunk runs no longer.
_ENDS = frozenset({"chunk_finished", "worker_lost"})


@dataclasses.dataclass(slots=True)
class RunningChunk:
    """A chunk that was begun and has not ended.

    Attributes:
        job: Its job.
        chunk: Its index.
        attempt: Of its episodes.
        since: When it began.
        left: Its episodes that have no record, as ranges; empty for a budget of steps.
        worker: ``host``, ``pid`` and ``gpus`` of who runs it; ``None``: it starts, or has said nothing yet.
    """

    job: str
    chunk: int
    attempt: int
    since: str
    left: str
    worker: Mapping[str, Any] | None = None


@dataclasses.dataclass(slots=True)
class JobStatus:
    """How far a job is.

    Attributes:
        name: Its name.
        requested: Episodes; ``None`` for a budget of steps.
        completed: Episodes that were completed.
        error: Episodes that are recorded as ``error``.
        timeout: Episodes that are recorded as ``timeout``.
        judged: Completed episodes that said whether they succeeded.
        successes: Those that did.
        lost: Workers that were lost.
    """

    name: str
    requested: int | None
    completed: int = 0
    error: int = 0
    timeout: int = 0
    judged: int = 0
    successes: int = 0
    lost: int = 0

    @property
    def done(self) -> int:
        """Episodes that have a record."""
        return self.completed + self.error + self.timeout

    @property
    def success_rate(self) -> tuple[float, float, float] | None:
        """Rate of successes with its 95 % interval; ``None`` without data."""
        if not self.judged:
            return None
        return (self.successes / self.judged, *wilson_interval(self.successes, self.judged))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        rate = self.success_rate
        found = None if rate is None else dict(zip(("value", "low", "high"), rate, strict=True))
        return {**dataclasses.asdict(self), "done": self.done, "success_rate": found}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What runs where.

    Attributes:
        run_dir: The run directory.
        status: What ``run.json`` says.
        driver: ``host`` and ``pid`` of the driver.
        driver_lives: Whether a driver holds the lock of the run directory; ``None``: this file system cannot tell.
        started_at: When the run began.
        last_activity: When the last record or event was written.
        idle_s: How long ago that is, seconds.
        jobs: The jobs, in order.
        running: Chunks that run, if the driver lives.
    """

    run_dir: Path
    status: str
    driver: Mapping[str, Any]
    driver_lives: bool | None
    started_at: str
    last_activity: str
    idle_s: float
    jobs: tuple[JobStatus, ...]
    running: tuple[RunningChunk, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunStatus:
        """Read the files of a run directory.

        Raises:
            RunDirError: If it is none, or cannot be read.
        """
        run_dir = RunDir.open(path)
        run = run_dir.read_run()
        lives = _is_locked(run_dir.episodes_file)
        reading = _Reading({job["name"]: job.get("num_episodes") for job in run["jobs"]})
        _read(_lines(run_dir.episodes_file), reading.record, run_dir.episodes_file)
        _read(run_dir.events(), reading.event, run_dir.events_file)
        last = max(_modified(file) for file in (run_dir.episodes_file, run_dir.events_file, run_dir.run_file))
        now = datetime.datetime.now(datetime.timezone.utc).timestamp()
        return cls(
            run_dir=run_dir.path,
            status=run["status"],
            driver=run.get("driver", {}),
            driver_lives=lives,
            started_at=run["started_at"],
            last_activity=datetime.datetime.fromtimestamp(last, datetime.timezone.utc).isoformat(timespec="seconds")[
                :19
            ]
            + "Z",
            idle_s=max(0.0, now - last),
            jobs=tuple(reading.jobs.values()),
            running=() if lives is False else tuple(reading.running()),
        )

    @property
    def workers(self) -> list[Mapping[str, Any]]:
        """The workers that run a chunk and have said who they are."""
        return [chunk.worker for chunk in self.running if chunk.worker is not None]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "run_dir": str(self.run_dir),
            "status": self.status,
            "driver": {**self.driver, "lives": self.driver_lives},
            "started_at": self.started_at,
            "last_activity": self.last_activity,
            "idle_s": round(self.idle_s, 1),
            "workers": len(self.workers),
            "jobs": [job.to_json() for job in self.jobs],
            "running": [dataclasses.asdict(chunk) for chunk in self.running],
        }

    def __str__(self) -> str:
        head = f"{self.status}: {self.run_dir}\n{self._driver_line()}; last activity {_ago(self.idle_s)} ago"
        lines = [head, "", f"{'job':<24} {'done':>13} {'errors':>6} {'lost':>4} success"]
        lines += [_job_line(job) for job in self.jobs]
        if self.running:
            lines += ["", f"{'job':<24} {'chunk':>6} {'worker':<28} episodes left"]
            lines += [_chunk_line(chunk) for chunk in self.running]
        if self.status == "running" and self.driver_lives is False:
            lines += ["", f"the driver is gone; finish the run with: arena-ray resume {self.run_dir}"]
        return "\n".join(lines)

    def _driver_line(self) -> str:
        who = f"driver {self.driver.get('pid')} on {self.driver.get('host')}"
        if self.driver_lives is None:
            return f"{who}: this file system cannot tell whether it lives"
        return f"{who} {'lives' if self.driver_lives else 'has ended'}"


class _Reading:
    """What the lines of both files add up to; the newest record of an episode counts.

    Who has a chunk is told when its worker starts, and by its records. Before its first record a chunk is taken to be
    with a worker of its job that has just ended another: those get the next.
    """

    def __init__(self, requested: Mapping[str, int | None]) -> None:
        self.jobs = {name: JobStatus(name, number) for name, number in requested.items()}
        self._newest: dict[tuple[str, int], tuple[str, bool | None]] = {}
        self._of_chunk: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._running: dict[tuple[str, int], RunningChunk] = {}
        self._free: dict[str, list[Mapping[str, Any]]] = {}

    def record(self, line: Mapping[str, Any]) -> None:
        job = self.jobs.get(line["job"])
        if job is None:
            return
        key = (line["job"], line["episode"])
        if key in self._newest:
            _count(job, *self._newest[key], by=-1)
        self._newest[key] = (line["status"], line.get("success"))
        _count(job, *self._newest[key], by=1)
        if line.get("worker") is not None and line.get("chunk") is not None:
            self._of_chunk[line["job"], line["chunk"]] = line["worker"]

    def event(self, line: Mapping[str, Any]) -> None:
        key = (line.get("job", ""), line.get("chunk", -1))
        if line["kind"] == "chunk_started":
            left = line.get("indices", "")
            self._running[key] = RunningChunk(*key, line["attempt"], line["time"], left)
            if self._free.get(key[0]):
                self._of_chunk.setdefault(key, self._free[key[0]].pop())
        elif line["kind"] == "worker_started":
            self._of_chunk[key] = line["worker"]
        elif line["kind"] in _ENDS:
            self._running.pop(key, None)
            if line["kind"] == "chunk_finished" and key in self._of_chunk:
                self._free.setdefault(key[0], []).append(self._of_chunk[key])
            if line["kind"] == "worker_lost" and key[0] in self.jobs:
                self.jobs[key[0]].lost += 1
        elif line["kind"] in ("run_finished", "run_resumed"):
            self._running.clear()

    def running(self) -> Iterator[RunningChunk]:
        for key, chunk in self._running.items():
            left = [episode for episode in parse_ranges(chunk.left) if (key[0], episode) not in self._newest]
            is_counted = self.jobs[key[0]].requested is not None
            text = ranges_text(left) if is_counted and left else ""
            yield dataclasses.replace(chunk, left=text, worker=self._of_chunk.get(key))


def _count(job: JobStatus, status: str, success: bool | None, *, by: int) -> None:
    setattr(job, status, getattr(job, status) + by)
    if status == "completed" and success is not None:
        job.judged += by
        job.successes += by * success


def _read(lines: Iterable[dict[str, Any]], take: Callable[[dict[str, Any]], None], path: Path) -> None:
    try:
        for line in lines:
            take(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirError(f"{path} holds a line that is none of a run: {error!r}") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a file of records, unchecked: a million of them take seconds."""
    if path.exists():
        with path.open("rb") as file:
            yield from (json.loads(line) for line in file if line.endswith(b"\n"))


def _is_locked(path: Path) -> bool | None:
    """Return whether a driver holds a file's lock (see `run_lock`); the file is not changed, nor the lock kept."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _job_line(job: JobStatus) -> str:
    requested = "steps" if job.requested is None else str(job.requested)
    rate = job.success_rate
    text = "-" if rate is None else f"{100 * rate[0]:.3g} % [{100 * rate[1]:.3g}, {100 * rate[2]:.3g}]"
    return f"{job.name:<24} {f'{job.done}/{requested}':>13} {job.error + job.timeout:>6} {job.lost:>4} {text}"


def _chunk_line(chunk: RunningChunk) -> str:
    where = "starting"
    if chunk.worker is not None:
        gpus = chunk.worker.get("gpus") or ()
        where = f"{chunk.worker.get('host')}:{chunk.worker.get('pid')}" + (f" GPU {','.join(gpus)}" if gpus else "")
    return f"{chunk.job:<24} {chunk.chunk:>6} {where:<28} {chunk.left or '-'}"


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
