"""Who is there: chunks that wait for a worker, and workers with what is known of them."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from arena_ray.dispatch import Chunk
from arena_ray.pools.base import Place
from arena_ray.pools.burials import Burial
from arena_ray.pools.losses import Inquiry
from arena_ray.specs import EvalJob


@dataclasses.dataclass(eq=False, slots=True)
class Order:
    """A chunk that has been submitted and waits for a worker."""

    chunk: Chunk
    avoid: frozenset[Place]
    declined: int = 0


@dataclasses.dataclass(eq=False)
class Worker:
    """An actor, the job that it was last built for, the chunk that it runs, and, if it is lost, why."""

    actor: Any
    mark: str
    job: EvalJob
    order: Order | None = None
    place: Place | None = None
    heard: bool = False
    retiring: bool = False
    stream: Any = None
    since: float = dataclasses.field(default_factory=time.monotonic)
    verdict: tuple[str, str] | None = None
    inquiry: Inquiry | None = None

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
