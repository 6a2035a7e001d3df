"""What the driver writes down while a run goes on: records, events, ``run.json`` and ``summary.json``."""

from __future__ import annotations

import contextlib
import datetime
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from arena_ray.config import EvalPlan
from arena_ray.errors import RunDirError, StorageError
from arena_ray.records import EpisodeRecord, Notice
from arena_ray.results import RunResult, tallies_for
from arena_ray.run_dir import LineLog, Provenance, RunDir, git_state, run_document, utc_text
from arena_ray.specs import Chunk, WorkerSetup

ResultT_co = TypeVar("ResultT_co", covariant=True)

logger = logging.getLogger(__name__)

#: Records are forced to the disk at least so often.
SYNC_PERIOD_S = 1.0

#: Packages whose versions results may depend on.
_PACKAGES = (
    "arena-ray",
    "ray",
    "torch",
    "gymnasium",
    "numpy",
    "av",
    "mujoco",
    "gymnasium-robotics",
    "stable-baselines3",
)


class RunObserver(Protocol):
    """Watches a run, to show it."""

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        """Be told where the run writes, before the first chunk."""
        ...

    def recorded(self, record: EpisodeRecord) -> None:
        """Be told of a committed record."""
        ...

    def event(self, line: Mapping[str, Any]) -> None:
        """Be told of a line of ``events.jsonl``."""
        ...

    def tick(self) -> None:
        """Be told, some times a second, that the run goes on."""
        ...

    def finished(self, result: RunResult) -> None:
        """Be told what the run came to."""
        ...


class RunJournal(Protocol[ResultT_co]):
    """Where a run writes and what it makes of what arrives: a new run's `Journal`, or that of a replay.

    As a context it is open while the run goes on; workers may outlive it by some seconds.
    """

    @property
    def setup(self) -> WorkerSetup:
        """What every worker is told."""
        ...

    def commit(self, record: EpisodeRecord) -> None:
        """Take in a record, the first of its episode.

        Raises:
            StorageError: If the disk takes no more.
        """
        ...

    def note(self, chunk: Chunk, notice: Notice) -> None:
        """Take in what a worker noticed."""
        ...

    def event(self, kind: str, chunk: Chunk | None = None, /, **fields: Any) -> None:
        """Take in what happened."""
        ...

    def tick(self) -> None:
        """Be told, some times a second, that the run goes on."""
        ...

    def finish(self, status: str, verdicts: Mapping[str, tuple[str, str | None]]) -> ResultT_co:
        """Be told what the run came to, with status and error of each job by name; return it."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Narrator:
    """Tells an observer what happens; one that raises (a terminal that is gone) is told nothing more.

    Args:
        observer: Whom to tell, if anybody.
    """

    def __init__(self, observer: RunObserver | None) -> None:
        self._observer = observer
        self._notes: dict[tuple[str, str], str] = {}

    def tell(self, what: str, *facts: Any) -> None:
        """Call a method of the observer."""
        if self._observer is None:
            return
        try:
            getattr(self._observer, what)(*facts)
        except Exception:
            self._observer = None
            logger.exception("the observer failed, and is told nothing more")

    def event(self, kind: str, chunk: Chunk | None = None, /, **fields: Any) -> None:
        """Tell of an event; one about a chunk names job, chunk and attempt."""
        now = utc_text(datetime.datetime.now(datetime.timezone.utc))
        where = {} if chunk is None else {"job": chunk.job.name, "chunk": chunk.index, "attempt": chunk.attempt}
        line = {"time": now, "kind": kind, **where, **fields}
        self._write_event(line)
        self.tell("event", line)

    def _write_event(self, line: Mapping[str, Any]) -> None:
        """Write an event down, where that is wanted."""

    def note(self, chunk: Chunk, notice: Notice) -> None:
        """Tell what a worker noticed; a topic is told once per job."""
        if notice.topic == "chunk_video":
            self._chunk_video(chunk, notice.message)
        elif (chunk.job.name, notice.topic) not in self._notes:
            self._notes[chunk.job.name, notice.topic] = notice.message
            self.event("warning", chunk, topic=notice.topic, message=notice.message)

    def _chunk_video(self, chunk: Chunk, path: str) -> None:
        """Tell of a video that shows all slots; `path` is relative to where the workers write."""
        self.event("chunk_video", chunk, path=path)


class Journal(Narrator):
    """Writes one run down. As a context it closes its files.

    Args:
        plan: What runs.
        run_dir: Where to.
        hardware: What it runs on.
        started_at: When it began.
        argv: The command; by default this process's.
        observer: Is told of everything that is written.
    """

    def __init__(
        self,
        plan: EvalPlan,
        run_dir: RunDir,
        hardware: Mapping[str, Any],
        started_at: datetime.datetime,
        argv: Sequence[str] | None = None,
        observer: RunObserver | None = None,
    ) -> None:
        super().__init__(observer)
        self.run_dir = run_dir
        self.setup = WorkerSetup(run_dir=str(run_dir.path), python_path=python_path(plan.folder))
        self._plan = plan
        self._started_at = utc_text(started_at)
        self._provenance = Provenance(
            argv=tuple(sys.argv if argv is None else argv),
            git=git_state(Path.cwd()),
            versions=versions(),
            hardware=hardware,
        )
        self._tallies = tallies_for(plan.jobs)
        self._episodes = LineLog(run_dir.episodes_file)
        self._events = LineLog(run_dir.events_file)
        self._synced_at = time.monotonic()
        self._write_run("running")
        self.event("run_started", jobs=[job.name for job in plan.jobs])
        self.tell("started", run_dir.path, plan)

    def _write_run(self, status: str, finished_at: str | None = None) -> None:
        self.run_dir.write_run(
            run_document(
                status=status,
                jobs=self._plan.document["jobs"],
                settings=self._plan.settings.model_dump(mode="json"),
                python_path=self.setup.python_path,
                provenance=self._provenance,
                notes=list(self._notes.values()),
                started_at=self._started_at,
                finished_at=finished_at,
            )
        )

    def commit(self, record: EpisodeRecord) -> None:
        """Append a record; it is with the operating system on return, and on the disk within a second."""
        for name in record.non_finite():
            message = f"episode {record.episode}: {name} is not a finite number; it is recorded as null"
            where = {"job": record.job, "chunk": record.chunk, "attempt": record.attempt}
            self.event("warning", **where, topic="not_finite", message=message)
        self._episodes.append(record.to_json())
        self._tallies[record.job].add(record)
        self.tell("recorded", record)

    def _write_event(self, line: Mapping[str, Any]) -> None:
        self._events.append(line)

    def tick(self) -> None:
        """Force records to the disk when it is time."""
        if time.monotonic() - self._synced_at > SYNC_PERIOD_S:
            self._episodes.sync()
            self._synced_at = time.monotonic()
        self.tell("tick")

    def finish(self, status: str, verdicts: Mapping[str, tuple[str, str | None]]) -> RunResult:
        """Write what the run came to, and return it.

        Args:
            status: ``completed``, ``failed`` or ``interrupted``.
            verdicts: Status and error of each job, by name.
        """
        self._add_replays()
        notes = tuple(self._notes.values())
        result = RunResult.from_tallies(
            self.run_dir.path, status, list(self._plan.jobs), self._tallies, verdicts, notes
        )
        finished_at = utc_text(datetime.datetime.now(datetime.timezone.utc))
        writes: list[Callable[[], None]] = [
            lambda: self.run_dir.write_summary(result.summary()),
            lambda: self._write_run(status, finished_at),
            lambda: self.event("run_finished", status=status),
        ]
        for write in writes:
            try:
                write()
            except (OSError, StorageError) as error:
                logger.error("%s", error)  # A full disk: the records that it took are safe, and each file is whole.
        self.tell("finished", result)
        return result

    def _add_replays(self) -> None:
        """Count the videos of episodes that somebody replayed while this run went on."""
        if not self.run_dir.replays_file.exists():
            return
        try:
            for record in self.run_dir.records():
                self._tallies[record.job].add(record)
        except (OSError, RunDirError) as error:
            logger.error("%s", error)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._episodes.close()
        self._events.close()


def new_run(plan: EvalPlan, observer: RunObserver | None = None) -> Callable[[Mapping[str, Any]], Journal]:
    """Return what opens the journal of a new run: given the hardware, it creates a run directory.

    Args:
        plan: What runs.
        observer: Watches the run.
    """

    def open_journal(hardware: Mapping[str, Any]) -> Journal:
        now = datetime.datetime.now(datetime.timezone.utc)
        run_dir = RunDir.create(plan.settings.video_base_dir, now.astimezone())
        return Journal(plan, run_dir, hardware, now, observer=observer)

    return open_journal


def python_path(folder: Path | None) -> tuple[str, ...]:
    """Return where entry points are looked for besides the installed packages: the job file's folder, then here."""
    here = str(Path.cwd())
    return (here,) if folder is None or str(folder) == here else (str(folder), here)


def versions() -> dict[str, str]:
    """Return the installed versions that results may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
