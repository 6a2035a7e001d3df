"""The driver: resolves one run directory, hands chunks to workers, and alone writes down what they stream back.

    while the ledger is not finished:
        hand out chunks while the pool has room
        for what the pool reports: tell the ledger, append the record
        end workers that passed a deadline
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from arena_ray import chunking
from arena_ray.config import EvalPlan, load_plan
from arena_ray.ledger import Exhausted, Ledger
from arena_ray.pools import ChunkEvents, ChunkFinished, PoolEvent, WorkerLost, WorkerPool, open_pool
from arena_ray.records import (
    EpisodeError,
    EpisodeRecord,
    EpisodeStarted,
    Event,
    Failure,
    Notice,
    Progress,
    WorkerInfo,
    WorkerReady,
)
from arena_ray.results import RunResult, tallies_for
from arena_ray.run_dir import LineLog, Provenance, RunDir, git_state, run_document, utc_text
from arena_ray.specs import Chunk, EvalJob, RunSettings, WorkerSetup

#: The driver looks at deadlines and signals at least so often.
TICK_S = 0.2

#: Records are forced to the disk at least so often.
SYNC_PERIOD_S = 1.0


class RunObserver(Protocol):
    """Watches a run, to show it."""

    def started(self, run_dir: Path, ledger: Ledger) -> None:
        """Be told where the run writes, before the first chunk."""
        ...

    def recorded(self, record: EpisodeRecord) -> None:
        """Be told of a committed record."""
        ...

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Be told of a line of ``events.jsonl``."""
        ...

    def tick(self) -> None:
        """Be told that some time has passed."""
        ...

    def finished(self, result: RunResult) -> None:
        """Be told what the run came to."""
        ...


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
        pool: Where workers run; ``None``: what the flags ask for.
        **flags: The flags of ``arena-ray run``, e.g. ``record_camera_video=True``.

    Returns:
        The result; its `status` says whether every episode was completed. SIGINT ends the run after the episodes in
        flight (``interrupted``).

    Raises:
        ConfigError: If the input is wrong; nothing has started then.
        NotEnoughResourcesError: If no node could ever run a worker of some job; nothing has started then.
        RunDirError: If the run directory cannot be created.
    """
    plan = load_plan(jobs, overrides, flags)
    run = Run(plan, observer)
    return run.execute(pool if pool is not None else open_pool(plan.settings))


class Run:
    """One run: everything between a plan and its result.

    Args:
        plan: What to do.
        observer: Watches the run.
        argv: The command, for ``run.json``; by default this process's.
    """

    def __init__(self, plan: EvalPlan, observer: RunObserver | None = None, argv: Sequence[str] | None = None) -> None:
        self.signal: int | None = None
        self._plan = plan
        self._settings: RunSettings = plan.settings
        self._observer = observer
        self._argv = tuple(sys.argv if argv is None else argv)
        self._ledger = Ledger(
            plan.jobs,
            chunk_length=self._chunk_length,
            rebuild_bounds=chunking.rebuild_bounds,
            max_attempts=plan.settings.max_attempts,
            continue_on_error=plan.settings.continue_on_error,
        )
        self._tallies = tallies_for(plan.jobs)
        self._notes: dict[tuple[str, str], str] = {}
        self._deadlines = _Deadlines(plan.settings)

    def _chunk_length(self, remaining: int, num_workers: int, num_slots: int, mean_episode_s: float | None) -> int:
        if self._settings.chunk_size != "auto":
            return self._settings.chunk_size
        return chunking.chunk_length(remaining, num_workers, num_slots, mean_episode_s)

    def execute(self, pool: WorkerPool) -> RunResult:
        """Run to the end on a pool, which is closed afterwards."""
        with contextlib.closing(pool), self._signals():
            pool.check(self._plan.jobs)
            now = datetime.datetime.now(datetime.timezone.utc)
            run_dir = RunDir.create(self._settings.video_base_dir, now.astimezone())
            provenance = Provenance(
                argv=self._argv, git=git_state(Path.cwd()), versions=_versions(), hardware=pool.hardware()
            )
            with LineLog(run_dir.episodes_file) as self._episodes, LineLog(run_dir.events_file) as self._events:
                return self._execute(pool, run_dir, provenance, utc_text(now))

    def _execute(self, pool: WorkerPool, run_dir: RunDir, provenance: Provenance, started_at: str) -> RunResult:
        def write_run(status: str, finished_at: str | None = None) -> None:
            run_dir.write_run(
                run_document(
                    status=status,
                    jobs=self._plan.document["jobs"],
                    settings=self._settings.model_dump(mode="json"),
                    provenance=provenance,
                    notes=list(self._notes.values()),
                    started_at=started_at,
                    finished_at=finished_at,
                )
            )

        write_run("running")
        self._event("run_started", jobs=[job.name for job in self._plan.jobs])
        if self._observer is not None:
            self._observer.started(run_dir.path, self._ledger)
        pool.open(WorkerSetup(run_dir=str(run_dir.path), python_path=_python_path(self._plan.folder)))
        try:
            self._loop(pool)
        finally:
            result = self._result(run_dir)
            self._event("run_finished", status=result.status)
            run_dir.write_summary(result.summary())
            write_run(result.status, utc_text(datetime.datetime.now(datetime.timezone.utc)))
        if self._observer is not None:
            self._observer.finished(result)
        return result

    def _loop(self, pool: WorkerPool) -> None:
        synced_at = time.monotonic()
        while not self._ledger.finished and not self._ended_at_once:
            self._hand_out(pool)
            for event in pool.wait(TICK_S):
                self._handle(event, pool)
            self._keep_deadlines(pool)
            if self._ledger.stopped is not None:
                self._stop_pool(pool)
            if time.monotonic() - synced_at > SYNC_PERIOD_S:
                self._episodes.sync()
                synced_at = time.monotonic()
            if self._observer is not None:
                self._observer.tick()

    def _hand_out(self, pool: WorkerPool) -> None:
        for job in self._ledger.waiting_jobs():
            while job.waiting and pool.has_room(job.job):
                chunk = self._ledger.take(job.job.name, pool.num_workers(job.job))
                if chunk is None:
                    break
                self._event("chunk_started", chunk, episodes=len(chunk.episodes))
                self._deadlines.submitted(chunk)
                pool.submit(chunk)

    def _handle(self, event: PoolEvent, pool: WorkerPool) -> None:
        chunk = event.chunk
        if isinstance(event, ChunkEvents):
            for item in event.events:
                self._take_in(chunk, item, pool)
        elif isinstance(event, ChunkFinished):
            self._deadlines.over(chunk)
            self._event("chunk_finished", chunk)
            self._ledger.finished_chunk(chunk.job.name, chunk.index, cut_short=self._ledger.stopped is not None)
        else:
            self._lost(event)

    def _take_in(self, chunk: Chunk, item: Event, pool: WorkerPool) -> None:
        name, index = chunk.job.name, chunk.index
        self._deadlines.heard(chunk, item)
        if isinstance(item, EpisodeRecord):
            self._commit(item)
            if item.status == "error":
                self._ledger.episode_failed(item)
        elif isinstance(item, EpisodeStarted):
            self._ledger.started(name, index, item.episode)
        elif isinstance(item, WorkerReady):
            self._ledger.ready(name, index)
            self._event("worker_started", chunk, worker=dataclasses.asdict(item.worker), build_s=round(item.build_s, 3))
        elif isinstance(item, Notice):
            self._notice(chunk, item)
        elif isinstance(item, Failure):
            self._failed(chunk, item, pool)

    def _commit(self, record: EpisodeRecord) -> None:
        if not self._ledger.record(record):
            return
        for name in record.non_finite():
            self._event(
                "warning", job=record.job, chunk=record.chunk, topic="not_finite",
                message=f"episode {record.episode}: {name} is not a finite number; it is recorded as null",
            )
        self._episodes.append(record.to_json())
        self._tallies[record.job].add(record)
        if self._observer is not None:
            self._observer.recorded(record)

    def _notice(self, chunk: Chunk, notice: Notice) -> None:
        if notice.topic == "chunk_video":
            self._event("chunk_video", chunk, path=notice.message)
            return
        if (chunk.job.name, notice.topic) not in self._notes:
            self._notes[chunk.job.name, notice.topic] = notice.message
            self._event("warning", chunk, topic=notice.topic, message=notice.message)

    def _failed(self, chunk: Chunk, failure: Failure, pool: WorkerPool) -> None:
        text = f"{failure.error.type}: {failure.error.message}"
        if failure.kind == "build":
            self._event("warning", chunk, topic="build_failed", message=text, traceback=failure.error.traceback)
            self._ledger.fail_job(chunk.job.name, text)
        elif pool.can_kill:
            pool.kill(chunk, "died", text)
        else:
            self._event("warning", chunk, topic="worker_failed", message=text, traceback=failure.error.traceback)
            self._ledger.fail_job(chunk.job.name, text)

    def _lost(self, loss: WorkerLost) -> None:
        chunk = loss.chunk
        self._deadlines.over(chunk)
        self._event("worker_lost", chunk, cause=loss.cause, message=loss.message)
        verdict = self._ledger.lost_chunk(chunk.job.name, chunk.index, loss.cause, loss.message)
        if verdict.suspects or verdict.requeued:
            self._event("requeued", chunk, suspects=[*verdict.suspects], waiting=[*verdict.requeued])
        for exhausted in verdict.exhausted:
            self._commit(_exhausted_record(chunk, exhausted, loss))

    def _keep_deadlines(self, pool: WorkerPool) -> None:
        if not pool.can_kill:
            return
        for chunk, cause, message in self._deadlines.passed():
            self._event("episode_timeout", chunk, cause=cause, message=message)
            pool.kill(chunk, cause, message)

    def _stop_pool(self, pool: WorkerPool) -> None:
        if not self._pool_stopped:
            self._pool_stopped = True
            pool.stop()

    _pool_stopped = False
    _ended_at_once = False

    def _result(self, run_dir: RunDir) -> RunResult:
        if self._ledger.completed:
            status = "completed"
        else:
            status = "interrupted" if self.signal is not None else "failed"
        verdicts = {name: (job.status, job.failed) for name, job in self._ledger.jobs.items()}
        jobs = list(self._plan.jobs)
        return RunResult.from_tallies(run_dir.path, status, jobs, self._tallies, verdicts, tuple(self._notes.values()))

    def _event(self, kind: str, chunk: Chunk | None = None, **fields: Any) -> None:
        now = utc_text(datetime.datetime.now(datetime.timezone.utc))
        where = {} if chunk is None else {"job": chunk.job.name, "chunk": chunk.index, "attempt": chunk.attempt}
        line = {"time": now, "kind": kind, **where, **fields}
        self._events.append(line)
        if self._observer is not None:
            self._observer.event(kind, line)

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
        self._ended_at_once = self._ended_at_once or number == signal.SIGTERM or self.signal is not None
        self.signal = number
        self._ledger.stop(f"stopped by {signal.Signals(number).name}")


class _Deadlines:
    """Until when each running chunk must be heard of. Only here does the driver look at the time of workers."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._building: dict[tuple[str, int], tuple[Chunk, float]] = {}
        self._heard: dict[tuple[str, int], tuple[Chunk, float, int]] = {}
        self._episodes: dict[tuple[str, int], dict[int, float]] = {}

    def submitted(self, chunk: Chunk) -> None:
        """Begin to wait for a chunk's worker."""
        self._building[_key(chunk)] = (chunk, time.monotonic())
        self._episodes[_key(chunk)] = {}

    def heard(self, chunk: Chunk, item: Event) -> None:
        """Note what a worker said."""
        key, now = _key(chunk), time.monotonic()
        if isinstance(item, WorkerReady):
            self._building.pop(key, None)
            self._heard[key] = (chunk, now, -1)
        elif isinstance(item, Progress):
            if item.steps > self._heard.get(key, (chunk, now, -1))[2]:
                self._heard[key] = (chunk, now, item.steps)
        elif isinstance(item, EpisodeStarted):
            self._episodes[key][item.episode] = now
        elif isinstance(item, EpisodeRecord):
            self._episodes.get(key, {}).pop(item.episode, None)

    def over(self, chunk: Chunk) -> None:
        """Forget a chunk."""
        for table in (self._building, self._heard, self._episodes):
            table.pop(_key(chunk), None)

    def passed(self) -> Iterator[tuple[Chunk, str, str]]:
        """Yield the chunks whose deadline has passed, once each: chunk, cause, message."""
        now, settings = time.monotonic(), self._settings
        for chunk, since in list(self._building.values()):
            if now - since > settings.start_timeout:
                yield self._give_up(chunk, "start_timeout", f"not built after {settings.start_timeout:g} s")
        for chunk, since, _ in list(self._heard.values()):
            late = self._late_episode(chunk, now)
            if late is not None:
                message = f"episode {late} took longer than {settings.episode_timeout:g} s"
                yield self._give_up(chunk, "episode_timeout", message)
            elif now - since > settings.stall_timeout:
                yield self._give_up(chunk, "stalled", f"no environment step for {settings.stall_timeout:g} s")

    def _late_episode(self, chunk: Chunk, now: float) -> int | None:
        limit = self._settings.episode_timeout
        started = self._episodes.get(_key(chunk), {})
        if limit is None:
            return None
        return next((episode for episode, since in started.items() if now - since > limit), None)

    def _give_up(self, chunk: Chunk, cause: str, message: str) -> tuple[Chunk, str, str]:
        self._building.pop(_key(chunk), None)
        self._heard.pop(_key(chunk), None)
        return chunk, cause, message


def _key(chunk: Chunk) -> tuple[str, int]:
    return chunk.job.name, chunk.index


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
            type="WorkerLost", message=f"{loss.cause} in attempt {exhausted.attempt}: {loss.message}", traceback=None
        ),
    )


def _python_path(folder: Path | None) -> tuple[str, ...]:
    """Return where entry points are looked for besides the installed packages: the job file's folder, then here."""
    here = str(Path.cwd())
    return (here,) if folder is None or str(folder) == here else (str(folder), here)


def _versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    names = ("arena-ray", "ray", "torch", "gymnasium", "numpy", "av", "mujoco", "stable-baselines3")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


if __name__ == "__main__":
    from arena_ray.cli import main

    main(["run", *sys.argv[1:]])
