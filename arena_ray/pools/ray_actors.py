"""Workers as Ray actors, whose `run` is a streaming generator. The only module that imports ray.

Retries, deadlines and replacement are the driver's: Ray's own restarts are off. Facts about Ray 2.60 that this rests
on: what an actor yielded before it died has arrived, and its death surfaces on the generator as `ActorDiedError`; an
infeasible request waits for ever, so feasibility is checked here; `ray.cancel` on a generator drops what it has yet to
yield, so a stop is told through the cluster's key-value store.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_put

from arena_ray.errors import ConfigError, NotEnoughResourcesError
from arena_ray.pools.base import ChunkEvents, ChunkFinished, PoolEvent, WorkerLost
from arena_ray.specs import Chunk, EvalJob, Resources, RunSettings, WorkerSetup

#: How often a worker asks whether it should stop; each costs one call to Ray's head.
STOP_POLL_S = 0.5

#: How long the cluster's head may take to accept a connection, seconds.
CONNECT_S = 5.0

#: How long a worker that is no longer needed may take to close its environment.
CLOSE_S = 10.0

#: Why a worker that has begun nothing is ended when the run stops; that is no loss.
WITHDRAWN = "withdrawn"

#: How old the list of nodes may be; a node that joins is used after so long.
NODES_FRESH_S = 2.0

#: How long to wait when nothing runs, because workers are being ended or machines are gone, seconds.
IDLE_S = 0.05

_EPSILON = 1e-6


class RayPool:
    """Runs chunks on Ray actors, each with its share of CPUs and GPUs.

    Connects to `settings.address` (or `RAY_ADDRESS`), to the Ray that this process already uses, or starts Ray on this
    machine.

    Args:
        settings: The run's settings.

    Raises:
        ConfigError: If the address cannot be used.
    """

    can_kill = True

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._owns_ray = _connect(settings.address)
        self._stop_key = f"arena_ray:stop:{uuid.uuid4().hex}".encode()
        self._setup: Any = None
        self._workers: list[_Worker] = []
        self._closing: list[tuple[Any, Any, float]] = []
        self._nodes: list[dict[str, float]] = []
        self._nodes_asked_at = -NODES_FRESH_S

    def open(self, setup: WorkerSetup) -> None:
        """Be told where the run is."""
        self._setup = ray.put(setup)

    def hardware(self) -> dict[str, Any]:
        """Return what each node has."""
        names = {"CPU": "num_cpus", "GPU": "num_gpus"}
        nodes = [
            {names[key]: value for key, value in node["Resources"].items() if key in names} for node in _alive_nodes()
        ]
        return {"pool": "ray", "nodes": nodes}

    def check(self, jobs: Sequence[EvalJob]) -> None:
        """Check that for each job some node could run a worker.

        Raises:
            NotEnoughResourcesError: With a table of demand against supply.
        """
        supply = self._supply()
        lacking = [job for job in jobs if not any(_fits(job.resources, node) for node in supply)]
        if lacking:
            raise NotEnoughResourcesError(_demand_table(lacking, supply))

    def _supply(self) -> list[dict[str, float]]:
        """Return what each node has, at most some seconds old: asking costs a call to Ray's head."""
        if time.monotonic() - self._nodes_asked_at > NODES_FRESH_S:
            self._nodes = [_capacity(node) for node in _alive_nodes()]
            self._nodes_asked_at = time.monotonic()
        return [dict(node) for node in self._nodes]

    def num_workers(self, job: EvalJob) -> int:
        """Return how many workers of a job fit when nothing else runs."""
        fitting = sum(_how_many(job.resources, node) for node in self._supply())
        return max(1, min(fitting, self._settings.num_workers or fitting))

    def has_room(self, job: EvalJob) -> bool:
        """Return whether a chunk of a job would be run now: on a warm worker, in free room, or in an idle one's."""
        if any(self._can_take(worker, job) for worker in self._workers):
            return True
        busy = [worker for worker in self._workers if worker.chunk is not None]
        return len(busy) < (self._settings.num_workers or len(busy) + 1) and self._fits_beside(job, busy)

    def _can_take(self, worker: _Worker, job: EvalJob) -> bool:
        if worker.chunk is not None or self._settings.isolation == "chunk":
            return False
        same_job = worker.job == job
        return same_job or (self._settings.isolation == "run" and worker.job.resources == job.resources)

    def _fits_beside(self, job: EvalJob, workers: Sequence[_Worker]) -> bool:
        free = self._supply()
        for resources in [worker.job.resources for worker in workers]:
            node = next((node for node in free if _fits(resources, node)), None)
            if node is not None:
                _take(resources, node)
        return any(_fits(job.resources, node) for node in free)

    def submit(self, chunk: Chunk) -> None:
        """Run a chunk on a warm worker, else on a new one, for which idle workers make room."""
        worker = next((worker for worker in self._workers if self._can_take(worker, chunk.job)), None)
        if worker is None:
            self._make_room(chunk.job)
            cores = self._cores_per_worker(chunk.job)
            worker = _Worker(_start_actor(chunk.job, self._setup, self._stop_key, cores), chunk.job)
            self._workers.append(worker)
        worker.job, worker.chunk, worker.heard = chunk.job, chunk, False
        worker.stream = worker.actor.run.options(num_returns="streaming").remote(chunk)

    def _cores_per_worker(self, job: EvalJob) -> float:
        """Return the share of a node's cores that a worker has when as many run as will, on the fullest node."""
        fitting = [(node["CPU"], _how_many(job.resources, node)) for node in self._supply()]
        most = self._settings.num_workers or math.inf
        return min((cores / min(number, most) for cores, number in fitting if number), default=1.0)

    def _make_room(self, job: EvalJob) -> None:
        """End idle workers until one more fits."""
        for worker in [worker for worker in self._workers if worker.chunk is None]:
            limit = self._settings.num_workers
            if (limit is None or len(self._workers) < limit) and self._fits_beside(job, self._workers):
                return
            self._dismiss(worker)

    def _dismiss(self, worker: _Worker) -> None:
        """Let an idle worker close its environment, then end it."""
        self._workers.remove(worker)
        self._closing.append((worker.actor, worker.actor.close.remote(), time.monotonic() + CLOSE_S))

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return what happened; waits until something does, at most so long."""
        self._reap()
        streams = {worker.stream: worker for worker in self._workers if worker.stream is not None}
        if not streams:
            time.sleep(min(timeout_s, IDLE_S))
            return []
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and len(streams) > 1:
            ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        return [self._next(streams[stream]) for stream in ready]

    def _next(self, worker: _Worker) -> PoolEvent:
        """Return the next thing that a worker's stream holds, which is ready."""
        chunk = worker.chunk
        assert chunk is not None
        try:
            events = ray.get(next(worker.stream))
            worker.heard = True
            return ChunkEvents(chunk, events)
        except StopIteration:
            if worker.verdict is not None:  # It was ended for a reason, and reached the chunk's end before it died.
                return self._lose(worker, chunk, *worker.verdict)
            worker.chunk = worker.stream = None
            if self._settings.isolation == "chunk":
                self._dismiss(worker)
            return ChunkFinished(chunk)
        except ray.exceptions.RayError as error:
            return self._lose(worker, chunk, *(worker.verdict or _classify(error)))

    def _lose(self, worker: _Worker, chunk: Chunk, cause: str, message: str) -> PoolEvent:
        self._workers.remove(worker)
        ray.kill(worker.actor, no_restart=True)
        return ChunkFinished(chunk) if cause == WITHDRAWN else WorkerLost(chunk, cause, message)

    def kill(self, chunk: Chunk, cause: str, message: str) -> None:
        """End the worker of a chunk by force."""
        for worker in self._workers:
            if worker.chunk is chunk and worker.verdict is None:
                worker.verdict = (cause, message)
                ray.kill(worker.actor, no_restart=True)

    def stop(self) -> None:
        """Let episodes in flight finish and start no other."""
        _internal_kv_put(self._stop_key, b"1")
        for worker in self._workers:
            if worker.chunk is not None and not worker.heard:
                # It may wait for its resources for ever, and has begun nothing.
                self.kill(worker.chunk, WITHDRAWN, "the run stops")

    def _reap(self, *, everything: bool = False) -> None:
        """End workers that have closed, or have had their time to."""
        kept = []
        for actor, closed, deadline in self._closing:
            done = ray.wait([closed], timeout=0)[0]
            if done or everything or time.monotonic() > deadline:
                ray.kill(actor, no_restart=True)
            else:
                kept.append((actor, closed, deadline))
        self._closing = kept

    def close(self) -> None:
        """End all workers, busy ones at once, and the Ray that this pool started."""
        if not ray.is_initialized():
            return
        for worker in [worker for worker in self._workers if worker.chunk is None]:
            self._dismiss(worker)
        for worker in self._workers:
            ray.kill(worker.actor, no_restart=True)
        self._workers.clear()
        if self._closing:
            ray.wait([closed for _, closed, _ in self._closing], num_returns=len(self._closing), timeout=CLOSE_S)
        self._reap(everything=True)
        _internal_kv_del(self._stop_key)
        if self._owns_ray:
            ray.shutdown()


@dataclasses.dataclass(eq=False)
class _Worker:
    """An actor, the job that it was last built for, and the chunk that it runs."""

    actor: Any
    job: EvalJob
    chunk: Chunk | None = None
    heard: bool = False
    stream: Any = None
    verdict: tuple[str, str] | None = None


class _Actor:
    """The worker behind Ray: asks Ray which GPUs are its own, then leaves everything to `EvalWorker`."""

    def __init__(self, setup: WorkerSetup, stop_key: bytes, wants_gpu: bool, cores: float) -> None:
        from arena_ray import devices

        if not wants_gpu:
            devices.hide_gpus()
        from arena_ray.worker import EvalWorker

        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        self._worker = EvalWorker(setup, tuple(str(gpu) for gpu in gpus) if wants_gpu else (), cores=cores)
        self._stop_key = stop_key
        self._asked_at = 0.0
        self._stop = False

    def run(self, chunk: Chunk) -> Iterator[Any]:
        yield from self._worker.run(chunk, self._should_stop)

    def _should_stop(self) -> bool:
        if time.monotonic() - self._asked_at > STOP_POLL_S:
            self._stop = self._stop or _internal_kv_exists(self._stop_key)
            self._asked_at = time.monotonic()
        return self._stop

    def close(self) -> None:
        self._worker.close()


#: Made once: each `ray.remote` call would export the class anew.
_REMOTE_ACTOR: Any = ray.remote(_Actor)


def _start_actor(job: EvalJob, setup: Any, stop_key: bytes, cores: float) -> Any:
    options = {
        "num_cpus": job.resources.num_cpus,
        "num_gpus": job.resources.num_gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "enable_task_events": False,
    }
    return _REMOTE_ACTOR.options(**options).remote(setup, stop_key, job.resources.num_gpus > 0, cores)


def _connect(address: str | None) -> bool:
    """Connect to Ray or start it; return whether this process started it."""
    if address is not None and address.startswith("ray://"):
        raise ConfigError(
            f"address {address!r}: Ray Client loses a run after 30 s without connection; run on a machine of the "
            "cluster with --address auto, or submit the run as a job"
        )
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    known = address or os.environ.get("RAY_ADDRESS")
    _check_reachable(known)
    if known is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return True
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cannot connect to Ray at {known!r}: {error}; check that it runs there (ray status)"
        ) from error
    return True


def _check_reachable(address: str | None) -> None:
    """Check that somebody listens at ``HOST:PORT``: Ray itself would try for many minutes.

    Raises:
        ConfigError: If nobody does.
    """
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nobody listens at {address!r} ({error}); give the address that `ray start --head` printed, or leave "
            "--address out to start Ray on this machine"
        ) from error


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _capacity(node: dict[str, Any]) -> dict[str, float]:
    resources = node["Resources"]
    return {"CPU": resources.get("CPU", 0.0), "GPU": resources.get("GPU", 0.0)}


def _request(resources: Resources) -> dict[str, float]:
    """Return what a worker takes; one that asks for nothing is counted as a core, or there would be no end of them."""
    nothing = not resources.num_cpus and not resources.num_gpus
    return {"CPU": 1.0 if nothing else resources.num_cpus, "GPU": resources.num_gpus}


def _fits(resources: Resources, free: dict[str, float]) -> bool:
    return all(amount <= free[name] + _EPSILON for name, amount in _request(resources).items())


def _take(resources: Resources, free: dict[str, float]) -> None:
    for name, amount in _request(resources).items():
        free[name] -= amount


def _how_many(resources: Resources, free: dict[str, float]) -> int:
    """Return how many workers fit into a node."""
    wanted = {name: amount for name, amount in _request(resources).items() if amount > 0}
    return min(int((free[name] + _EPSILON) // amount) for name, amount in wanted.items())


def _demand_table(jobs: Sequence[EvalJob], supply: Sequence[dict[str, float]]) -> str:
    lines = ["no node can ever run a worker of these jobs:", "", f"{'job':<32} {'num_cpus':>10} {'num_gpus':>10}"]
    lines += [f"{job.name:<32} {job.resources.num_cpus:>10g} {job.resources.num_gpus:>10g}" for job in jobs]
    lines += ["", f"{'node':<32} {'num_cpus':>10} {'num_gpus':>10}"]
    lines += [f"{index:<32} {node['CPU']:>10g} {node['GPU']:>10g}" for index, node in enumerate(supply)]
    lines += ["", "ask for less in the job's 'resources', or give --address of a cluster that has it"]
    return "\n".join(lines)


def _classify(error: Exception) -> tuple[str, str]:
    """Return the cause and a text for the loss of a worker."""
    text = " ".join(str(error).split())
    return _cause(error, text), _essence(text)


def _cause(error: Exception, text: str) -> str:
    if getattr(error, "preempted", False):
        return "preempted"
    if isinstance(error, ray.exceptions.NodeDiedError) or "its node has died" in text:
        return "node_lost"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in text:
        return "out_of_memory"
    return "died"


def _essence(text: str) -> str:
    """Return what happened, without Ray's list of what may have caused it."""
    _, found, detail = text.rpartition("Worker exit detail:")
    return (detail if found else text).split("Some common causes")[0].strip()[:500]
