"""Which episodes are done, running and waiting: told facts, it answers "which chunk next?".

Pure: no clock, no threads, no Ray. The driver tells it what arrived and carries out what it answers.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from arena_ray.records import EpisodeRecord, EpisodeStatus
from arena_ray.specs import Chunk, EvalJob

#: Called with (remaining, num_workers, num_slots, mean_episode_s); returns the length of the next chunk.
ChunkLength: TypeAlias = Callable[[int, int, int, "float | None"], int]

#: Called with (num_episodes, num_rebuilds); returns ``[start, stop)`` of the episodes of each rebuild.
RebuildBounds: TypeAlias = Callable[[int, int], "list[tuple[int, int]]"]

JobStatus: TypeAlias = Literal["completed", "failed", "incomplete"]


@dataclasses.dataclass(frozen=True, slots=True)
class LossRule:
    """What the loss of a worker means for the episodes that it had in flight.

    Attributes:
        charged: Whether it uses up one of the attempts of an episode (or of a start).
        status: What the record says when the attempts are used up.
    """

    charged: bool
    status: EpisodeStatus


#: The failure policy: cause of a loss -> whose fault it is.
LOSS_RULES = {
    "died": LossRule(charged=True, status="error"),
    "out_of_memory": LossRule(charged=True, status="error"),
    "stalled": LossRule(charged=True, status="timeout"),
    "episode_timeout": LossRule(charged=True, status="timeout"),
    "start_timeout": LossRule(charged=True, status="timeout"),
    "preempted": LossRule(charged=False, status="error"),
    "node_lost": LossRule(charged=False, status="error"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """An episode whose attempts are used up; the driver writes its record."""

    episode: int
    attempt: int
    status: EpisodeStatus


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What became of a lost chunk.

    Attributes:
        suspects: Episodes that were in flight and are tried again, each alone when the loss was charged.
        requeued: Episodes that only waited.
        exhausted: Episodes that get a record instead of another try.
        job_failed: Why the job takes no further chunk, if it does not.
    """

    suspects: tuple[int, ...] = ()
    requeued: tuple[int, ...] = ()
    exhausted: tuple[Exhausted, ...] = ()
    job_failed: str | None = None


@dataclasses.dataclass(slots=True)
class Counts:
    """Committed records of a job by status."""

    completed: int = 0
    error: int = 0
    timeout: int = 0

    @property
    def total(self) -> int:
        """All records."""
        return self.completed + self.error + self.timeout


@dataclasses.dataclass(slots=True)
class _Running:
    chunk: Chunk
    unrecorded: dict[int, None]
    started: set[int]
    ready: bool = False
    alone: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    episodes: tuple[int, ...]
    attempt: int
    rebuild: int


class _Episodes:
    """The set of recorded episodes of a job, in one byte each where their number is known."""

    def __init__(self, num_episodes: int | None) -> None:
        self._flags = bytearray(num_episodes or 0)
        self._others: set[int] = set()

    def add(self, episode: int) -> bool:
        """Add an episode; return whether it is new."""
        if episode in self:
            return False
        if episode < len(self._flags):
            self._flags[episode] = 1
        else:
            self._others.add(episode)
        return True

    def __contains__(self, episode: int) -> bool:
        return bool(self._flags[episode]) if episode < len(self._flags) else episode in self._others


class JobLedger:
    """One job's part of the ledger. The driver reads it; only `Ledger` changes it."""

    def __init__(self, job: EvalJob, bounds: list[tuple[int, int]]) -> None:
        self.job = job
        self.counts = Counts()
        self.failed: str | None = None
        self.mean_episode_s: float | None = None
        self._num_durations = 0
        self.running: dict[int, _Running] = {}
        self._recorded = _Episodes(job.num_episodes)
        self._bounds = bounds
        self._rebuild = 0
        self._cursor = 0
        self._fresh = job.num_episodes or 0
        self._pieces: deque[_Piece] = deque()
        self._charges: dict[int, int] = {}
        self._next_index = 0
        self._failed_starts: dict[int, int] = {}
        self._probe = True
        self._steps_done = False
        self._steps_attempts = 0
        self._steps_charges = 0

    @property
    def done(self) -> bool:
        """Whether every requested episode (or step) has been run."""
        if self.job.num_episodes is None:
            return self._steps_done
        return self.counts.total >= self.job.num_episodes

    @property
    def waiting(self) -> int:
        """Episodes that no worker has; 1 for a waiting `num_steps` budget."""
        if self.job.num_episodes is None:
            return 0 if self._steps_done or self.running else 1
        return self._fresh + sum(len(piece.episodes) for piece in self._pieces)

    @property
    def status(self) -> JobStatus:
        """``completed``: every requested episode has a completed record; ``failed``: some cannot; ``incomplete``."""
        if self.failed or self.counts.error or self.counts.timeout:
            return "failed"
        return "completed" if self.done else "incomplete"

    def mark_recorded(self, episode: int, status: EpisodeStatus) -> bool:
        """Count a record; return False, changing nothing, if the episode has one already."""
        if not self._recorded.add(episode):
            return False
        setattr(self.counts, status, getattr(self.counts, status) + 1)
        return True

    def mark_recorded_before(self, episode: int, status: EpisodeStatus) -> None:
        """Count a record that stood in the run directory before this driver began."""
        if self.mark_recorded(episode, status) and self.job.num_episodes is not None:
            self._fresh -= 1
            self._probe = False

    def observe_duration(self, duration_s: float) -> None:
        """Update the mean wall time of a completed episode."""
        mean = self.mean_episode_s or 0.0
        self._num_durations += 1
        self.mean_episode_s = mean + (duration_s - mean) / self._num_durations

    def take(self, length: Callable[[int], int], stop_on_error: bool) -> Chunk | None:
        """Return the next chunk: suspects and returned episodes first, then fresh ones."""
        if self.failed or not self.waiting:
            return None
        if self.job.num_episodes is None:
            self._steps_attempts += 1
            piece = _Piece((), self._steps_attempts, 0)
        else:
            piece = self._pieces.popleft() if self._pieces else self._cut(max(1, length(self._fresh)))
        chunk = Chunk(
            job=self.job,
            index=self._next_index,
            episodes=piece.episodes,
            attempt=piece.attempt,
            num_steps=self.job.num_steps,
            rebuild=piece.rebuild,
            probe_seeding=self._probe,
            stop_on_error=stop_on_error,
        )
        self._next_index += 1
        self._probe = False
        self.running[chunk.index] = _Running(chunk, dict.fromkeys(piece.episodes), set())
        return chunk

    def _cut(self, length: int) -> _Piece:
        """Return the next fresh episodes, all of one rebuild."""
        episodes: list[int] = []
        rebuild = self._rebuild
        while not episodes:
            rebuild, (_, stop) = self._rebuild, self._bounds[self._rebuild]
            while len(episodes) < length and self._cursor < stop:
                if self._cursor not in self._recorded:
                    episodes.append(self._cursor)
                self._cursor += 1
            self._rebuild += self._cursor >= stop
        self._fresh -= len(episodes)
        return _Piece(tuple(episodes), 1, rebuild)

    def ready(self, index: int) -> None:
        """Note that the worker of a chunk has built its environment and policy."""
        self.running[index].ready = True

    def started(self, index: int, episode: int) -> None:
        """Note that an episode began."""
        self.running[index].started.add(episode)

    def returned(self, index: int, episodes: Iterable[int]) -> None:
        """Note that episodes which had begun wait again; from now on the chunk runs them one at a time."""
        self.running[index].started -= set(episodes)
        self.running[index].alone = True

    def recorded(self, index: int, episode: int) -> None:
        """Note that a running chunk has delivered an episode."""
        running = self.running.get(index)
        if running is not None:
            running.unrecorded.pop(episode, None)
            running.started.discard(episode)

    def finished(self, index: int, *, cut_short: bool) -> None:
        """Take a chunk off; what it did not deliver waits again, uncharged."""
        running = self.running.pop(index)
        if self.job.num_episodes is None:
            self._steps_done = not cut_short and not self.failed
        self._return(running, tuple(running.unrecorded), running.chunk.attempt)

    def lost(self, index: int, rule: LossRule, max_attempts: int, reason: str) -> Loss:
        """Attribute the loss of a worker and decide what is tried again."""
        running = self.running.pop(index)
        self._probe = self._probe or running.chunk.probe_seeding
        if rule.charged and not running.ready:
            return self._lost_at_start(running, max_attempts, reason)
        if self.job.num_episodes is None:
            return self._lost_steps(rule, max_attempts, reason)
        return self._lost_episodes(running, rule, max_attempts)

    def _lost_at_start(self, running: _Running, max_attempts: int, reason: str) -> Loss:
        first = min(running.chunk.episodes, default=0)
        tries = self._failed_starts[first] = self._failed_starts.get(first, 0) + 1
        self._return(running, tuple(running.unrecorded), running.chunk.attempt)
        if tries >= max_attempts and self.failed is None:
            self.failed = f"the worker did not start in {tries} attempts: {reason}"
        return Loss(requeued=tuple(running.unrecorded), job_failed=self.failed)

    def _lost_steps(self, rule: LossRule, max_attempts: int, reason: str) -> Loss:
        self._steps_charges += rule.charged
        if self._steps_charges >= max_attempts:
            self.failed = f"the worker was lost in {self._steps_charges} attempts: {reason}"
        return Loss(job_failed=self.failed)

    def _lost_episodes(self, running: _Running, rule: LossRule, max_attempts: int) -> Loss:
        in_flight = self._in_flight(running)
        waited = tuple(episode for episode in running.unrecorded if episode not in in_flight)
        self._return(running, waited, running.chunk.attempt)
        attempt = running.chunk.attempt
        if not rule.charged:
            self._return(running, tuple(sorted(in_flight)), attempt + 1)
            return Loss(suspects=tuple(sorted(in_flight)), requeued=waited)
        suspects, exhausted = [], []
        for episode in sorted(in_flight, reverse=True):
            self._charges[episode] = self._charges.get(episode, 0) + 1
            if self._charges[episode] >= max_attempts:
                exhausted.append(Exhausted(episode=episode, attempt=attempt, status=rule.status))
            else:
                suspects.append(episode)
                self._return(running, (episode,), attempt + 1)
        return Loss(suspects=tuple(suspects[::-1]), requeued=waited, exhausted=tuple(exhausted[::-1]))

    def _in_flight(self, running: _Running) -> set[int]:
        """Return the episodes that were begun; at least one per slot, because slots pull in order.

        What a worker yields in its last microseconds may be lost with it, so the facts told are a lower bound.
        """
        in_flight = running.started & running.unrecorded.keys()
        if running.alone and in_flight:
            return in_flight
        return in_flight | set(list(running.unrecorded)[: self.job.num_envs])

    def _return(self, running: _Running, episodes: tuple[int, ...], attempt: int) -> None:
        if episodes:
            self._pieces.appendleft(_Piece(episodes, attempt, running.chunk.rebuild))


class Ledger:
    """All jobs' episodes: waiting, running, recorded.

    Args:
        jobs: The jobs, in the order in which they start.
        chunk_length: How long the next chunk of a job is.
        rebuild_bounds: How episodes are split between rebuilds.
        max_attempts: Tries of an episode, or of starting a worker, before it is given up.
        continue_on_error: Whether episodes go on after one failed.
    """

    def __init__(
        self,
        jobs: Sequence[EvalJob],
        *,
        chunk_length: ChunkLength,
        rebuild_bounds: RebuildBounds,
        max_attempts: int,
        continue_on_error: bool,
    ) -> None:
        self.jobs = {job.name: JobLedger(job, rebuild_bounds(job.num_episodes or 0, job.num_rebuilds)) for job in jobs}
        self.stopped: str | None = None
        self._chunk_length = chunk_length
        self._max_attempts = max_attempts
        self._continue_on_error = continue_on_error

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will be handed out."""
        return not any(job.running for job in self.jobs.values()) and not any(self.waiting_jobs())

    @property
    def completed(self) -> bool:
        """Whether every requested episode of every job has a completed record."""
        return all(job.status == "completed" for job in self.jobs.values())

    def waiting_jobs(self) -> Iterator[JobLedger]:
        """Yield the jobs that have a chunk to hand out, in order."""
        if self.stopped is None:
            yield from (job for job in self.jobs.values() if job.waiting and not job.failed)

    def take(self, job_name: str, num_workers: int) -> Chunk | None:
        """Return the next chunk of a job and count it as running; ``None`` if there is none.

        Args:
            job_name: The job.
            num_workers: Workers that can run this job at a time.
        """
        if self.stopped is not None:
            return None
        job = self.jobs[job_name]
        return job.take(
            lambda remaining: self._chunk_length(remaining, num_workers, job.job.num_envs, job.mean_episode_s),
            stop_on_error=not self._continue_on_error,
        )

    def resume_from(self, records: Iterable[tuple[str, int, EpisodeStatus]]) -> None:
        """Count the records (job, episode, status) that stand in the run directory already."""
        for job_name, episode, status in records:
            self.jobs[job_name].mark_recorded_before(episode, status)

    def ready(self, job_name: str, index: int) -> None:
        """Be told that the worker of a chunk has built environment and policy."""
        self.jobs[job_name].ready(index)

    def started(self, job_name: str, index: int, episode: int) -> None:
        """Be told that an episode began."""
        self.jobs[job_name].started(index, episode)

    def returned(self, job_name: str, index: int, episodes: Iterable[int]) -> None:
        """Be told that episodes which had begun wait again, to be run alone."""
        self.jobs[job_name].returned(index, episodes)

    def record(self, record: EpisodeRecord) -> bool:
        """Be told of a record; return whether it is the episode's first, and so to be written down."""
        job = self.jobs[record.job]
        if record.chunk is not None:
            job.recorded(record.chunk, record.episode)
        if not job.mark_recorded(record.episode, record.status):
            return False
        if record.status == "completed" and record.duration_s is not None:
            job.observe_duration(record.duration_s)
        return True

    def episode_failed(self, record: EpisodeRecord) -> None:
        """Be told that environment or policy broke an episode: that is deterministic, and ends the run by default."""
        if not self._continue_on_error:
            self.stop(f"episode {record.episode} of job {record.job!r} failed")

    def finished_chunk(self, job_name: str, index: int, *, cut_short: bool) -> None:
        """Be told that a worker has reached the end of a chunk.

        Args:
            job_name: The job.
            index: The chunk.
            cut_short: Whether workers have been told to start no further episode, so that it may have ended early.
        """
        self.jobs[job_name].finished(index, cut_short=cut_short)

    def lost_chunk(self, job_name: str, index: int, cause: str, reason: str) -> Loss:
        """Be told that a worker was lost with a chunk; return what is tried again and what is given up.

        Without `continue_on_error` an exhausted episode ends its own job only: a worker that dies fails no other job.

        Args:
            job_name: The job.
            index: The chunk.
            cause: A key of `LOSS_RULES`.
            reason: What happened, for people.
        """
        job = self.jobs[job_name]
        loss = job.lost(index, LOSS_RULES[cause], self._max_attempts, reason)
        if loss.exhausted and job.failed is None and not self._continue_on_error:
            gone = ", ".join(str(episode.episode) for episode in loss.exhausted)
            job.failed = f"the worker was lost {self._max_attempts} times with episode {gone}: {reason}"
        return dataclasses.replace(loss, job_failed=job.failed)

    def fail_job(self, job_name: str, reason: str) -> None:
        """Be told that a factory of a job raised: the job fails at once, and by default nothing further starts."""
        self.jobs[job_name].failed = self.jobs[job_name].failed or reason
        if not self._continue_on_error:
            self.stop(f"job {job_name!r} failed")

    def stop(self, reason: str) -> None:
        """Hand out no further chunk."""
        self.stopped = self.stopped or reason
