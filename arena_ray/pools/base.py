"""What the driver sees of workers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from arena_ray.records import Event
from arena_ray.specs import Chunk, EvalJob, RunSettings, WorkerSetup


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
    """

    chunk: Chunk
    cause: str
    message: str


PoolEvent: TypeAlias = ChunkEvents | ChunkFinished | WorkerLost


class WorkerPool(Protocol):
    """Runs chunks on workers that it starts, reuses and ends.

    Attributes:
        can_kill: Whether a worker can be ended from outside, so that deadlines can be kept.
    """

    can_kill: bool

    def open(self, setup: WorkerSetup) -> None:
        """Be told where the run is, before the first chunk."""
        ...

    def hardware(self) -> dict[str, Any]:
        """Return what there is to run on, for ``run.json``."""
        ...

    def check(self, jobs: Sequence[EvalJob]) -> None:
        """Check that each job's workers could run somewhere.

        Raises:
            NotEnoughResourcesError: If they could not.
        """
        ...

    def num_workers(self, job: EvalJob) -> int:
        """Return how many workers of a job can run at a time when nothing else does, at least 1."""
        ...

    def has_room(self, job: EvalJob) -> bool:
        """Return whether a chunk of a job would be run now."""
        ...

    def submit(self, chunk: Chunk) -> None:
        """Run a chunk on a warm worker of its job if there is one, else on a new one."""
        ...

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return what happened; waits until something does, at most so long."""
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


def open_pool(settings: RunSettings) -> WorkerPool:
    """Return the pool that the settings ask for: ``inline`` in this process, else Ray."""
    if settings.inline:
        from arena_ray.pools.inline import InlinePool

        return InlinePool()
    # Ray would print a paragraph for every worker that dies; the driver says it in a line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing")
    from arena_ray.pools.ray_actors import RayPool

    return RayPool(settings)
