"""Workers that are gone or going: their room is free again only when all their processes are confirmed gone.

`ray.kill` returns at once, and a process with its memory on the GPU may outlive what Ray says of it (ray-project/ray
#34917, #59872).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from concurrent import futures
from typing import Any

import ray

from arena_ray import processes
from arena_ray.pools.base import Place
from arena_ray.pools.ray_worker import END_S, end_on
from arena_ray.specs import Resources

logger = logging.getLogger("arena_ray")

#: How long a worker that is no longer needed may take to close its environment, seconds.
CLOSE_S = 10.0

#: So many workers on this machine are seen out at a time; looking for their processes takes milliseconds.
THREADS = 4


@dataclasses.dataclass(eq=False, slots=True)
class Burial:
    """A worker on its way out.

    Attributes:
        actor: Its actor.
        mark: Carried by all its processes.
        resources: What it holds until it is gone.
        place: Where it was; ``None`` if it never said.
        closed: Reference of its orderly closing, if it closes.
    """

    actor: Any
    mark: str
    resources: Resources
    place: Place | None
    closed: Any = None
    since: float = dataclasses.field(default_factory=time.monotonic)
    ended: Any = None


class Burials:
    """Sees workers out.

    Args:
        here: Id of the node that this process is on.
    """

    def __init__(self, here: str) -> None:
        self._here = here
        self._threads = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="burials")
        self._burials: list[Burial] = []

    def __len__(self) -> int:
        return len(self._burials)

    def holding(self) -> list[Burial]:
        """Return those whose room is not free: an orderly end frees cores before it is over, but never a GPU."""
        return [one for one in self._burials if one.closed is None or one.resources.num_gpus]

    def close(self, burial: Burial) -> None:
        """Let an idle worker close its environment, then end it."""
        burial.closed = burial.actor.close.remote()
        self._burials.append(burial)

    def end(self, burial: Burial) -> None:
        """End a worker at once, with all its processes."""
        self._kill(burial)
        self._burials.append(burial)

    def _kill(self, burial: Burial) -> None:
        """End all its processes, from here or on its node; its own guardian does so too, and is mostly quicker."""
        ray.kill(burial.actor, no_restart=True)
        burial.closed = None
        place = burial.place
        if place is None or place.node_id == self._here:
            burial.ended = self._threads.submit(processes.end_marked, burial.mark, END_S)
        else:
            burial.ended = end_on(place.node_id, burial.mark).future()

    def tend(self) -> None:
        """Go on with all of them, without waiting."""
        for burial in self._burials:
            if burial.closed is not None and (_has_closed(burial) or time.monotonic() - burial.since > CLOSE_S):
                self._kill(burial)
        self._burials = [burial for burial in self._burials if not _is_over(burial)]

    def finish(self, timeout_s: float) -> None:
        """Wait until all are gone, at most so long; what still closes then is ended. It is the last that is done."""
        self.drain(timeout_s)
        self._threads.shutdown(wait=False)

    def drain(self, timeout_s: float) -> None:
        """Wait until all are gone, at most so long; what still closes then is ended."""
        closing = [burial.closed for burial in self._burials if burial.closed is not None]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=timeout_s)
        for burial in self._burials:
            if burial.closed is not None:
                self._kill(burial)
        futures.wait([burial.ended for burial in self._burials if burial.ended is not None], timeout=timeout_s)
        self.tend()


def _has_closed(burial: Burial) -> bool:
    return bool(ray.wait([burial.closed], timeout=0)[0])


def _is_over(burial: Burial) -> bool:
    """Return whether all its processes are gone, or cannot be ended, or its node is gone with them."""
    if burial.ended is None or not burial.ended.done():
        return False
    survivors = [] if burial.ended.exception() is not None else burial.ended.result()
    if survivors:
        logger.warning("processes %s on %s could not be ended in %g s", survivors, burial.place, END_S)
    return True
