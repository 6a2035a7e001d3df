"""Who is there: chunks that wait for a worker, and workers with what is known of them.

Each question that is asked for every chunk is answered without looking at all workers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Hashable, Iterator
from typing import Any

from arena_ray.dispatch import Chunk
from arena_ray.pools.base import Place
from arena_ray.pools.burials import Burial
from arena_ray.pools.losses import Inquiry
from arena_ray.specs import EvalJob, RunSettings


@dataclasses.dataclass(eq=False, slots=True)
class Order:
    """A chunk that has been submitted and waits for a worker."""

    chunk: Chunk
    avoid: frozenset[Place]
    declined: int = 0


@dataclasses.dataclass(eq=False)
class Worker:
    """An actor, the job that it was last built for, the chunk that it runs, and, if it is lost, why.

    Attributes:
        order: What it runs; only `Roster` changes it, and `stream`.
        since: When it was started.
        idle_since: When it had nothing to run any more.
        sent_to: Where Ray started it, as far as that was asked for.
    """

    actor: Any
    mark: str
    job: EvalJob
    order: Order | None = None
    place: Place | None = None
    heard: bool = False
    retiring: bool = False
    stream: Any = None
    since: float = dataclasses.field(default_factory=time.monotonic)
    idle_since: float = dataclasses.field(default_factory=time.monotonic)
    verdict: tuple[str, str] | None = None
    inquiry: Inquiry | None = None
    sent_to: str | None = None

    @property
    def chunk(self) -> Chunk | None:
        """The chunk that it runs."""
        return None if self.order is None else self.order.chunk

    @property
    def node_id(self) -> str | None:
        """Where it is, if it has said so."""
        return None if self.place is None else self.place.node_id

    def burial(self) -> Burial:
        """Return what is needed to see it out."""
        return Burial(self.actor, self.mark, self.job.resources, self.place)


class Roster:
    """The workers of a pool.

    Args:
        settings: With `isolation`: which worker may run which job next.

    Attributes:
        streams: What the workers that run something have yet to say.
        lost: Those of which is asked why they were lost.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._isolation = settings.isolation
        self._workers: dict[Worker, None] = {}
        self._idle: dict[Hashable, dict[Worker, None]] = {}
        self._num_idle = 0
        self._by_chunk: dict[tuple[str, int], Worker] = {}
        self._unplaced: dict[Worker, None] = {}
        self.streams: dict[Any, Worker] = {}
        self.lost: dict[Worker, None] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def _kind(self, job: EvalJob) -> Hashable:
        return job.resources.shape if self._isolation == "run" else job.name

    def add(self, worker: Worker) -> None:
        """Add a worker that has nothing to run yet."""
        self._workers[worker] = None
        self._unplaced[worker] = None
        self._set_idle(worker)

    def _set_idle(self, worker: Worker) -> None:
        worker.idle_since = time.monotonic()
        self._idle.setdefault(self._kind(worker.job), {})[worker] = None
        self._num_idle += 1

    def _set_busy(self, worker: Worker) -> None:
        kind = self._kind(worker.job)
        idle = self._idle[kind]
        del idle[worker]
        if not idle:
            del self._idle[kind]
        self._num_idle -= 1

    def remove(self, worker: Worker) -> None:
        """Forget a worker."""
        if worker.order is None:
            self._set_busy(worker)
        else:
            self._forget_order(worker)
        self._unplaced.pop(worker, None)
        self.lost.pop(worker, None)
        del self._workers[worker]

    def assign(self, worker: Worker, order: Order, stream: Any) -> None:
        """Note that an idle worker runs an order, and says on a stream what happens."""
        self._set_busy(worker)
        worker.job, worker.order, worker.heard = order.chunk.job, order, False
        worker.stream = stream
        self.streams[stream] = worker
        self._by_chunk[order.chunk.job.name, order.chunk.index] = worker

    def _forget_order(self, worker: Worker) -> None:
        assert worker.order is not None
        self._by_chunk.pop((worker.order.chunk.job.name, worker.order.chunk.index), None)
        self.mute(worker)
        worker.order = None

    def mute(self, worker: Worker) -> None:
        """Listen no longer to a worker's stream."""
        self.streams.pop(worker.stream, None)
        worker.stream = None

    def freed(self, worker: Worker) -> None:
        """Note that a worker has nothing to run any more."""
        self._forget_order(worker)
        self._set_idle(worker)

    def placed(self, worker: Worker, place: Place) -> None:
        """Note where a worker is."""
        worker.place = place
        self._unplaced.pop(worker, None)

    def running(self, chunk: Chunk) -> Worker | None:
        """Return the worker of a chunk."""
        return self._by_chunk.get((chunk.job.name, chunk.index))

    def idle(self) -> list[Worker]:
        """Return the workers that run nothing, those that have been idle for longest first within each job."""
        return [worker for workers in self._idle.values() for worker in workers]

    @property
    def num_busy(self) -> int:
        """How many run something."""
        return len(self._workers) - self._num_idle

    @property
    def num_idle(self) -> int:
        """How many run nothing."""
        return self._num_idle

    def busy(self) -> Iterator[Worker]:
        """Yield the workers that run something."""
        return (worker for worker in self._workers if worker.order is not None)

    def warm(self, job: EvalJob) -> list[Worker]:
        """Return the idle workers that can run a job's next chunk; with ``isolation: chunk`` there are none."""
        if self._isolation == "chunk":
            return []
        return [worker for worker in self._idle.get(self._kind(job), ()) if not worker.retiring]

    def is_warm_for(self, job: EvalJob) -> bool:
        """Return whether there is an idle worker that can run a job's next chunk."""
        return self._isolation != "chunk" and any(not one.retiring for one in self._idle.get(self._kind(job), ()))

    def unplaced(self) -> list[Worker]:
        """Return the workers with a chunk that Ray has not placed yet, as far as is known."""
        return [worker for worker in self._unplaced if worker.order is not None and worker.inquiry is None]

    @property
    def num_unplaced(self) -> int:
        """How many workers have not said where they are."""
        return len(self._unplaced)
