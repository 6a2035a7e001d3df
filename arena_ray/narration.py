"""Who is told what happens in a run: the protocol of an observer, that of a journal, and what these share."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from arena_ray.config import EvalPlan
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.records import EpisodeRecord
from arena_ray.results import RunResult
from arena_ray.run_dir import utc_text
from arena_ray.stopping import Stopped
from arena_ray.worker_events import Notice, Tuned

ResultT_co = TypeVar("ResultT_co", covariant=True)

logger = logging.getLogger(__name__)


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

    #: How long it has waited for a disk, seconds; meanwhile it heard nothing of the workers.
    waited_s: float

    #: Asked while it waits for a disk; True gives up.
    in_a_hurry: Callable[[], bool]

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

    def note(self, chunk: Chunk | None, notice: Notice) -> None:
        """Take in what a worker, or the pool, noticed."""
        ...

    def event(self, kind: str, chunk: Chunk | None = None, /, **fields: Any) -> None:
        """Take in what happened."""
        ...

    def tuned(self, chunk: Chunk, tuned: Tuned) -> None:
        """Take in which slots were chosen for the chunk's job."""
        ...

    def stopped_early(self, job_name: str, stopped: Stopped) -> None:
        """Take in that a job hands out nothing more because it is sure."""
        ...

    def tick(self) -> None:
        """Be told, some times a second, that the run goes on."""
        ...

    def withdraw(self) -> None:
        """Be told that nothing was started, and that nothing will be."""
        ...

    def finish(self, status: str, verdicts: Mapping[str, tuple[str, str | None]]) -> ResultT_co:
        """Be told what the run came to, with status and error of each job by name; return it."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Narrator:
    """Tells observers what happens; one that raises (a terminal that is gone) is told nothing more.

    Args:
        *observers: Whom to tell, if anybody.
    """

    def __init__(self, *observers: RunObserver | None) -> None:
        self._observers = [observer for observer in observers if observer is not None]
        self._notes: dict[tuple[str, str], str] = {}
        self.waited_s = 0.0
        self.in_a_hurry: Callable[[], bool] = lambda: False

    def tell(self, what: str, *facts: Any) -> None:
        """Call a method of every observer."""
        for observer in [*self._observers]:
            try:
                getattr(observer, what)(*facts)
            except Exception:
                self._observers.remove(observer)
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

    def note(self, chunk: Chunk | None, notice: Notice) -> None:
        """Tell what a worker, or the pool, noticed; a topic is told once per job."""
        told = ("" if chunk is None else chunk.job.name, notice.topic)
        if notice.topic == "chunk_video" and chunk is not None:
            self._chunk_video(chunk, notice.message)
        elif told not in self._notes:
            self._notes[told] = notice.message
            self.event("warning", chunk, topic=notice.topic, message=notice.message)

    def tuned(self, chunk: Chunk, tuned: Tuned) -> None:
        """Tell which slots were chosen for the chunk's job."""
        self.event("tuned", chunk, **tuned.to_json())

    def stopped_early(self, job_name: str, stopped: Stopped) -> None:
        """Tell that a job hands out nothing more because it is sure; how many are in flight then is left out."""
        facts = {key: value for key, value in stopped.to_json().items() if key != "beyond"}
        message = f"{stopped.metric} is known to within {stopped.half_width:.3g} after {stopped.at} episodes"
        self.event("stopped_early", job=job_name, **facts, message=message)

    def _chunk_video(self, chunk: Chunk, path: str) -> None:
        """Tell of a video that shows all slots; `path` is relative to where the workers write."""
        self.event("chunk_video", chunk, path=path)
