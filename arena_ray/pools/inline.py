"""One worker in the calling process: for debuggers, tests, and machines without Ray."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from arena_ray import devices
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.errors import ArenaError
from arena_ray.pools.base import ChunkEvents, ChunkFinished, OnePlace, Place, PoolEvent, WorkerLost
from arena_ray.rollout import Events
from arena_ray.specs import EvalJob
from arena_ray.worker import EvalWorker


class InlinePool(OnePlace):
    """Runs chunks one after the other in this process. It cannot end a worker that hangs.

    Args:
        local_rank: Under `torchrun`, which of the visible GPUs is this rank's.
    """

    can_kill = False

    def __init__(self, local_rank: int | None = None) -> None:
        self._local_rank = local_rank
        self._worker: EvalWorker | None = None
        self._setup: WorkerSetup | None = None
        self._running: tuple[Chunk, Iterator[Events]] | None = None
        self._stopping = False
        self._search_path = list(sys.path)

    def open(self, setup: WorkerSetup) -> None:
        """Be told where the run is."""
        self._setup = dataclasses.replace(setup, collect=False)  # This process is where files are collected.

    def hardware(self) -> dict[str, Any]:
        """Return the cores of this machine."""
        return {"pool": "inline", "nodes": [{"num_cpus": os.cpu_count()}]}

    def check(self, jobs: Sequence[EvalJob]) -> None:
        """Everything runs in this process, whatever it asks for."""

    def num_workers(self, job: EvalJob) -> int:
        """Return 1."""
        return 1

    def is_warm(self, job: EvalJob) -> bool:
        """Return whether nothing runs."""
        return self._running is None

    def has_room(self, job: EvalJob) -> bool:
        """Return whether nothing runs."""
        return self._running is None

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        """Begin a chunk; `wait` runs it."""
        if self._worker is None:
            assert self._setup is not None
            wants_gpu = chunk.job.resources.num_gpus > 0
            local_rank = 0 if wants_gpu and self._local_rank is None else self._local_rank
            self._worker = EvalWorker(self._setup, local_rank=local_rank)
        self._running = (chunk, self._worker.run(chunk, lambda: self._stopping))

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Run the chunk until it yields, whatever the timeout."""
        if self._running is None:
            time.sleep(min(timeout_s, 0.05))  # A back-off.
            return []
        chunk, events = self._running
        try:
            batch = next(events, None)
        except SystemExit as error:
            # As behind Ray: an environment that ends its process costs the worker, not the run.
            self._running = self._worker = None
            return [WorkerLost(chunk, "died", f"environment or policy called sys.exit({error.code!r})")]
        if batch is not None:
            return [ChunkEvents(chunk, batch)]
        self._running = None
        return [ChunkFinished(chunk)]

    def kill(self, chunk: Chunk, cause: str, message: str) -> None:
        """Refuse: a process cannot end its own worker and live.

        Raises:
            ArenaError: Always.
        """
        raise ArenaError("the inline pool cannot end a worker; run on Ray to have deadlines kept")

    def stop(self) -> None:
        """Let episodes in flight finish and start no other."""
        self._stopping = True

    def close(self) -> None:
        """Close the worker."""
        if self._running is not None:
            self._running[1].close()  # type: ignore[attr-defined]
            self._running = None
        if self._worker is not None:
            self._worker.end()
            self._worker = None
            sys.path[:] = self._search_path
        devices.unpin_process()  # A later run in this process may be on Ray, whose workers would inherit it.
