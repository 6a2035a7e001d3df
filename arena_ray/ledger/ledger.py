"""All jobs' episodes: waiting, running, recorded. Told facts, it answers "which chunk next?".

The driver tells it what arrived and carries out what it answers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from arena_ray.dispatch import Chunk
from arena_ray.ledger.facts import History, JobHistory, Loss
from arena_ray.ledger.failure_policy import FAULTS
from arena_ray.ledger.job_ledger import JobLedger
from arena_ray.records import EpisodeRecord
from arena_ray.specs import EvalJob, SlotChoice
from arena_ray.stopping import Stopped

#: Called with (remaining, num_workers, num_slots, mean and largest duration of episodes); returns the length of the
#: next chunk.
ChunkLength: TypeAlias = Callable[[int, int, int, "tuple[float, float] | None"], int]

#: Called with (num_episodes, num_rebuilds); returns ``[start, stop)`` of the episodes of each rebuild.
RebuildBounds: TypeAlias = Callable[[int, int], "list[tuple[int, int]]"]

#: Episodes of a chunk whose worker is yet to choose its slots.
UNTUNED_EPISODES = 16

#: What the process of a worker takes to start before it builds anything, about, seconds.
PROCESS_START_S = 3.0

#: The breaker takes a run for one of at least so many workers: one or two broken jobs end no run.
FEWEST_WORKERS = 3


class Ledger:
    """All jobs' episodes: waiting, running, recorded.

    Args:
        jobs: The jobs, in the order in which they start.
        chunk_length: How long the next chunk of a job is.
        rebuild_bounds: How episodes are split between rebuilds.
        max_attempts: Tries of an episode, or of starting a worker, before it is given up.
        continue_on_error: Whether episodes go on after one failed.

    Attributes:
        jobs: Each job's part, by name.
        stopped: Why no further chunk is handed out, or ``None``.
        broken: Why, if it is because no worker starts.
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
        self.broken: str | None = None
        self._chunk_length = chunk_length
        self._max_attempts = max_attempts
        self._continue_on_error = continue_on_error
        self._failed_starts_in_a_row = 0
        self._num_running = self._most_running = 0

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will be handed out."""
        return not self._num_running and not any(self.waiting_jobs())

    @property
    def num_running(self) -> int:
        """Chunks that run."""
        return self._num_running

    @property
    def completed(self) -> bool:
        """Whether every requested episode of every job has a completed record."""
        return all(job.status == "completed" for job in self.jobs.values())

    def waiting_jobs(self) -> Iterator[JobLedger]:
        """Yield the jobs that have a chunk to hand out, in order; a job that is sure has none."""
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
        num_slots = UNTUNED_EPISODES if job.job.needs_tuning else job.job.num_slots
        chunk = job.take(
            lambda remaining: self._chunk_length(remaining, num_workers, num_slots, job.episode_s),
            stop_on_error=not self._continue_on_error,
            most_slots=math.ceil((job.job.num_episodes or 1) / num_workers),
        )
        if chunk is not None:
            self._num_running += 1
            self._most_running = max(self._most_running, self._num_running)
        return chunk

    def tuned(self, job_name: str, choice: SlotChoice) -> None:
        """Be told which slots a job's first worker chose."""
        self.jobs[job_name].tuned(choice)

    def take_over(self, history: History) -> None:
        """Count what stands in the run directory already; to be called before anything else."""
        for name, job in self.jobs.items():
            job.take_over(history.get(name, JobHistory()))

    def release(self, job_name: str) -> None:
        """Be told that the back-off of a loss is over."""
        self.jobs[job_name].held = False

    def ready(self, job_name: str, index: int) -> None:
        """Be told that the worker of a chunk has built environment and policy."""
        self._failed_starts_in_a_row = 0
        self.jobs[job_name].ready(index)

    def observe_start(self, job_name: str, build_s: float) -> None:
        """Be told how long a new worker took to build environment and policy, seconds."""
        self.jobs[job_name].observe_start(PROCESS_START_S + build_s)

    def started(self, job_name: str, index: int, episode: int) -> None:
        """Be told that an episode began."""
        self.jobs[job_name].started(index, episode)

    def returned(self, job_name: str, index: int, episodes: Iterable[int]) -> None:
        """Be told that episodes which had begun wait again, to be run alone."""
        self.jobs[job_name].returned(index, episodes)

    def ended(self, job_name: str, index: int, episodes: Iterable[int]) -> None:
        """Be told that episodes have ended, and that their records will come."""
        self.jobs[job_name].ended(index, episodes)

    def record(self, record: EpisodeRecord) -> bool:
        """Be told of a record; return whether it is the episode's first, and so to be written down."""
        job = self.jobs[record.job]
        if record.chunk is not None:
            job.recorded(record.chunk, record.episode)
        if not job.mark_recorded(record.episode, record.status, record.success):
            return False
        if record.status == "completed" and record.duration_s is not None:
            job.observe_duration(record.duration_s)
        return True

    def episode_failed(self, record: EpisodeRecord, cause: str) -> None:
        """Be told that environment or policy broke an episode; one that does not count ends nothing.

        Args:
            record: Its record.
            cause: ``environment_error`` or ``policy_error``.
        """
        if not self._counts(record):
            return
        self._ends(cause, f"episode {record.episode} of job {record.job!r} failed")

    def _counts(self, record: EpisodeRecord) -> bool:
        rule = self.jobs[record.job].rule
        return rule is None or rule.at is None or record.episode < rule.at

    def _ends(self, cause: str, reason: str) -> None:
        ends = FAULTS[cause].ends
        if ends == "run" or (ends == "run unless continue_on_error" and not self._continue_on_error):
            self.stop(reason)

    def storage_failed(self, reason: str) -> None:
        """Be told that the disk takes no more records."""
        self._ends("storage_error", reason)

    def finished_chunk(self, job_name: str, index: int, *, cut_short: bool) -> None:
        """Be told that a worker has reached the end of a chunk.

        Args:
            job_name: The job.
            index: The chunk.
            cut_short: Whether workers have been told to start no further episode, so that it may have ended early.
        """
        self._num_running -= 1
        self.jobs[job_name].finished(index, cut_short=cut_short)

    def lost_chunk(self, job_name: str, index: int, cause: str, reason: str) -> Loss:
        """Be told that a worker was lost with a chunk; return what is tried again and what is given up.

        Without `continue_on_error` an exhausted episode ends its own job only: a worker that dies fails no other job.

        Args:
            job_name: The job.
            index: The chunk.
            cause: A key of `FAULTS`.
            reason: What happened, for people.
        """
        job = self.jobs[job_name]
        self._num_running -= 1
        loss = job.lost(index, cause, FAULTS[cause], self._max_attempts, reason)
        if loss.exhausted and job.failed is None and not self._continue_on_error:
            gone = ", ".join(str(episode.episode) for episode in loss.exhausted)
            job.failed = f"the worker was lost {self._max_attempts} times with episode {gone}: {reason}"
        if loss.at_start:
            self._count_failed_start(reason)
        return dataclasses.replace(loss, job_failed=job.failed)

    def _count_failed_start(self, reason: str) -> None:
        """The breaker: end a run whose every worker dies at start."""
        self._failed_starts_in_a_row += 1
        if self._failed_starts_in_a_row >= self._max_attempts * max(self._most_running, FEWEST_WORKERS):
            self.broken = (
                f"{self._failed_starts_in_a_row} workers in a row were lost before they were ready, so no further one "
                f"is started: {reason}"
            )
            self.stop(self.broken)

    def fail_job(self, job_name: str, reason: str) -> None:
        """Be told that a factory of a job raised: the job fails at once, and by default nothing further starts."""
        if self.jobs[job_name].is_sure:
            return
        self.jobs[job_name].failed = self.jobs[job_name].failed or reason
        self._ends("build_error", f"job {job_name!r} failed")

    def stopped_jobs(self) -> dict[str, Stopped]:
        """Return where jobs have stopped because they are sure, by name."""
        found = {name: job.rule.stopped() for name, job in self.jobs.items() if job.rule is not None}
        return {name: stopped for name, stopped in found.items() if stopped is not None}

    def stop(self, reason: str) -> None:
        """Hand out no further chunk."""
        self.stopped = self.stopped or reason
