"""A pool of workers that do not exist, in a time that does not pass: for driver and ledger at any size.

Each worker runs one episode after the other; how long one takes is a function of its job and its index.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from arena_ray import EvalJob
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.pools import ChunkEvents, ChunkFinished, Place, PoolEvent
from arena_ray.pools.base import OnePlace
from arena_ray.records import EpisodeRecord, WorkerInfo
from arena_ray.specs import Shape
from arena_ray.worker_events import EpisodeStarted, WorkerReady


class CalmPool(OnePlace):
    """What every pool says where there is room for all jobs, no worker is lost and none leaves anything behind."""

    def open(self, setup: WorkerSetup) -> None: ...

    def hardware(self) -> dict[str, Any]:
        return {"pool": type(self).__name__, "nodes": []}

    def check(self, jobs: Sequence[EvalJob]) -> str | None:
        return None

    def kill(self, chunk: Chunk, cause: str, message: str) -> None:
        raise AssertionError("nothing here needs to be killed")

    def stop(self) -> None: ...

    def close(self) -> None: ...


class SimulatedPool(CalmPool):
    """Says what so many workers would say, in the order in which they would.

    Args:
        num_workers: Workers of each shape that there are at a time.
        episode_s: Returns how long an episode of a job takes, seconds.
        start_s: How long a new worker takes to build environment and policy, seconds.

    Attributes:
        now: The simulated time, seconds.
        starts: Workers that were started, by job.
        chunks: Chunks that were run.
        work_s: Sum of all episodes, seconds.
        longest_s: The longest episode, seconds.
    """

    can_kill = True

    def __init__(self, num_workers: int, episode_s: Callable[[EvalJob, int], float], start_s: float = 0.0) -> None:
        self.now = 0.0
        self.starts: Counter[str] = Counter()
        self.first_start: dict[str, float] = {}
        self.chunks = 0
        self.work_s = self.longest_s = 0.0
        self._num_workers, self._episode_s, self._start_s = num_workers, episode_s, start_s
        self._busy: Counter[Shape] = Counter()
        self._idle: dict[str, list[WorkerInfo]] = defaultdict(list)
        self._num_idle: Counter[Shape] = Counter()
        self._ahead: list[tuple[float, int, Chunk, int, WorkerInfo]] = []
        self._serial = 0
        self._pids = 0

    def num_workers(self, job: EvalJob) -> int:
        return self._num_workers

    def is_warm(self, job: EvalJob) -> bool:
        return bool(self._idle[job.name])

    def has_room(self, job: EvalJob) -> bool:
        return self._busy[job.resources.shape] < self._num_workers

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        """Begin a chunk on a warm worker, on a new one, or on a new one in the place of another job's."""
        job, shape = chunk.job, chunk.job.resources.shape
        assert self.has_room(job)
        delay_s = 0.0
        if self._idle[job.name]:
            worker = self._idle[job.name].pop()
            self._num_idle[shape] -= 1
        else:
            if self._busy[shape] + self._num_idle[shape] >= self._num_workers:
                self._end_an_idle_one(shape)
            self._pids += 1
            worker, delay_s = WorkerInfo(host="simulated", pid=self._pids), self._start_s
            self.starts[job.name] += 1
            self.first_start.setdefault(job.name, self.now)
        self._busy[shape] += 1
        self.chunks += 1
        self._say(self.now + delay_s, chunk, -1, worker)

    def _end_an_idle_one(self, shape: Shape) -> None:
        name = next(name for name, workers in self._idle.items() if workers)
        self._idle[name].pop()
        self._num_idle[shape] -= 1

    def _say(self, when: float, chunk: Chunk, position: int, worker: WorkerInfo) -> None:
        self._serial += 1
        heapq.heappush(self._ahead, (when, self._serial, chunk, position, worker))

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return what is said next, up to the next end of a chunk, at which the driver must decide."""
        said: list[PoolEvent] = []
        while self._ahead and not (said and isinstance(said[-1], ChunkFinished)):
            self.now, _, chunk, position, worker = heapq.heappop(self._ahead)
            said += self._events(chunk, position, worker)
        return said

    def _events(self, chunk: Chunk, position: int, worker: WorkerInfo) -> list[PoolEvent]:
        """Return what a worker says when it is through with an episode of its chunk; -1: it is ready."""
        events: list[PoolEvent] = []
        begun: tuple[EpisodeStarted, ...] = ()
        if position + 1 < len(chunk.episodes):
            episode = chunk.episodes[position + 1]
            begun = (EpisodeStarted(episode=episode, slot=0),)
            duration_s = self._episode_s(chunk.job, episode)
            self.work_s += duration_s
            self.longest_s = max(self.longest_s, duration_s)
            self._say(self.now + duration_s, chunk, position + 1, worker)
        if position < 0:
            events.append(ChunkEvents(chunk, (WorkerReady(worker=worker, build_s=self._start_s), *begun)))
        else:
            record = self._record(chunk, chunk.episodes[position], worker)
            events.append(ChunkEvents(chunk, (record, *begun)))
        if not begun:
            shape = chunk.job.resources.shape
            self._busy[shape] -= 1
            self._num_idle[shape] += 1
            self._idle[chunk.job.name].append(worker)
            events.append(ChunkFinished(chunk))
        return events

    def _record(self, chunk: Chunk, episode: int, worker: WorkerInfo) -> EpisodeRecord:
        return EpisodeRecord(
            job=chunk.job.name,
            episode=episode,
            seed=episode,
            status="completed",
            success=episode % 2 == 0,
            episode_return=1.0,
            length=10,
            duration_s=self._episode_s(chunk.job, episode),
            chunk=chunk.index,
            attempt=chunk.attempt,
            slot=0,
            worker=worker,
        )

    @property
    def ideal_s(self) -> float:
        """What no schedule can beat: all work spread evenly, or the longest episode."""
        return max(self.work_s / self._num_workers, self.longest_s)
