"""What a run on Ray tells Prometheus, through Ray's own metrics: each node's agent exports them as ``ray_arena_...``.

The only tags are the job's name and, for episodes, their status.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import Any

from ray.util import metrics

from arena_ray.dispatch import Chunk
from arena_ray.pools.base import ChunkEvents, ChunkFinished, Place, PoolEvent, PoolNotice
from arena_ray.pools.ray_actors import RayPool
from arena_ray.records import EpisodeRecord
from arena_ray.specs import RunSettings

logger = logging.getLogger(__name__)

#: Upper ends of the classes of chunk durations, seconds.
CHUNK_SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class Meters:
    """The metrics of a run; where one fails, which no run may end for, all are given up.

    Attributes:
        failure: Why they were given up.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._since: dict[tuple[str, int], float] = {}
        self._heard: set[tuple[str, int]] = set()
        self._running: Tally[str] = Tally()
        self._guarded(self._create)

    def _create(self) -> None:
        by_job = ("job",)
        self._episodes = metrics.Counter("arena_episodes", "Episodes that were recorded.", ("job", "status"))
        self._steps = metrics.Counter("arena_steps", "Environment steps of recorded episodes.", by_job)
        self._losses = metrics.Counter("arena_worker_losses", "Workers that were lost.", by_job)
        self._workers = metrics.Gauge("arena_workers", "Workers that run a chunk.", by_job)
        self._seconds = metrics.Histogram("arena_chunk_seconds", "How long chunks took.", CHUNK_SECONDS, by_job)

    def _guarded(self, act: Callable[..., None], *facts: Any) -> None:
        if self.failure is None:
            try:
                act(*facts)
            except Exception as error:
                self.failure = error
                logger.warning("no more metrics are told: %r", error)

    def began(self, chunk: Chunk) -> None:
        """Be told that a chunk was handed to a worker."""
        self._since[chunk.job.name, chunk.index] = time.monotonic()

    def happened(self, events: Iterable[PoolEvent]) -> None:
        """Be told what the pool reports."""
        for event in events:
            self._guarded(self._take, event)

    def _take(self, event: PoolEvent) -> None:
        if isinstance(event, PoolNotice):
            return
        job, key = {"job": event.chunk.job.name}, (event.chunk.job.name, event.chunk.index)
        if isinstance(event, ChunkEvents):
            if key not in self._heard:
                self._heard.add(key)
                self._count_workers(event.chunk.job.name, 1)
            for record in event.events:
                if isinstance(record, EpisodeRecord):
                    self._episodes.inc(1, {**job, "status": record.status})
                    if record.length:
                        self._steps.inc(record.length, job)
            return
        if key in self._heard:
            self._heard.remove(key)
            self._count_workers(event.chunk.job.name, -1)
        since = self._since.pop(key, None)
        if isinstance(event, ChunkFinished):
            if since is not None:
                self._seconds.observe(time.monotonic() - since, job)
        else:
            self._losses.inc(1, job)

    def _count_workers(self, job_name: str, change: int) -> None:
        self._running[job_name] += change
        self._workers.set(self._running[job_name], {"job": job_name})

    def close(self) -> None:
        """Say that no worker runs."""
        for job_name in self._running:
            self._guarded(self._workers.set, 0, {"job": job_name})


class MeteredRayPool(RayPool):
    """A `RayPool` that tells metrics what it reports.

    Args:
        settings: The run's settings.
    """

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self.meters = Meters()

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        """Run a chunk; see `RayPool.submit`."""
        self.meters.began(chunk)
        super().submit(chunk, avoid)

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return what happened; see `RayPool.wait`."""
        events = super().wait(timeout_s)
        self.meters.happened(events)
        return events

    def close(self) -> None:
        """End all workers; see `RayPool.close`."""
        self.meters.close()
        super().close()
