"""What the driver sees of workers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.specs import EvalJob, RunSettings
from arena_ray.worker_events import Event, Notice


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is: a node, or where it was given GPUs, those of a node. Ids are opaque."""

    node_id: str
    host: str
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"GPU {', '.join(self.gpus)} of {self.host}" if self.gpus else f"node {self.host}"


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkEvents:
    """What a worker streamed."""

    chunk: Chunk
    events: tuple[Event, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkFinished:
    """A worker reached the end of a chunk."""

    chunk: Chunk


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone, with the chunk that it ran.

    Attributes:
        chunk: The chunk.
        cause: A key of `ledger.FAULTS`.
        message: What happened, for people.
        place: Where it was, if it got so far as to say it.
    """

    chunk: Chunk
    cause: str
    message: str
    place: Place | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PoolNotice:
    """What people should know of the machines."""

    notice: Notice


PoolEvent: TypeAlias = ChunkEvents | ChunkFinished | WorkerLost | PoolNotice


class WorkerPool(Protocol):
    """Runs chunks on workers that it starts, reuses and ends.

    Attributes:
        can_kill: Whether a worker can be ended from outside, so that deadlines can be kept.
    """

    can_kill: bool

    def open(self, setup: WorkerSetup) -> None:
        """Be told where the run is, before the first chunk.

        Raises:
            NotSharedError: If machines that would run workers do not reach it.
        """
        ...

    def hardware(self) -> dict[str, Any]:
        """Return what there is to run on, for ``run.json``."""
        ...

    def check(self, jobs: Sequence[EvalJob]) -> str | None:
        """Check that each job's workers could run somewhere.

        Returns:
            What has to be waited for first, for people; ``None``: nothing.

        Raises:
            NotEnoughResourcesError: If they could not.
        """
        ...

    def num_workers(self, job: EvalJob) -> int:
        """Return how many workers of a job can run at a time when nothing else does, at least 1."""
        ...

    def is_warm(self, job: EvalJob) -> bool:
        """Return whether a worker that has been built for a job has nothing to do."""
        ...

    def has_room(self, job: EvalJob) -> bool:
        """Return whether a chunk of a job would be run now."""
        ...

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        """Run a chunk on a warm worker of its job if there is one, else on a new one.

        Args:
            chunk: What to run.
            avoid: Where it should not run if there is another place: it lost a worker there.
        """
        ...

    def place_of(self, chunk: Chunk) -> Place | None:
        """Return where a chunk runs, if that is known and there could be another place."""
        ...

    def is_pending(self, chunk: Chunk) -> bool:
        """Return whether a chunk that nothing was heard of waits for a machine, rather than hangs."""
        ...

    def has_place_besides(self, place: Place, job: EvalJob) -> bool:
        """Return whether workers of a job could run elsewhere, on what is not quarantined."""
        ...

    def quarantine(self, place: Place) -> None:
        """Start no further worker there."""
        ...

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return what happened; waits until something does, at most so long."""
        ...

    def leftovers(self, wanted: Collection[tuple[str, int]]) -> Iterator[tuple[Event, ...]]:
        """Deliver and remove what workers that died left on their machines' own disks.

        Args:
            wanted: Job and episode of those whose broken videos are wanted.
        """
        ...

    def kill(self, chunk: Chunk, cause: str, message: str) -> None:
        """End the worker of a chunk by force; its loss is reported by `wait` with this cause."""
        ...

    def stop(self) -> None:
        """Let episodes in flight finish and start no other."""
        ...

    def close(self) -> None:
        """End all workers; may be called again."""
        ...


class OnePlace:
    """What a pool says of places if there is only one: no chunk waits for a machine, and none can go elsewhere."""

    def place_of(self, chunk: Chunk) -> Place | None:
        """Return ``None``."""
        return None

    def is_pending(self, chunk: Chunk) -> bool:
        """Return False."""
        return False

    def has_place_besides(self, place: Place, job: EvalJob) -> bool:
        """Return False."""
        return False

    def quarantine(self, place: Place) -> None:
        """Do nothing."""

    def leftovers(self, wanted: Collection[tuple[str, int]]) -> Iterator[tuple[Event, ...]]:
        """Yield nothing: nothing is left elsewhere."""
        yield from ()


def open_pool(settings: RunSettings) -> WorkerPool:
    """Return the pool that the settings ask for: ``inline`` in this process, else Ray."""
    if settings.inline:
        from arena_ray.pools.inline import InlinePool

        return InlinePool()
    # Ray would print a paragraph for every worker that dies or waits for a machine; the driver says it in a line.
    skipped = "A worker died or was killed while executing|infeasible resource requests"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", skipped)
    from arena_ray.pools.ray_metrics import MeteredRayPool

    return MeteredRayPool(settings)
