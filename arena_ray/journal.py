"""What the driver writes down while a run goes on: records, events, ``run.json`` and ``summary.json``."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from arena_ray.config import EvalPlan
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.errors import ConfigError, RunDirError, StorageError
from arena_ray.json_files import LineLog
from arena_ray.narration import Narrator, RunObserver
from arena_ray.processes import new_mark
from arena_ray.provenance import Provenance
from arena_ray.records import EpisodeRecord
from arena_ray.report.page_writer import PageWriter
from arena_ray.results import JobTally, RunResult, tallies_for
from arena_ray.run_dir import RunDir, run_document, utc_text
from arena_ray.run_lock import RunLock
from arena_ray.storage import Mirror, prove_storage
from arena_ray.trackers import Tracking, open_tracking
from arena_ray.worker_events import Tuned

logger = logging.getLogger(__name__)

#: Records are forced to the disk at least so often.
SYNC_PERIOD_S = 1.0

#: What may be over when somebody makes room, or a server comes back.
PASSING_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE}

#: How often a disk that takes no more is tried again, seconds.
STORAGE_LOOK_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What an earlier driver left of a run that is resumed.

    Attributes:
        lock: The run directory's, which this process holds; the journal lets go of it at its end.
        tallies: What the records that are there come to, by job.
        mark: Of the processes that the run's workers start.
        notes: Those of ``run.json``.
        python_path: Where the run looked for entry points.
        tuning: Which slots were chosen, and what had been measured, by job.
        provenance: Stays what it is, because nothing more runs; ``None``: that of this process.
        storage: URI of the run's folder in a storage, if it has one.
        started_at: When the run began.
        resumed_at: When it was resumed, this time included.
    """

    lock: RunLock
    tallies: Mapping[str, JobTally]
    mark: str
    notes: tuple[str, ...]
    python_path: tuple[str, ...]
    tuning: Mapping[str, Any]
    provenance: Provenance | None
    storage: str | None
    started_at: str
    resumed_at: tuple[str, ...]


class Journal(Narrator):
    """Writes one run down; the run directory is this process's alone until then. As a context it closes its files.

    Args:
        plan: What runs.
        run_dir: Where to.
        hardware: What it runs on.
        started_at: When it began.
        argv: The command; by default this process's.
        observer: Is told of everything that is written.
        past: What stands in the run directory already.
        tracking: Is told too, and waited for at the end.

    Attributes:
        mark: Of every process that the run's workers start.

    Raises:
        RunDirError: If another driver writes there.
    """

    def __init__(
        self,
        plan: EvalPlan,
        run_dir: RunDir,
        hardware: Mapping[str, Any],
        started_at: datetime.datetime,
        argv: Sequence[str] | None = None,
        observer: RunObserver | None = None,
        past: Past | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        super().__init__(observer, tracking)
        self._tracking = tracking
        past = _nothing_before(run_dir, plan, utc_text(started_at)) if past is None else past
        self.run_dir = run_dir
        self.mark = past.mark
        folders = dict.fromkeys((*past.python_path, *python_path(plan.folder)))
        self.setup = WorkerSetup(
            run_dir=str(run_dir.path),
            python_path=tuple(folders),
            mark=self.mark,
            max_episodes=plan.settings.max_episodes_per_worker,
            storage=past.storage,
            storage_timeout_s=plan.settings.storage_timeout,
            collect=plan.settings.collect and past.storage is None,
        )
        self._mirror = _mirror_of(run_dir, past.storage, plan.settings.storage_timeout)
        self._plan, self._past = plan, past
        self._provenance = past.provenance or Provenance.of_this_process(argv, hardware)
        self._tallies = past.tallies
        self._tuning = dict(past.tuning)
        self._stopped: dict[str, Any] = {}
        self._step_budgets = {job.name for job in plan.jobs if job.num_steps is not None}
        self._episodes = LineLog(run_dir.episodes_file)
        self._events = LineLog(run_dir.events_file)
        self._synced_at = time.monotonic()
        self._finishing = False
        self._write_run("running")
        self._page = PageWriter(run_dir.path)
        self.tell("started", run_dir.path, plan)
        if not past.resumed_at:
            self.event("run_started", jobs=[job.name for job in plan.jobs])
        if past.lock.problem is not None:
            message = f"two drivers could write here at a time, for this file system cannot lock: {past.lock.problem}"
            self.event("warning", topic="no_lock", message=message)

    @property
    def _told_notes(self) -> list[str]:
        """Notes of the run, the oldest first, each once."""
        return list(dict.fromkeys((*self._past.notes, *self._notes.values())))

    def _write_run(self, status: str, finished_at: str | None = None) -> None:
        self.run_dir.write_run(
            run_document(
                status=status,
                jobs=self._plan.document["jobs"],
                settings=self._plan.settings.model_dump(mode="json"),
                source=self._plan.source.to_json(),
                python_path=self.setup.python_path,
                provenance=self._provenance,
                driver={"host": socket.gethostname(), "pid": os.getpid()},
                mark=self.mark,
                tuning=self._tuning,
                stopped=self._stopped,
                storage=self._past.storage,
                notes=self._told_notes,
                started_at=self._past.started_at,
                resumed_at=self._past.resumed_at,
                finished_at=finished_at,
            )
        )

    def commit(self, record: EpisodeRecord) -> None:
        """Append a record; it is with the operating system on return, and on the disk within a second."""
        for name in record.non_finite():
            message = f"episode {record.episode}: {name} is not a finite number; it is recorded as null"
            where = {"job": record.job, "chunk": record.chunk, "attempt": record.attempt}
            self.event("warning", **where, topic="not_finite", message=message)
        self._patiently(lambda: self._episodes.append(record.to_json()))
        self._tallies[record.job].add(record)
        self.tell("recorded", record)

    def tuned(self, chunk: Chunk, tuned: Tuned) -> None:
        """Write down which slots were chosen for the chunk's job."""
        self._tuning[chunk.job.name] = tuned.to_json()
        self._patiently(self._write_tuning)
        super().tuned(chunk, tuned)  # Second: what a resumed run takes over must stand in both.

    def _write_tuning(self) -> None:
        try:
            self._write_run("running")
        except OSError as error:
            raise StorageError(f"{self.run_dir.run_file} cannot be written: {error}") from error

    def _write_event(self, line: Mapping[str, Any]) -> None:
        if line["kind"] == "chunk_finished" and line["job"] in self._step_budgets:
            self._episodes.sync()  # This line says that the budget is used up: no record may be lost after it.
        self._patiently(lambda: self._events.append(line))
        if "usage" in line:
            self._tallies[line["job"]].usage.add(line["usage"])

    def _patiently(self, write: Callable[[], None]) -> None:
        """Write; a disk that takes no more is waited for, and people are told to make room."""
        timeout_s, since = self._plan.settings.storage_timeout, time.monotonic()
        told = False
        while True:
            try:
                write()
                break
            except StorageError as error:
                passing = isinstance(error.__cause__, OSError) and error.__cause__.errno in PASSING_ERRORS
                if not passing or self._finishing or time.monotonic() - since >= timeout_s or self.in_a_hurry():
                    raise
                if not told:
                    self._tell_of_storage(f"{error}; the run waits {timeout_s:g} s for it")
                told = True
                time.sleep(STORAGE_LOOK_S)
        if told:
            self.waited_s += time.monotonic() - since
            self._tell_of_storage(f"{self.run_dir.path} takes lines again; the run goes on")

    def _tell_of_storage(self, message: str) -> None:
        """Tell people; the file of events may be what cannot be written."""
        now = utc_text(datetime.datetime.now(datetime.timezone.utc))
        self.tell("event", {"time": now, "kind": "warning", "topic": "storage", "message": message})

    def tick(self) -> None:
        """Force records and events to the disk, and write the page, when it is time."""
        if time.monotonic() - self._synced_at > SYNC_PERIOD_S:
            self._patiently(self._episodes.sync)
            self._patiently(self._events.sync)
            self._synced_at = time.monotonic()
        self._write_news_of_trackers()
        self._page.tick()
        if self._mirror is not None:
            self._mirror.tick()
        self.tell("tick")

    def withdraw(self) -> None:
        """Leave nothing of a run of which nothing was started; one that was resumed is as it was before."""
        self._mirror = None
        if self._past.resumed_at:
            self._write_run("interrupted")
        else:
            shutil.rmtree(self.run_dir.path, ignore_errors=True)

    def _write_news_of_trackers(self) -> None:
        if self._tracking is not None:
            for kind, fields in self._tracking.news():
                self.event(kind, None, **fields)

    def _conclude_tracking(self, result: RunResult) -> None:
        """Wait for the trackers; whatever goes wrong there costs the run nothing."""
        if self._tracking is not None:
            try:
                self._tracking.conclude(result, self.in_a_hurry)
            except Exception:
                logger.exception("the trackers were not told what the run came to")
            self._write_news_of_trackers()

    def finish(self, status: str, verdicts: Mapping[str, tuple[str, str | None]]) -> RunResult:
        """Write what the run came to, and return it.

        Args:
            status: ``completed``, ``failed`` or ``interrupted``.
            verdicts: Status and error of each job, by name.
        """
        self._finishing = True  # A disk that is full now has been waited for.
        self._add_replays()
        notes = tuple(self._told_notes)
        result = RunResult.from_tallies(
            self.run_dir.path, status, list(self._plan.jobs), self._tallies, verdicts, notes, self._past.storage
        )
        self._stopped = {name: job.stopped.to_json() for name, job in result.jobs.items() if job.stopped is not None}
        finished_at = utc_text(datetime.datetime.now(datetime.timezone.utc))
        writes: list[Callable[[], None]] = [
            lambda: self.run_dir.write_summary(result.summary()),
            lambda: self._write_run(status, finished_at),
            lambda: self._conclude_tracking(result),
            lambda: self.event("run_finished", status=status),
        ]
        for write in writes:
            try:
                write()
            except (OSError, StorageError) as error:
                logger.error("%s", error)  # A full disk: the records that it took are safe, and each file is whole.
        self._page.finish(result)
        self._send_last_copies()
        self.tell("finished", result)
        return result

    def _send_last_copies(self) -> None:
        if self._mirror is None:
            return
        problem = self._mirror.finish(in_a_hurry=self.in_a_hurry())
        if problem is not None:
            message = f"{self._past.storage} lacks the newest records, which are whole in the run directory: {problem}"
            logger.error("%s", message)
            with contextlib.suppress(StorageError):
                self.event("warning", topic="not_mirrored", message=message)

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
        for log in (self._episodes, self._events):
            try:
                log.close()
            except StorageError as problem:
                logger.error("%s", problem)
        if self._tracking is not None:
            self._tracking.close()
        self._past.lock.release()


def _nothing_before(run_dir: RunDir, plan: EvalPlan, started_at: str) -> Past:
    """Return the past of a new run."""
    return Past(
        lock=run_dir.lock(),
        tallies=tallies_for(plan.jobs),
        mark=new_mark(),
        notes=(),
        python_path=(),
        tuning={},
        provenance=None,
        storage=None if plan.settings.storage is None else f"{plan.settings.storage}/{run_dir.path.name}",
        started_at=started_at,
        resumed_at=(),
    )


def _mirror_of(run_dir: RunDir, uri: str | None, patience_s: float) -> Mirror | None:
    return None if uri is None else Mirror(uri, run_dir.documents(), patience_s)


def _check_storage(uri: str | None) -> None:
    """Check that this machine reaches a storage.

    Raises:
        ConfigError: If it does not.
    """
    problem = None if uri is None else prove_storage(uri)
    if problem is not None:
        raise ConfigError(
            f"storage {uri!r} cannot be used: {problem}; check that it exists, that this machine reaches it, and its "
            "credentials (environment, files or agent of its library)"
        )


def new_run(plan: EvalPlan, observer: RunObserver | None = None) -> Callable[[Mapping[str, Any]], Journal]:
    """Return what opens the journal of a new run: given the hardware, it creates a run directory.

    Args:
        plan: What runs.
        observer: Watches the run.

    Raises:
        ConfigError: If a tracker cannot be had.
    """
    tracking = open_tracking(plan.settings.trackers)

    def open_journal(hardware: Mapping[str, Any]) -> Journal:
        _check_storage(plan.settings.storage)
        now = datetime.datetime.now(datetime.timezone.utc)
        run_dir = RunDir.create(plan.settings.video_base_dir, now.astimezone())
        return Journal(plan, run_dir, hardware, now, observer=observer, tracking=tracking)

    return open_journal


def python_path(folder: Path | None) -> tuple[str, ...]:
    """Return where entry points are looked for besides the installed packages: the job file's folder, then here."""
    here = str(Path.cwd())
    return (here,) if folder is None or str(folder) == here else (str(folder), here)
