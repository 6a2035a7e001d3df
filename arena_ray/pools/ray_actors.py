"""Workers as Ray actors, whose `run` is a streaming generator.

Retries, deadlines and replacement are the driver's: Ray's own restarts are off. Facts about Ray 2.60 that this rests
on: what an actor yielded before it died has arrived, and its death surfaces on the generator as `ActorDiedError`; an
infeasible request waits for ever, so feasibility is checked here; `ray.cancel` on a generator drops what it has yet to
yield, so a stop is told through the cluster's key-value store. Ray chooses the GPU: a worker that finds itself on one
where it must not be declines its chunk, and holds that GPU while another is started.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

from arena_ray import processes
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.errors import NotEnoughResourcesError
from arena_ray.pools.base import ChunkEvents, ChunkFinished, Place, PoolEvent, WorkerLost
from arena_ray.pools.burials import CLOSE_S, Burials
from arena_ray.pools.losses import Inquiry
from arena_ray.pools.node_proofs import NodeProofs
from arena_ray.pools.node_survey import check_nodes
from arena_ray.pools.ray_cluster import Cluster, Room, connect, demand_table
from arena_ray.pools.ray_worker import PIECES_AHEAD, Born, deliver_leftovers_on, start_actor
from arena_ray.pools.roster import Order, Worker
from arena_ray.specs import EvalJob, RunSettings
from arena_ray.worker_events import Event, Retiring

#: Why a worker that has begun nothing is ended when the run stops; that is no loss.
WITHDRAWN = "withdrawn"

#: How long to wait when nothing runs, because workers are being ended or machines are gone, seconds.
IDLE_S = 0.05

#: A worker that Ray has not placed after so long gives way to one that is idle: the room may be gone, seconds.
PENDING_S = 10.0

#: A node that could not be reached is not counted on for so long, seconds; Ray may take as long to call it dead.
SHUN_S = 30.0

#: How often a chunk is declined before it runs wherever it is.
DECLINES = 2


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
        self._is_started_here = not (ray.is_initialized() or settings.address or os.environ.get("RAY_ADDRESS"))
        self._owns_ray = connect(settings.address)
        self._stop_key = f"arena_ray:stop:{uuid.uuid4().hex}".encode()
        self._setup: Any = None
        self._told: WorkerSetup | None = None
        self._proofs: NodeProofs | None = None
        self._jobs: Sequence[EvalJob] = ()
        self._mark = processes.new_mark()
        self._cluster = Cluster()
        self._here = ray.get_runtime_context().get_node_id()
        self._burials = Burials(self._here)
        self._orders: list[Order] = []
        self._workers: list[Worker] = []
        self._blockers: list[Worker] = []
        self._quarantined: set[Place] = set()
        self._shunned: dict[str, float] = {}
        self._stopped = False

    def open(self, setup: WorkerSetup) -> None:
        """Be told where the run is, and have the nodes prove that they reach it.

        Raises:
            NotSharedError: If a node that would run workers does not.
        """
        self._mark = setup.mark or self._mark
        self._setup, self._told = ray.put(setup), setup
        joined = self._settings.address or os.environ.get("RAY_ADDRESS")
        is_mine = self._owns_ray and not joined and len(self._cluster.nodes()) == 1
        if setup.collect or is_mine:
            return
        self._proofs = NodeProofs(setup, trusted=() if setup.storage else (self._here,))
        self._proofs.require(
            [node.node_id for node in self._cluster.nodes() if any(node.how_many(job.resources) for job in self._jobs)]
        )

    def hardware(self) -> dict[str, Any]:
        """Return what each node has."""
        nodes = [{"num_cpus": node.num_cpus, "num_gpus": node.num_gpus} for node in self._cluster.nodes()]
        return {"pool": "ray", "nodes": nodes}

    def check(self, jobs: Sequence[EvalJob]) -> None:
        """Check that for each job some node could run a worker, and that nodes have what a worker needs.

        Raises:
            NotEnoughResourcesError: With a table of demand against supply.
            ClusterError: If a node lacks this package, or has other versions.
        """
        self._jobs = jobs
        lacking = [job for job in jobs if not self._cluster.room().fits(job.resources)]
        if lacking:
            raise NotEnoughResourcesError(demand_table(lacking, self._cluster.nodes()))
        if not self._is_started_here:
            check_nodes()

    def _bad_nodes(self) -> set[str]:
        unproven = self._proofs.failed if self._proofs is not None else {}
        return {place.node_id for place in self._quarantined if not place.gpus}.union(unproven)

    def _unusable_nodes(self) -> set[str]:
        shunned = {node_id for node_id, until in self._shunned.items() if time.monotonic() < until}
        return self._bad_nodes() | shunned

    def _room_beside(self, workers: Iterable[Worker], *, when_buried: bool = False) -> Room:
        """Return what is free beside these workers, those that hold a bad GPU, and those that are not gone yet."""
        room = self._cluster.room(without=self._unusable_nodes())
        for worker in (*workers, *self._blockers):
            room.take(worker.job.resources, worker.node_id)
        for burial in () if when_buried else self._burials.holding():
            room.take(burial.resources, None if burial.place is None else burial.place.node_id)
        return room

    def num_workers(self, job: EvalJob) -> int:
        """Return how many workers of a job fit when nothing else runs."""
        fitting = self._cluster.room(without=self._bad_nodes()).how_many(job.resources)
        return max(1, min(fitting, self._settings.num_workers or fitting))

    def has_room(self, job: EvalJob) -> bool:
        """Return whether a chunk of a job would be run now: on a warm worker, in free room, or in an idle one's."""
        if any(self._can_take(worker, job) for worker in self._workers):
            return True
        if any(not self._waits_for_another_place(order) for order in self._orders):
            return False
        self._make_do(job)
        busy = [worker for worker in self._workers if worker.chunk is not None]
        return self._may_have(len(busy) + 1) and self._room_beside(busy).fits(job.resources)

    def _may_have(self, num_workers: int) -> bool:
        return self._settings.num_workers is None or num_workers <= self._settings.num_workers

    def _can_take(self, worker: Worker, job: EvalJob) -> bool:
        if worker.chunk is not None or worker.retiring or self._settings.isolation == "chunk":
            return False
        same_job = worker.job.name == job.name
        return same_job or (self._settings.isolation == "run" and worker.job.resources == job.resources)

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        """Run a chunk on a warm worker, else on a new one, for which idle workers make room."""
        self._orders.append(Order(chunk, frozenset() if avoid is None or not avoid.gpus else frozenset({avoid})))
        self._place_orders()

    def _place_orders(self) -> None:
        """Give each order that waits a worker, if there is one or room for one."""
        self._orders = [order for order in self._orders if not self._place(order)]

    def _place(self, order: Order) -> bool:
        job = order.chunk.job
        warm = sorted(
            (worker for worker in self._workers if self._can_take(worker, job)),
            key=lambda worker: worker.place in order.avoid,
        )
        worker = warm[0] if warm else None
        if worker is not None and worker.place in order.avoid:
            if self._fits_another(job, holders=1):
                worker = self._start(job)
            elif self._waits_for_another_place(order):
                return False
        elif worker is None:
            if not self._make_room(job):
                return False
            worker = self._start(job)
        worker.job, worker.order, worker.heard = job, order, False
        avoid = self._quarantined | (order.avoid if order.declined < DECLINES else frozenset())
        worker.stream = worker.actor.run.options(**self._stream_options()).remote(order.chunk, avoid)
        return True

    def _stream_options(self) -> dict[str, Any]:
        ahead = {"_generator_backpressure_num_objects": PIECES_AHEAD} if self._told and self._told.collect else {}
        return {"num_returns": "streaming", **ahead}

    def _waits_for_another_place(self, order: Order) -> bool:
        """Return whether a chunk that was declined is to run on a worker elsewhere that is busy now."""
        busy = [
            worker for worker in self._workers if worker.order is not None and worker.job.name == order.chunk.job.name
        ]
        return order.declined > 0 and any(worker.place and worker.place not in order.avoid for worker in busy)

    def _fits_another(self, job: EvalJob, holders: int = 0, *, when_buried: bool = False) -> bool:
        """Return whether another worker may be started, now or when those that are going are gone.

        `holders` are idle ones that only hold their GPU.
        """
        may = self._may_have(len(self._workers) + 1 - holders)
        return may and self._room_beside(self._workers, when_buried=when_buried).fits(job.resources)

    def _end_holders(self) -> None:
        """End idle workers above the limit, when what they held a GPU for has found its place."""
        for worker in [worker for worker in self._workers if worker.chunk is None]:
            if not self._may_have(len(self._workers)):
                self._dismiss(worker)

    def _make_room(self, job: EvalJob) -> bool:
        """End idle workers until one more fits; return whether it does now."""
        for worker in [worker for worker in self._workers if worker.chunk is None]:
            if self._fits_another(job, when_buried=True):
                break
            self._dismiss(worker)
        self._make_do(job)
        return self._fits_another(job)

    def _make_do(self, job: EvalJob) -> None:
        """Take back quarantine when nothing else is left: bad places are better than none."""
        if not self._workers and not len(self._burials) and not self._room_beside([]).fits(job.resources):
            self._quarantined.clear()
            self._shunned.clear()
            self._workers, self._blockers = self._blockers, []

    def _start(self, job: EvalJob) -> Worker:
        mark = processes.new_mark(self._mark)
        cores = self._cores_per_worker(job)
        proof_key = None if self._proofs is None else self._proofs.key
        actor = start_actor(job.resources, self._setup, mark, self._stop_key, cores, self._bad_nodes(), proof_key)
        worker = Worker(actor, mark, job)
        self._workers.append(worker)
        return worker

    def _cores_per_worker(self, job: EvalJob) -> float:
        """Return the share of a node's cores that a worker has when as many run as will, on the fullest node."""
        fitting = [(node.num_cpus, node.how_many(job.resources)) for node in self._cluster.nodes()]
        most = self._settings.num_workers or math.inf
        return min((cores / min(number, most) for cores, number in fitting if number), default=1.0)

    def _dismiss(self, worker: Worker) -> None:
        """Let an idle worker close its environment, then end it."""
        self._workers.remove(worker)
        self._burials.close(worker.burial())

    def is_pending(self, chunk: Chunk) -> bool:
        """Return whether Ray has not started the process that is to run a chunk, as far as can be seen from here."""
        worker = next((worker for worker in self._workers if worker.chunk is chunk), None)
        return worker is None or (worker.place is None and not processes.marked_processes(worker.mark))

    def place_of(self, chunk: Chunk) -> Place | None:
        """Return where a chunk runs."""
        return next((worker.place for worker in self._workers if worker.chunk is chunk), None)

    def has_place_besides(self, place: Place, job: EvalJob) -> bool:
        """Return whether there are GPUs, or nodes, for a worker of a job that are neither this nor quarantined."""
        usable = [node for node in self._cluster.nodes() if node.node_id not in self._unusable_nodes()]
        nodes = [node for node in usable if node.how_many(job.resources)]
        if not place.gpus:
            return any(node.node_id != place.node_id for node in nodes)
        bad = {(one.node_id, gpu) for one in (*self._quarantined, place) for gpu in one.gpus}
        return sum(node.num_gpus for node in nodes) > len(bad)

    def quarantine(self, place: Place) -> None:
        """Start no further worker there; idle ones that are there are ended."""
        self._quarantined.add(place)
        for worker in [worker for worker in self._workers if worker.chunk is None and worker.place == place]:
            self._dismiss(worker)

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return what happened; waits until something does, at most so long."""
        self._burials.tend()
        self._tend_proofs()
        if self._stopped and self._orders:
            withdrawn, self._orders = self._orders, []
            return [ChunkFinished(order.chunk) for order in withdrawn]
        self._take_from_pending()
        self._place_orders()
        if self._orders and not self._workers and not len(self._burials):
            # There was room when it was submitted, and now there is none: nobody runs that could make any.
            given_back, self._orders = self._orders, []
            return [WorkerLost(order.chunk, "unreachable", "no node has room any more") for order in given_back]
        losses = self._explained_losses()
        if losses:
            return losses
        streams = {worker.stream: worker for worker in self._workers if worker.stream is not None}
        if not streams:
            time.sleep(min(timeout_s, IDLE_S))
            return []
        if self._orders or any(worker.inquiry is not None for worker in self._workers):
            timeout_s = min(timeout_s, IDLE_S)  # What they wait for is seen by looking.
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and len(streams) > 1:
            ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        return [event for stream in ready for event in self._next(streams[stream])]

    def _next(self, worker: Worker) -> list[PoolEvent]:
        """Return the next thing that a worker's stream holds, which is ready."""
        order = worker.order
        assert order is not None
        try:
            said = ray.get(next(worker.stream))
        except StopIteration:
            if worker.verdict is not None:  # It was ended for a reason, and reached the chunk's end before it died.
                return [self._lose(worker, order.chunk, *worker.verdict)]
            worker.order = worker.stream = None
            if worker.retiring or self._settings.isolation == "chunk":
                self._dismiss(worker)
            return [ChunkFinished(order.chunk)]
        except ray.exceptions.RayError as error:
            if worker.verdict is not None:
                return [self._lose(worker, order.chunk, *worker.verdict)]
            worker.stream, worker.inquiry = None, Inquiry(error, worker.actor, worker.node_id, self._here)
            return self._explained_losses()
        if isinstance(said, Born):
            worker.place = said.place
            if self._proofs is not None:
                self._proofs.begin(said.place.node_id)
            if said.declined:
                self._take_back(worker, order)
                return []
            self._end_holders()
            said = ()
        worker.heard = True
        worker.retiring = worker.retiring or any(isinstance(event, Retiring) for event in said)
        return [ChunkEvents(order.chunk, said)]

    def _tend_proofs(self) -> None:
        """End the workers that were placed on a node which turns out not to reach the run directory.

        Raises:
            NotSharedError: If no node does.
        """
        if self._proofs is None:
            return
        for node_id, problem in self._proofs.tend():
            for worker in self._workers:
                if worker.node_id == node_id and worker.chunk is not None:
                    self.kill(worker.chunk, "unshared", f"{problem}; the node is not used")
            if self._proofs.none_proven:
                raise self._proofs.error()

    def leftovers(self, wanted: Collection[tuple[str, int]]) -> Iterator[tuple[Event, ...]]:
        """Deliver and remove what workers that died left on their nodes' own disks; idle workers are ended first."""
        assert self._told is not None
        if not self._told.staged:
            return
        for worker in [worker for worker in self._workers if worker.chunk is None]:
            self._dismiss(worker)
        self._burials.drain(CLOSE_S)
        for node in self._cluster.nodes():
            with contextlib.suppress(ray.exceptions.RayError):
                for said in deliver_leftovers_on(node.node_id, self._setup, wanted):
                    yield ray.get(said)

    def _take_from_pending(self) -> None:
        """Give the chunk of a worker that Ray does not place to an idle one, or end idle ones that are in its way."""
        for worker in self._workers:
            pending = worker.order is not None and worker.place is None and worker.inquiry is None
            if not pending or time.monotonic() - worker.since < PENDING_S:
                continue
            assert worker.order is not None
            idle = [other for other in self._workers if other.chunk is None]
            if any(self._can_take(other, worker.job) for other in idle):
                self._orders.insert(0, worker.order)
                self._workers.remove(worker)
                self._burials.end(worker.burial())
                return
            for other in idle:
                self._dismiss(other)

    def _explained_losses(self) -> list[PoolEvent]:
        """Return the losses whose reason is known by now."""
        losses = []
        for worker in [worker for worker in self._workers if worker.inquiry is not None]:
            assert worker.inquiry is not None
            assert worker.chunk is not None
            verdict = worker.verdict or worker.inquiry.verdict(self._cluster)
            if verdict is not None:
                losses.append(self._lose(worker, worker.chunk, *verdict))
        return losses

    def _take_back(self, worker: Worker, order: Order) -> None:
        """Look for another worker for a chunk; this one holds its GPU meanwhile, or for ever if that is bad."""
        worker.order = worker.stream = None
        order.declined += 1
        if worker.place in self._quarantined:
            self._workers.remove(worker)
            self._blockers.append(worker)
        self._orders.insert(0, order)

    def _lose(self, worker: Worker, chunk: Chunk, cause: str, message: str) -> PoolEvent:
        self._workers.remove(worker)
        self._burials.end(worker.burial())
        if cause in ("node_lost", "unreachable") and worker.node_id not in (None, self._here):
            assert worker.node_id is not None
            self._shunned[worker.node_id] = time.monotonic() + SHUN_S
        return ChunkFinished(chunk) if cause == WITHDRAWN else WorkerLost(chunk, cause, message, worker.place)

    def kill(self, chunk: Chunk, cause: str, message: str) -> None:
        """End the worker of a chunk by force."""
        for worker in self._workers:
            if worker.chunk is chunk and worker.verdict is None:
                worker.verdict = (cause, message)
                ray.kill(worker.actor, no_restart=True)

    def stop(self) -> None:
        """Let episodes in flight finish and start no other."""
        self._stopped = True
        _internal_kv_put(self._stop_key, b"1")
        for worker in self._workers:
            if worker.chunk is not None and not worker.heard:
                # It may wait for its resources for ever, and has begun nothing.
                self.kill(worker.chunk, WITHDRAWN, "the run stops")

    def close(self) -> None:
        """End all workers, busy ones at once, and the Ray that this pool started."""
        if not ray.is_initialized():
            return
        for worker in [worker for worker in self._workers if worker.chunk is None]:
            self._dismiss(worker)
        for worker in (*self._workers, *self._blockers):
            self._burials.end(worker.burial())
        self._workers, self._blockers = [], []
        self._burials.finish(CLOSE_S)
        _internal_kv_del(self._stop_key)
        if self._proofs is not None:
            self._proofs.close()
        if self._owns_ray:
            ray.shutdown()
