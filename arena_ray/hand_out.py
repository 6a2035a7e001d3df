"""Hands chunks to workers: first to those that are warm, then to new ones, as long as there is room."""

from __future__ import annotations

import time
from collections.abc import Callable

from arena_ray.dispatch import Chunk
from arena_ray.ledger import Claims, JobLedger, Ledger, Turns
from arena_ray.pools import WorkerPool

#: Room is looked for at least so often, seconds; in between only when something has ended.
LOOK_S = 0.2


class HandOut:
    """Hands out what the ledger has to those whom the pool has.

    Args:
        ledger: Says which chunk is next.
        pool: Says whether there is room.
        submit: Called with each chunk that is handed out.
        all_asked_for: Whether the number of workers was asked for: then a worker is started also for work that others
            would be through with first.
    """

    def __init__(
        self, ledger: Ledger, pool: WorkerPool, submit: Callable[[Chunk], None], all_asked_for: bool = False
    ) -> None:
        self._all_asked_for = all_asked_for
        self._ledger, self._pool, self._submit = ledger, pool, submit
        self._jobs = ledger.jobs
        self._claims = Claims(ledger.jobs, pool.num_workers)
        self._ended: dict[str, None] = dict.fromkeys(self._jobs)
        self._looked_at = -LOOK_S

    def changed(self, job_name: str) -> None:
        """Be told that a job's worker has nothing to do, or is lost, or that something of the job waits again."""
        self._ended[job_name] = None
        self._claims.changed(self._jobs[job_name])

    def over(self, chunk: Chunk) -> None:
        """Be told that a chunk has ended, whatever way."""
        self._ended[chunk.job.name] = None
        self._claims.ended(self._jobs[chunk.job.name])

    def go_round(self) -> None:
        """Hand out what can be handed out now."""
        now = time.monotonic()
        every = now - self._looked_at >= LOOK_S
        if self._ledger.stopped is not None or not (every or self._ended):
            return
        ended, self._ended = list(self._jobs if every else self._ended), {}
        left_over = [name for name in ended if not self._refill(self._jobs[name])]
        if not left_over and not every:
            return  # Those that have been refilled leave no room for others.
        self._looked_at = now
        for job in Turns(self._jobs.values(), self._pool.num_workers, self._all_asked_for):
            if self._pool.has_room(job.job):
                self._give(job)

    def _refill(self, job: JobLedger) -> bool:
        """Let a job's warm workers go on with it; return whether none of them is left without a chunk."""
        while self._pool.is_warm(job.job):
            if not job.takes or self._gives_way(job) or not self._give(job):
                return False
        return bool(job.running)

    def _gives_way(self, job: JobLedger) -> bool:
        return any(self._pool.has_room(other.job) for other in self._claims.against(job))

    def _give(self, job: JobLedger) -> bool:
        chunk = self._ledger.take(job.job.name, self._pool.num_workers(job.job))
        if chunk is None:
            return False
        self._claims.given(job)
        self._submit(chunk)
        return True
