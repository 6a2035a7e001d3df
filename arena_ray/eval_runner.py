"""The driver: resolves one run directory, hands chunks to workers, and alone writes down what they stream back.

while the ledger is not finished:
    hand out chunks while the pool has room
    for what the pool reports: tell the ledger, write the record down
    end workers that passed a deadline
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from arena_ray import chunking
from arena_ray.config import EvalPlan, load_plan
from arena_ray.deadlines import Deadlines
from arena_ray.dispatch import Chunk
from arena_ray.errors import NotSharedError, StorageError
from arena_ray.hand_out import HandOut
from arena_ray.index_ranges import ranges_text
from arena_ray.journal import new_run
from arena_ray.ledger import FAULTS, Exhausted, History, Ledger, Loss, Quarantine
from arena_ray.narration import RunJournal, RunObserver
from arena_ray.pools import ChunkEvents, ChunkFinished, Place, PoolEvent, PoolNotice, WorkerLost, WorkerPool, open_pool
from arena_ray.records import EpisodeError, EpisodeRecord, WorkerInfo
from arena_ray.results import RunResult
from arena_ray.specs import EvalJob
from arena_ray.storage import NOT_DELIVERED, FileCollector
from arena_ray.worker_events import (
    ChunkUsage,
    Delivering,
    EpisodesReturned,
    EpisodeStarted,
    Event,
    Failure,
    FilePiece,
    MemorySample,
    Notice,
    Retiring,
    Tuned,
    WorkerReady,
)

ResultT = TypeVar("ResultT")

#: The driver looks at deadlines and signals at least so often, seconds.
TICK_S = 0.2

#: The type of error of an episode that lost its worker in every attempt.
WORKER_LOST = "WorkerLost"


def evaluate(
    jobs: str | os.PathLike[str] | Mapping[str, Any] | Sequence[EvalJob],
    *,
    overrides: Sequence[str] = (),
    observer: RunObserver | None = None,
    pool: WorkerPool | None = None,
    **flags: Any,
) -> RunResult:
    """Evaluate jobs and return what they came to.

    Args:
        jobs: Path of a job file, its content as a mapping, or a list of jobs.
        overrides: ``NAME:key=value``, as on the command line.
        observer: Watches the run.
        pool: Where workers run; ``None``: what the flags ask for. It is closed at the end.
        **flags: The flags of ``arena-ray run``, e.g. ``record_camera_video=True``.

    Returns:
        The result; its `status` says whether every episode was completed. SIGINT ends the run after the episodes in
        flight (``interrupted``).

    Raises:
        ConfigError: If the input is wrong; nothing has started then.
        NotEnoughResourcesError: If no node could ever run a worker of some job; nothing has started then.
        NotSharedError: If nodes do not reach the run directory, or the storage; nothing has started then.
        RunDirError: If the run directory cannot be created.
    """
    plan = load_plan(jobs, overrides, flags)
    return Run(plan, new_run(plan, observer)).execute(pool if pool is not None else open_pool(plan.settings))


class _EndAtOnce(BaseException):
    """Leaves a step of an environment in this process that may never return."""


class Run(Generic[ResultT]):
    """One run: everything between a plan and its result.

    Args:
        plan: What to do.
        open_journal: Called once with the hardware, when nothing can be refused any more; it decides where the run
            writes (`journal.new_run`: into a new run directory) and what becomes of a record.
        history: What stands in the run directory already; those episodes are not run.

    Attributes:
        signal: The signal that ended the run early, or ``None``.
        storage_error: Why the disk took no more records, or ``None``.
    """

    _journal: RunJournal[ResultT]
    _collector: FileCollector
    _hand_out: HandOut

    def __init__(
        self,
        plan: EvalPlan,
        open_journal: Callable[[Mapping[str, Any]], RunJournal[ResultT]],
        history: History | None = None,
    ) -> None:
        self.signal: int | None = None
        self.storage_error: StorageError | None = None
        self._plan = plan
        self._open_journal = open_journal
        self._ledger = Ledger(
            plan.jobs,
            chunk_length=self._chunk_length,
            rebuild_bounds=chunking.rebuild_bounds,
            max_attempts=plan.settings.max_attempts,
            continue_on_error=plan.settings.continue_on_error,
        )
        self._ledger.take_over(history or {})
        self._held: list[tuple[float, str]] = []
        self._no_room_since = time.monotonic()
        self._deadlines = Deadlines(plan.settings)
        self._ends_at_once = False
        self._runs_here = False
        self._known_workers: set[tuple[WorkerInfo, str]] = set()
        self._quarantine: Quarantine[Place] = Quarantine()
        self._memory: dict[tuple[str, int], dict[str, float | None]] = {}
        self._usage: dict[tuple[str, int], ChunkUsage] = {}
        self._lost_at: dict[tuple[str, int], Place] = {}
        self._given_up: set[tuple[str, int]] = set()
        self._told_pending: dict[str, float] = {}
        self._may_have_left_files = history is not None
        self._pool_stopped = False
        self._told_stopped = set(self._ledger.stopped_jobs())

    def _chunk_length(
        self, remaining: int, num_workers: int, num_slots: int, episode_s: tuple[float, float] | None
    ) -> int:
        wanted = self._plan.settings.chunk_size
        if wanted != "auto":
            return wanted
        return chunking.chunk_length(remaining, num_workers, num_slots, episode_s)

    def execute(self, pool: WorkerPool) -> ResultT:
        """Run to the end on a pool, which is closed afterwards."""
        with self._signals(), contextlib.closing(pool):
            waits_for = pool.check([job.job for job in self._ledger.waiting_jobs()])
            self._journal = self._open_journal(pool.hardware())
            self._journal.in_a_hurry = lambda: self._ends_at_once
            with self._journal:
                if waits_for is not None:
                    self._journal.event("warning", topic="waits_for_machines", message=waits_for)
                self._warn_of_deadlines(pool)
                self._collector = FileCollector(Path(self._journal.setup.run_dir))
                self._open(pool)
                try:
                    with contextlib.suppress(_EndAtOnce):
                        self._loop(pool)
                except StorageError as error:
                    self.storage_error = error
                    self._ledger.storage_failed(str(error))
                else:
                    self._take_leftovers(pool)
                finally:
                    result = self._finish()
                return result

    def _open(self, pool: WorkerPool) -> None:
        try:
            pool.open(self._journal.setup)
        except NotSharedError:
            self._journal.withdraw()
            raise

    def _take_leftovers(self, pool: WorkerPool) -> None:
        """Have what dead workers left on their machines' disks brought here, or to the storage, and removed."""
        if self._ends_at_once or not self._journal.setup.staged or not self._may_have_left_files:
            return
        for events in pool.leftovers(self._given_up):
            for item in events:
                if isinstance(item, FilePiece):
                    self._collector.take(("", 0), item)

    def _warn_of_deadlines(self, pool: WorkerPool) -> None:
        if pool.can_kill:
            return
        settings = self._plan.settings
        if settings.episode_timeout is not None:
            message = "deadlines are not kept: this process cannot end a worker that is itself; leave out --inline"
            self._journal.event("warning", topic="no_deadlines", message=message)
        if settings.max_episodes_per_worker or any(job.resources.memory_gb for job in self._plan.jobs):
            message = "limits of workers are not kept: this process cannot replace itself; leave out --inline"
            self._journal.event("warning", topic="no_limits", message=message)

    def _loop(self, pool: WorkerPool) -> None:
        asked_for = self._plan.settings.num_workers is not None
        self._hand_out = HandOut(self._ledger, pool, lambda chunk: self._submit(chunk, pool), asked_for)
        while not self._ledger.finished and not self._ends_at_once:
            waited_s = self._journal.waited_s
            self._release()
            self._hand_out.go_round()
            for event in self._wait(pool):
                self._handle(event, pool)
            self._deadlines.shift(self._journal.waited_s - waited_s)
            self._keep_deadlines(pool)
            self._watch_for_room()
            if self._ledger.stopped is not None and not self._pool_stopped:
                self._pool_stopped = True
                pool.stop()
            self._journal.tick()

    def _watch_for_room(self) -> None:
        """End a run, resumable, when for too long no machine has had room for any of its workers."""
        job = None if self._ledger.num_running or self._held else next(self._ledger.waiting_jobs(), None)
        if job is None:
            self._no_room_since = time.monotonic()
            return
        limit_s = self._plan.settings.start_timeout
        if time.monotonic() - self._no_room_since > limit_s:
            reason = f"no machine has had room for a worker of job {job.job.name!r} for {limit_s:g} s"
            self._ledger.stop(reason)
            self._journal.event("warning", topic="no_room", message=reason)

    def _wait(self, pool: WorkerPool) -> list[PoolEvent]:
        """Wait for the pool; where it runs the environment in this process, a signal may break off the wait."""
        self._runs_here = not pool.can_kill
        try:
            return pool.wait(TICK_S)
        finally:
            self._runs_here = False

    def _finish(self) -> ResultT:
        ended_early = "failed" if self.signal is None else "interrupted"
        status = "completed" if self._ledger.completed and self.storage_error is None else ended_early
        verdicts = {name: (job.status, job.failure) for name, job in self._ledger.jobs.items()}
        return self._journal.finish(status, verdicts)

    def _submit(self, chunk: Chunk, pool: WorkerPool) -> None:
        indices = ranges_text(chunk.episodes)
        self._journal.event("chunk_started", chunk, episodes=len(chunk.episodes), indices=indices)
        pool.submit(chunk, self._place_to_avoid(chunk))
        self._deadlines.submitted(chunk)

    def _place_to_avoid(self, chunk: Chunk) -> Place | None:
        """Return where an episode of a chunk lost its worker the last time."""
        if not self._lost_at:
            return None
        places = (self._lost_at.get((chunk.job.name, episode)) for episode in chunk.episodes)
        return next((place for place in places if place is not None), None)

    def _release(self) -> None:
        """Let jobs go on whose back-off is over."""
        now = time.monotonic()
        for until, job_name in [held for held in self._held if held[0] <= now]:
            self._held.remove((until, job_name))
            self._ledger.release(job_name)
            self._hand_out.changed(job_name)

    def _handle(self, event: PoolEvent, pool: WorkerPool) -> None:
        if isinstance(event, PoolNotice):
            self._journal.note(None, event.notice)
            return
        chunk = event.chunk
        if isinstance(event, ChunkEvents):
            self._deadlines.arrived(chunk)
            for item in event.events:
                self._take_in(chunk, item, pool)
        elif isinstance(event, ChunkFinished):
            self._deadlines.over(chunk)
            held = self._memory.pop((chunk.job.name, chunk.index), {})
            usage = self._usage.pop((chunk.job.name, chunk.index), None)
            spent = {} if usage is None else {"usage": usage.to_json()}
            self._journal.event("chunk_finished", chunk, cut_short=self._ledger.stopped is not None, **held, **spent)
            self._ledger.finished_chunk(chunk.job.name, chunk.index, cut_short=self._ledger.stopped is not None)
            self._hand_out.over(chunk)
        else:
            self._lost(event, pool)

    def _take_in(self, chunk: Chunk, item: Event, pool: WorkerPool) -> None:
        name, index = chunk.job.name, chunk.index
        self._deadlines.heard(chunk, item)
        if isinstance(item, FilePiece):
            self._collector.take((name, index), item)
        elif isinstance(item, Delivering):
            self._ledger.ended(name, index, item.episodes)
        elif isinstance(item, EpisodeRecord):
            self._commit(self._collector.judged((name, index), item))
            place = pool.place_of(chunk)
            if item.status == "completed" and place is not None:
                self._quarantine.completed(place)
            if item.error is not None:
                self._ledger.episode_failed(item, item.error.cause)
        elif isinstance(item, EpisodeStarted):
            self._ledger.started(name, index, item.episode)
        elif isinstance(item, EpisodesReturned):
            self._ledger.returned(name, index, item.episodes)
        elif isinstance(item, WorkerReady):
            self._ledger.ready(name, index)
            if (item.worker, name) not in self._known_workers:
                self._known_workers.add((item.worker, name))
                self._ledger.observe_start(name, item.build_s)
                self._journal.event("worker_started", chunk, **item.to_json(), **self._memory.get((name, index), {}))
        elif isinstance(item, MemorySample):
            held = self._memory[name, index] = {"resident_mb": item.resident_mb, "gpu_mb": item.gpu_mb}
            if item.amid:
                self._journal.event("worker_memory", chunk, **held)
        elif isinstance(item, ChunkUsage):
            self._usage[name, index] = item
        elif isinstance(item, Tuned):
            self._ledger.tuned(name, item.choice)
            self._hand_out.changed(name)
            self._journal.tuned(chunk, item)
        elif isinstance(item, Retiring):
            self._journal.event("worker_retired", chunk, reason=item.reason)
        elif isinstance(item, Notice):
            self._journal.note(chunk, item)
        elif isinstance(item, Failure):
            self._failed(chunk, item, pool)

    def _commit(self, record: EpisodeRecord) -> None:
        if self._ledger.record(record):
            for video in record.videos:
                if (video.error or "").startswith(NOT_DELIVERED):
                    message = f"episode {record.episode}: {video.path}: {video.error}"
                    where = {"job": record.job, "chunk": record.chunk, "attempt": record.attempt}
                    self._journal.event("warning", **where, topic="not_delivered", message=message)
            self._journal.commit(record)
            if self._ledger.jobs[record.job].is_sure and record.job not in self._told_stopped:
                self._told_stopped.add(record.job)
                self._journal.stopped_early(record.job, self._ledger.stopped_jobs()[record.job])

    def _failed(self, chunk: Chunk, failure: Failure, pool: WorkerPool) -> None:
        text = f"{failure.error.type}: {failure.error.message}"
        topic = f"{failure.kind}_failed"
        self._journal.event("warning", chunk, topic=topic, message=text, traceback=failure.error.traceback)
        if failure.kind == "worker" and pool.can_kill:
            pool.kill(chunk, "died", text)
        else:
            self._ledger.fail_job(chunk.job.name, text)

    def _lost(self, loss: WorkerLost, pool: WorkerPool) -> None:
        chunk = loss.chunk
        self._deadlines.over(chunk)
        self._collector.drop((chunk.job.name, chunk.index))
        self._may_have_left_files = True
        self._memory.pop((chunk.job.name, chunk.index), None)
        self._journal.event("worker_lost", chunk, cause=loss.cause, message=loss.message)
        verdict = self._ledger.lost_chunk(chunk.job.name, chunk.index, loss.cause, loss.message)
        self._hand_out.over(chunk)
        if verdict.suspects or verdict.requeued:
            waits = {"back_off_s": verdict.back_off_s} if verdict.back_off_s else {}
            self._journal.event("requeued", chunk, suspects=[*verdict.suspects], waiting=[*verdict.requeued], **waits)
        if verdict.slots is not None:
            self._journal.tuned(chunk, Tuned(choice=verdict.slots))
        if verdict.back_off_s:
            self._held.append((time.monotonic() + verdict.back_off_s, chunk.job.name))
        if self._ledger.broken is not None and verdict.at_start:
            self._journal.event("warning", chunk, topic="no_worker_starts", message=self._ledger.broken)
        for exhausted in verdict.exhausted:
            self._given_up.add((chunk.job.name, exhausted.episode))
            self._commit(_exhausted_record(chunk, exhausted, loss))
        if loss.place is not None and FAULTS[loss.cause].charged:
            self._suspect(loss.place, chunk, verdict, pool)

    def _suspect(self, place: Place, chunk: Chunk, verdict: Loss, pool: WorkerPool) -> None:
        """Hold a loss against the place where it happened, and quarantine a place where too many happen."""
        name = chunk.job.name
        in_flight = [*verdict.suspects, *(one.episode for one in verdict.exhausted)]
        again = (*verdict.suspects, *(verdict.requeued if verdict.at_start else ()))
        self._lost_at.update(((name, episode), place) for episode in again)
        suspects: set[tuple[str, int | None]] = {(name, episode) for episode in in_flight}
        if verdict.at_start and all(job_name != name for _, job_name in self._known_workers):
            suspects = {(name, None)}  # No worker of this job has ever been ready: it may be the job.
        if self._quarantine.lost(place, suspects, elsewhere=pool.has_place_besides(place, chunk.job)):
            pool.quarantine(place)
            self._journal.event("quarantined", chunk, **dataclasses.asdict(place))
            message = f"{place} is quarantined: workers kept dying there, whichever episode they ran"
            self._journal.note(chunk, Notice(topic=f"quarantined {place}", message=message))

    def _keep_deadlines(self, pool: WorkerPool) -> None:
        if pool.can_kill:
            for chunk, cause, message in self._deadlines.passed():
                if cause == "start_timeout" and pool.is_pending(chunk):
                    self._still_pending(chunk)
                    continue
                if cause != "start_timeout":
                    self._journal.event("episode_timeout", chunk, cause=cause, message=message)
                pool.kill(chunk, cause, message)

    def _still_pending(self, chunk: Chunk) -> None:
        """Wait on for a machine as long as other workers work; else end the run, which can be resumed."""
        name, limit_s, now = chunk.job.name, self._plan.settings.start_timeout, time.monotonic()
        waits = f"a worker of job {name!r} has waited {limit_s:g} s for a machine"
        self._deadlines.submitted(chunk)
        if not self._deadlines.anybody_works and self._ledger.stopped is None:
            waits += ", and no worker has one"
            self._ledger.stop(waits)
        elif now - self._told_pending.get(name, -limit_s) < limit_s:
            return  # An autoscaler is asked for some machines at a time, and those of a job that wait, wait together.
        self._told_pending[name] = now
        self._journal.event("warning", chunk, topic="pending", message=waits)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into an orderly end; elsewhere than in the main thread Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGINT once: episodes in flight finish; twice, or SIGTERM: at once."""
        self._ends_at_once = self._ends_at_once or number == signal.SIGTERM or self.signal is not None
        self.signal = number
        self._ledger.stop(f"stopped by {signal.Signals(number).name}")
        if self._ends_at_once and self._runs_here:
            self._runs_here = False
            raise _EndAtOnce


def _exhausted_record(chunk: Chunk, exhausted: Exhausted, loss: WorkerLost) -> EpisodeRecord:
    """Return the record of an episode that lost its worker in every attempt."""
    job = chunk.job
    return EpisodeRecord(
        job=job.name,
        episode=exhausted.episode,
        seed=chunking.episode_seed(job.seed, exhausted.episode),
        status=exhausted.status,
        metrics={metric.key: None for metric in job.metrics},
        chunk=chunk.index,
        attempt=exhausted.attempt,
        error=EpisodeError(
            type=WORKER_LOST, message=f"{loss.cause} in attempt {exhausted.attempt}: {loss.message}", traceback=None
        ),
    )


if __name__ == "__main__":
    from arena_ray.cli import main

    main(["run", *sys.argv[1:]])
