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
from typing import Any, Protocol

from arena_ray.config import EvalPlan
from arena_ray.errors import StorageError
from arena_ray.records import EpisodeRecord, Notice
from arena_ray.results import RunResult, tallies_for
from arena_ray.run_dir import LineLog, Provenance, RunDir, git_state, run_document, utc_text
from arena_ray.specs import Chunk

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


class Journal:
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
        self.run_dir = run_dir
        self._plan = plan
        self._observer = observer
        self._started_at = utc_text(started_at)
        self._provenance = Provenance(
            argv=tuple(sys.argv if argv is None else argv),
            git=git_state(Path.cwd()),
            versions=versions(),
            hardware=hardware,
        )
        self._tallies = tallies_for(plan.jobs)
        self._notes: dict[tuple[str, str], str] = {}
        self._episodes = LineLog(run_dir.episodes_file)
        self._events = LineLog(run_dir.events_file)
        self._synced_at = time.monotonic()
        self._write_run("running")
        self.event("run_started", jobs=[job.name for job in plan.jobs])
        self._tell("started", run_dir.path, plan)

    def _tell(self, what: str, *facts: Any) -> None:
        """Tell the observer; one that raises (a terminal that is gone) is told nothing more, and the run goes on."""
        if self._observer is None:
            return
        try:
            getattr(self._observer, what)(*facts)
        except Exception:
            self._observer = None
            logger.exception("the observer failed, and is told nothing more")

    def _write_run(self, status: str, finished_at: str | None = None) -> None:
        self.run_dir.write_run(
            run_document(
                status=status,
                jobs=self._plan.document["jobs"],
                settings=self._plan.settings.model_dump(mode="json"),
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
        self._tell("recorded", record)

    def note(self, chunk: Chunk, notice: Notice) -> None:
        """Write down what a worker noticed; a topic is told once per job."""
        if notice.topic == "chunk_video":
            self.event("chunk_video", chunk, path=notice.message)
        elif (chunk.job.name, notice.topic) not in self._notes:
            self._notes[chunk.job.name, notice.topic] = notice.message
            self.event("warning", chunk, topic=notice.topic, message=notice.message)

    def event(self, kind: str, chunk: Chunk | None = None, /, **fields: Any) -> None:
        """Append an event; one about a chunk names job, chunk and attempt."""
        now = utc_text(datetime.datetime.now(datetime.timezone.utc))
        where = {} if chunk is None else {"job": chunk.job.name, "chunk": chunk.index, "attempt": chunk.attempt}
        line = {"time": now, "kind": kind, **where, **fields}
        self._events.append(line)
        self._tell("event", line)

    def tick(self) -> None:
        """Force records to the disk when it is time."""
        if time.monotonic() - self._synced_at > SYNC_PERIOD_S:
            self._episodes.sync()
            self._synced_at = time.monotonic()
        self._tell("tick")

    def finish(self, status: str, verdicts: Mapping[str, tuple[str, str | None]]) -> RunResult:
        """Write what the run came to, and return it.

        Args:
            status: ``completed``, ``failed`` or ``interrupted``.
            verdicts: Status and error of each job, by name.
        """
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
        self._tell("finished", result)
        return result

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._episodes.close()
        self._events.close()


def versions() -> dict[str, str]:
    """Return the installed versions that results may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
