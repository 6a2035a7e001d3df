"""The process behind Ray that runs chunks, and how one is started.

It asks Ray where it is and which GPUs are its own, marks itself, and leaves everything else to `EvalWorker`.
"""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get

from arena_ray import processes
from arena_ray.dispatch import Chunk
from arena_ray.labels import for_ray
from arena_ray.pools.base import Place
from arena_ray.pools.node_proofs import wait_for_proof
from arena_ray.pools.ray_cluster import on_node
from arena_ray.specs import Resources
from arena_ray.storage import deliver_leftovers
from arena_ray.worker_events import Notice, Retiring

#: How often a worker asks whether the run has been stopped or its node is to be left, seconds.
STOP_POLL_S = 0.5

#: A worker that sends files to the driver is at most so many events, or pieces of a file, ahead of it.
PIECES_AHEAD = 8

#: All workers together ask no more often than that, times a second: it is Ray's head that answers.
STOP_POLLS_PER_S = 1000

#: What stands in the cluster's key-value store when the run stops; else it is the ids of nodes that are to be left.
STOPPED = b"stopped"

#: After so long processes that cannot be ended (stuck in a device driver) hold their room no longer, seconds.
END_S = 30.0

#: Why a worker retires whose node is on its way out.
LEAVES = "its node is being drained"


@dataclasses.dataclass(frozen=True, slots=True)
class Born:
    """The first that a worker says, and again of each chunk that it declines: where it is.

    Attributes:
        place: Where.
        declined: Whether it has left the chunk alone, because it is where the chunk must not run.
    """

    place: Place
    declined: bool = False


def _guard(mark: str) -> str | None:
    """See to it that nothing outlives this process; return why that cannot be done, if so."""
    try:
        processes.mark_this_process(mark)
        processes.start_guardian(mark)
    except (OSError, AttributeError, RuntimeError, subprocess.SubprocessError) as error:
        return repr(error)  # Not Linux, or too few descriptors.
    return None


class _Actor:
    def __init__(
        self,
        setup: Any,
        mark: str,
        stop_key: bytes,
        num_gpus: float,
        cores: float,
        num_workers: int,
        proof_key: str | None,
    ) -> None:
        problem = _guard(mark)
        from arena_ray import devices

        context = ray.get_runtime_context()
        gpus = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])) if num_gpus else ()
        if not num_gpus:
            devices.hide_gpus()
        elif gpus:
            devices.pin_process(gpus, share=num_gpus)
        from arena_ray.worker import EvalWorker

        self._place = Place(node_id=context.get_node_id(), host=socket.gethostname(), gpus=gpus)
        self._worker = EvalWorker(setup, gpus, cores=cores, replaceable=True)
        self._stop_key = stop_key
        self._proof_key = proof_key
        self._poll_s = max(STOP_POLL_S, num_workers / STOP_POLLS_PER_S)
        self._asked_at = 0.0
        self._stop = self._leaves = False
        self._problem = problem
        self._is_known = False

    def run(self, chunk: Chunk, avoid: Collection[Place]) -> Iterator[Any]:
        declined = self._place in avoid
        if declined or not self._is_known:
            self._is_known = True
            yield Born(self._place, declined)
        if self._proof_key is not None and not declined:
            wait_for_proof(self._proof_key, self._place.node_id)
            self._proof_key = None
        if self._problem is not None:
            yield (Notice(topic="unguarded", message=f"what a dying worker leaves behind lives on: {self._problem}"),)
        if not declined:
            may_leave = chunk.num_steps is None  # A budget of steps is one worker's; it begins anew elsewhere.
            yield from self._worker.run(chunk, lambda: self._should_stop(may_leave))
            if self._leaves:
                yield (Retiring(reason=LEAVES),)

    def _should_stop(self, may_leave: bool) -> bool:
        if time.monotonic() - self._asked_at > self._poll_s:
            said = _internal_kv_get(self._stop_key) or b""
            self._stop = self._stop or said == STOPPED
            self._leaves = self._leaves or self._place.node_id.encode() in said
            self._asked_at = time.monotonic()
        return self._stop or (may_leave and self._leaves)

    def ping(self) -> None:
        """Do nothing: that it could be asked is the answer."""

    def close(self) -> None:
        self._worker.end()


#: Made once: each `ray.remote` call would export the class anew.
_REMOTE_ACTOR: Any = ray.remote(_Actor)


def start_actor(
    resources: Resources,
    setup: Any,
    mark: str,
    stop_key: bytes,
    *,
    cores: float,
    num_workers: int,
    bad_nodes: Collection[str],
    proof_key: str | None = None,
) -> Any:
    """Start a worker and return its actor at once; Ray places it when there is room.

    Args:
        resources: What it needs.
        setup: Reference of what every worker of the run is told.
        mark: Carried by all its processes.
        stop_key: In the cluster's key-value store it says whether the run stops, or which nodes are to be left.
        cores: Cores that it can count on.
        num_workers: Workers that there may be at a time.
        bad_nodes: Nodes that it must not be placed on, unless the job itself selects nodes by their id.
        proof_key: Where it is told that its node reaches the run directory; ``None``: that is known.
    """
    options = {**_options(resources, bad_nodes), "max_task_retries": 0}
    return _REMOTE_ACTOR.options(**options).remote(
        setup, mark, stop_key, resources.num_gpus, cores, num_workers, proof_key
    )


def _options(resources: Resources, bad_nodes: Collection[str] = ()) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "max_restarts": 0,
        "enable_task_events": False,
    }
    if resources.memory_gb is not None:
        options["memory"] = int(resources.memory_gb * 1e9)
    avoided = {"ray.io/node-id": f"!in({','.join(sorted(bad_nodes))})"} if bad_nodes else {}
    if avoided or resources.selector:
        options["label_selector"] = {**avoided, **for_ray(resources.selector)}
    return options


class _Reservation:
    """Holds resources and does nothing."""


_REMOTE_RESERVATION: Any = ray.remote(_Reservation)


def reserve(resources: Resources) -> Any:
    """Demand what a worker needs and do nothing with it; return the actor, which waits for it."""
    return _REMOTE_RESERVATION.options(**_options(resources)).remote()


def _end_marked(mark: str) -> list[int]:
    return processes.end_marked(mark, END_S)


_REMOTE_END: Any = ray.remote(_end_marked)


def _deliver_leftovers(setup: Any, wanted: Any) -> Iterator[Any]:
    yield from deliver_leftovers(setup, wanted)


_REMOTE_LEFTOVERS: Any = ray.remote(_deliver_leftovers)


def deliver_leftovers_on(node_id: str, setup: Any, wanted: Collection[tuple[str, int]]) -> Any:
    """Deliver what dead workers left on a node; return the stream of what comes of it."""
    options = {**on_node(node_id), "num_returns": "streaming"}
    return _REMOTE_LEFTOVERS.options(**options, _generator_backpressure_num_objects=PIECES_AHEAD).remote(setup, wanted)


def end_on(node_id: str, mark: str) -> Any:
    """End a worker's processes on another node; return the reference of the list of those that survived."""
    return _REMOTE_END.options(**on_node(node_id)).remote(mark)
