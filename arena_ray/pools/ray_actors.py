"""Workers as Ray actors, whose `run` is a streaming generator.

Retries, deadlines and replacement are the driver's: Ray's own restarts are off. Facts about Ray 2.60 that this rests
on: what an actor yielded before it died has arrived, and its death surfaces on the generator as `ActorDiedError`; an
infeasible request waits for ever, so feasibility is checked here; `ray.cancel` on a generator drops what it has yet to
yield, so a stop is told through the cluster's key-value store. Ray chooses the GPU: a worker that finds itself on one
where it must not be declines its chunk, and holds that GPU while another is started.
"""

from __future__ import annotations

import contextlib
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
from arena_ray.pools.autoscaler import Autoscaler
from arena_ray.pools.base import ChunkEvents, ChunkFinished, Place, PoolEvent, PoolNotice, WorkerLost
from arena_ray.pools.burials import CLOSE_S, Burials
from arena_ray.pools.losses import Inquiry
from arena_ray.pools.node_survey import check_nodes
from arena_ray.pools.ray_cluster import Cluster, connect
from arena_ray.pools.ray_worker import (
    LEAVES,
    PIECES_AHEAD,
    STOPPED,
    Born,
    deliver_leftovers_on,
    reserve,
    start_actor,
)
from arena_ray.pools.room import Room, demand_table
from arena_ray.pools.roster import Order, Roster, Worker
from arena_ray.pools.usable_nodes import UsableNodes, not_used
from arena_ray.specs import EvalJob, RunSettings
from arena_ray.worker_events import Event, Notice, Retiring

#: Why a worker that has begun nothing is ended when the run stops; that is no loss.
WITHDRAWN = "withdrawn"

#: How long to wait when nothing runs, because workers are being ended or machines are gone, seconds.
IDLE_S = 0.05

#: A worker that Ray has not placed after so long gives way to one that is idle: the room may be gone, seconds.
PENDING_S = 10.0

#: How often a chunk is declined before it runs wherever it is.
DECLINES = 2

#: A worker with nothing to do is given back after so long, seconds: a cluster can shrink. Back-offs are shorter.
GIVE_BACK_S = 31.0

#: How often is looked for such workers, seconds.
LOOK_S = 1.0


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
        self._mark = processes.new_mark()
        self._cluster = Cluster()
        self._nodes = UsableNodes(self._cluster, settings)
        self._autoscaler = Autoscaler()
        self._here = ray.get_runtime_context().get_node_id()
        self._burials = Burials(self._here)
        self._orders: list[Order] = []
        self._workers = Roster(settings)
        self._blockers: list[Worker] = []
        self._left: set[str] = set()
        self._looked_at = time.monotonic()
        self._stopped = False
        self._rooms: tuple[Room, Room] | None = None
        self._rooms_of: tuple[int, frozenset[str]] = (0, frozenset())

    def open(self, setup: WorkerSetup) -> None:
        """Be told where the run is, and have the nodes prove that they reach it.

        Raises:
            NotSharedError: If a node that would run workers does not.
        """
        self._mark = setup.mark or self._mark
        self._setup, self._told = ray.put(setup), setup
        joined = self._settings.address or os.environ.get("RAY_ADDRESS")
        is_mine = self._owns_ray and not joined and len(self._cluster.nodes()) == 1
        if not is_mine:
            self._nodes.require_proofs(setup, trusted=() if setup.storage else (self._here,))

    def hardware(self) -> dict[str, Any]:
        """Return what each node has."""
        nodes = [{"num_cpus": node.num_cpus, "num_gpus": node.num_gpus} for node in self._cluster.nodes()]
        return {"pool": "ray", "nodes": nodes}

    def check(self, jobs: Sequence[EvalJob]) -> str | None:
        """Check that for each job some node could run a worker, now or when an autoscaler has added one.

        Nodes must also have what a worker needs.

        Raises:
            NotEnoughResourcesError: With a table of demand against supply.
            ClusterError: If a node lacks this package, or has other versions.
        """
        self._nodes.jobs = jobs
        waits_for = self._check_room(jobs)
        if not self._is_started_here:
            check_nodes()
        return waits_for

    def _check_room(self, jobs: Sequence[EvalJob]) -> str | None:
        room = self._cluster.room()
        lacking = [job for job in jobs if not room.fits(job.resources)]
        if not lacking:
            return None
        self._autoscaler.ask(lacking, lambda job: reserve(job.resources))
        table = demand_table(lacking, self._cluster.nodes())
        if all(self._autoscaler.may_add(job) for job in lacking):
            asked = "the autoscaler is asked for machines"
            if self._autoscaler.adds_none_now:
                asked += ", and adds none as long as those that are there reach its limits (max_workers)"
            return f"{asked}; for at most {self._settings.start_timeout:g} s they are waited for:\n{table}"
        supply = "no node, and none that the autoscaler adds," if self._autoscaler.is_there else "no node"
        raise NotEnoughResourcesError(
            f"{supply} can ever run a worker of these jobs:\n\n{table}\n\n"
            "ask for less in the job's 'resources', or give --address of a cluster that has it"
        )

    def _room_beside(self, workers: Iterable[Worker]) -> Room:
        """Return what is free beside these workers and those that hold a bad GPU."""
        room = self._nodes.room()
        for worker in (*workers, *self._blockers):
            room.take(worker.job.resources, worker.node_id)
        return room

    def _now_and_later(self) -> tuple[Room, Room]:
        """Return what is free now, and what will be when idle workers are ended and those that go are gone.

        Built anew only when something has ended: starting many workers must not look at all of them for each.
        """
        of = self._nodes.version()
        if self._rooms is None or of != self._rooms_of:
            now = self._room_beside(self._workers)
            for burial in self._burials.holding():
                now.take(burial.resources, None if burial.place is None else burial.place.node_id)
            later = self._room_beside(self._workers.busy())
            for order in self._orders:
                later.take(order.chunk.job.resources, None)
            self._rooms, self._rooms_of = (now, later), of
        return self._rooms

    def num_workers(self, job: EvalJob) -> int:
        """Return how many workers of a job fit when nothing else runs, with those that an autoscaler is asked for."""
        fitting = self._nodes.capacity(job)[0] + (self._autoscaler.burst(0) if self._autoscaler.is_there else 0)
        return max(1, min(fitting, self._settings.num_workers or fitting))

    def is_warm(self, job: EvalJob) -> bool:
        """Return whether a worker that is built for a job has nothing to do."""
        return self._workers.is_warm_for(job)

    def has_room(self, job: EvalJob) -> bool:
        """Return whether a chunk of a job would be run now: on a warm worker, in free room, or in an idle one's."""
        if self._workers.is_warm_for(job):
            return True
        if not self._may_have(self._workers.num_busy + len(self._orders) + 1):
            return False
        self._make_do(job)
        return self._now_and_later()[1].fits(job.resources) or self._may_grow(job)

    def _may_have(self, num_workers: int) -> bool:
        return self._settings.num_workers is None or num_workers <= self._settings.num_workers

    def _may_grow(self, job: EvalJob) -> bool:
        """Return whether one more worker may wait for a machine that an autoscaler is to add."""
        if not self._autoscaler.is_there:
            return False
        waiting = self._workers.num_unplaced + len(self._orders)
        placed = len(self._workers) - self._workers.num_unplaced
        return waiting < self._autoscaler.burst(placed) and self._autoscaler.may_add(job)

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        """Run a chunk on a warm worker, else on a new one, for which idle workers make room."""
        order = Order(chunk, frozenset() if avoid is None or not avoid.gpus else frozenset({avoid}))
        if not self._place(order):
            self._make_room(order)
            self._orders.append(order)
            if self._rooms is not None:
                self._rooms[1].take(chunk.job.resources, None)

    def _place_orders(self) -> None:
        """Give each order that waits a worker, if there is one or room for one."""
        waiting: list[Order] = []
        stuck: set[Any] = set()
        for order in self._orders:
            resources = order.chunk.job.resources
            if not self._workers.is_warm_for(order.chunk.job) and resources.shape in stuck:
                waiting.append(order)
            elif not self._place(order):
                if resources.shape not in stuck:
                    self._make_room(order)
                stuck.add(resources.shape)
                waiting.append(order)
        if len(waiting) != len(self._orders):
            self._orders, self._rooms = waiting, None

    def _place(self, order: Order) -> bool:
        job = order.chunk.job
        warm = sorted(self._workers.warm(job), key=lambda worker: worker.place in order.avoid)
        worker = warm[0] if warm else None
        if worker is not None and worker.place in order.avoid:
            if self._fits_another(job, holders=1):
                worker = self._start(job)
            elif self._waits_for_another_place(order):
                return False
        elif worker is None:
            if not self._fits_another(job) and not (self._may_have(len(self._workers) + 1) and self._may_grow(job)):
                return False
            worker = self._start(job)
        avoid = self._nodes.quarantined | (order.avoid if order.declined < DECLINES else frozenset())
        stream = worker.actor.run.options(**self._stream_options()).remote(order.chunk, avoid)
        self._workers.assign(worker, order, stream)
        if self._rooms is not None:
            self._rooms[1].take(job.resources, worker.node_id)
        return True

    def _stream_options(self) -> dict[str, Any]:
        ahead = {"_generator_backpressure_num_objects": PIECES_AHEAD} if self._told and self._told.collect else {}
        return {"num_returns": "streaming", **ahead}

    def _waits_for_another_place(self, order: Order) -> bool:
        """Return whether a chunk that was declined is to run on a worker elsewhere that is busy now."""
        return order.declined > 0 and any(
            worker.place and worker.place not in order.avoid
            for worker in self._workers.busy()
            if worker.job.name == order.chunk.job.name
        )

    def _fits_another(self, job: EvalJob, holders: int = 0) -> bool:
        """Return whether another worker may be started now; `holders` are idle ones that only hold their GPU."""
        return self._may_have(len(self._workers) + 1 - holders) and self._now_and_later()[0].fits(job.resources)

    def _end_holders(self) -> None:
        """End idle workers above the limit, when what they held a GPU for has found its place."""
        for worker in self._workers.idle() if self._settings.num_workers is not None else ():
            if not self._may_have(len(self._workers)):
                self._dismiss(worker)

    def _make_room(self, order: Order) -> None:
        """End idle workers until one more will fit when they are gone, if that helps."""
        job = order.chunk.job
        if self._workers.num_idle and not self._waits_for_another_place(order):
            room = self._room_beside(self._workers)
            for other in self._orders:
                if other is not order:
                    room.take(other.chunk.job.resources, None)
            idle, going = self._workers.idle(), 0
            while not (fits := room.fits(job.resources) and self._may_have(len(self._workers) + 1 - going)):
                if going == len(idle):
                    break
                room.give(idle[going].job.resources, idle[going].node_id)
                going += 1
            for worker in idle[:going] if fits else ():
                self._dismiss(worker)
        self._make_do(job)

    def _make_do(self, job: EvalJob) -> None:
        """Take back quarantine when nothing else is left: bad places are better than none."""
        if len(self._workers) or len(self._burials) or not (self._nodes.any_doubted or self._blockers):
            return
        if not self._room_beside([]).fits(job.resources):
            self._nodes.trust_again()
            for worker in self._blockers:
                self._workers.add(worker)
                if worker.place is not None:
                    self._workers.placed(worker, worker.place)
            self._blockers, self._rooms = [], None

    def _start(self, job: EvalJob) -> Worker:
        mark = processes.new_mark(self._mark)
        actor = start_actor(
            job.resources,
            self._setup,
            mark,
            self._stop_key,
            cores=self._nodes.capacity(job)[1],
            num_workers=self.num_workers(job),
            bad_nodes=self._nodes.bad(),
            proof_key=self._nodes.proof_key,
        )
        worker = Worker(actor, mark, job)
        if self._rooms is not None:
            self._rooms[0].take(job.resources, None)
        self._workers.add(worker)
        return worker

    def _dismiss(self, worker: Worker) -> None:
        """Let an idle worker close its environment, then end it."""
        self._rooms = None
        self._workers.remove(worker)
        self._burials.close(worker.burial())

    def is_pending(self, chunk: Chunk) -> bool:
        """Return whether Ray has not started the process that is to run a chunk, as far as can be seen from here."""
        worker = self._workers.running(chunk)
        return worker is None or (worker.place is None and not processes.marked_processes(worker.mark))

    def place_of(self, chunk: Chunk) -> Place | None:
        """Return where a chunk runs."""
        worker = self._workers.running(chunk)
        return None if worker is None else worker.place

    def has_place_besides(self, place: Place, job: EvalJob) -> bool:
        """Return whether there are GPUs, or nodes, for a worker of a job that are neither this nor quarantined."""
        return self._nodes.has_place_besides(place, job)

    def quarantine(self, place: Place) -> None:
        """Start no further worker there; idle ones that are there are ended."""
        self._nodes.quarantined.add(place)
        for worker in [worker for worker in self._workers.idle() if worker.place == place]:
            self._dismiss(worker)

    def _leave_drained_nodes(self) -> None:
        """Let the workers on nodes that are being drained finish their episodes, and end the idle ones."""
        if self._cluster.drained <= self._left:
            return
        self._left |= self._cluster.drained
        if not self._stopped:
            _internal_kv_put(self._stop_key, ",".join(sorted(self._left)).encode())
        for worker in self._workers.idle():
            if worker.node_id in self._left:
                self._dismiss(worker)

    def _give_back(self) -> None:
        """End workers that have had nothing to do for long; one that holds its GPU for another's sake is left."""
        self._looked_at = now = time.monotonic()
        if not self._orders and not self._workers.num_unplaced:
            for worker in [worker for worker in self._workers.idle() if now - worker.idle_since > GIVE_BACK_S]:
                self._dismiss(worker)

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return what happened; waits until something does, at most so long."""
        before = len(self._burials)
        self._burials.tend()
        news = self._leave_bad_nodes()
        if len(self._burials) != before:
            self._rooms = None
        if news:
            return news
        if self._stopped and self._orders:
            withdrawn, self._orders = self._orders, []
            return [ChunkFinished(order.chunk) for order in withdrawn]
        self._leave_drained_nodes()
        if time.monotonic() - self._looked_at > LOOK_S:
            self._give_back()
            self._nodes.examine_newcomers()
        self._take_from_pending()
        self._place_orders()
        if self._orders and not len(self._workers) and not len(self._burials):
            # There was room when it was submitted, and now there is none: nobody runs that could make any.
            given_back, self._orders = self._orders, []
            self._rooms = None
            return [WorkerLost(order.chunk, "unreachable", "no node has room any more") for order in given_back]
        losses = self._explained_losses()
        if losses:
            return losses
        if not self._workers.streams:
            time.sleep(min(timeout_s, IDLE_S))
            return []
        if self._orders or self._workers.lost:
            timeout_s = min(timeout_s, IDLE_S)  # What they wait for is seen by looking.
        streams = list(self._workers.streams)
        ready, _ = ray.wait(streams, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and len(streams) > 1:
            ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
        workers = [self._workers.streams[stream] for stream in ready]
        return [event for worker in workers for event in self._next(worker)]

    def _next(self, worker: Worker) -> list[PoolEvent]:
        """Return the next thing that a worker's stream holds, which is ready."""
        order = worker.order
        assert order is not None
        try:
            said = ray.get(next(worker.stream))
        except StopIteration:
            if worker.verdict is not None:  # It was ended for a reason, and reached the chunk's end before it died.
                return [self._lose(worker, order.chunk, *worker.verdict)]
            self._free(worker)
            leaves = worker.node_id in self._left and not worker.retiring  # It came to the end before it noticed.
            if worker.retiring or leaves or self._settings.isolation == "chunk":
                self._dismiss(worker)
            told = [ChunkEvents(order.chunk, (Retiring(reason=LEAVES),))] if leaves else []
            return [*told, ChunkFinished(order.chunk)]
        except ray.exceptions.RayError as error:
            if worker.verdict is not None:
                return [self._lose(worker, order.chunk, *worker.verdict)]
            self._workers.mute(worker)
            worker.inquiry = Inquiry(error, worker.actor, worker.node_id, self._here)
            self._workers.lost[worker] = None
            return self._explained_losses()
        if isinstance(said, Born):
            if worker.place != said.place:
                self._workers.placed(worker, said.place)
                self._rooms = None
            self._nodes.examine(said.place.node_id)
            if said.declined:
                self._take_back(worker, order)
                return []
            said = ()
        if not worker.heard:
            worker.heard = True
            self._end_holders()
        worker.retiring = worker.retiring or any(isinstance(event, Retiring) for event in said)
        return [ChunkEvents(order.chunk, said)]

    def _free(self, worker: Worker) -> None:
        """Note that a worker, which has said where it is, has nothing to run any more."""
        self._workers.freed(worker)
        if self._rooms is not None:
            self._rooms[1].give(worker.job.resources, worker.node_id)

    def _leave_bad_nodes(self) -> list[PoolEvent]:
        """End the workers that were placed on a node which turns out to be of no use; return what to say of it.

        Raises:
            NotSharedError: If no node reaches the run directory, or the storage.
        """
        events: list[PoolEvent] = []
        for node_id, flaw in self._nodes.newly_failed().items():
            events.append(PoolNotice(Notice(topic=f"{flaw.cause} {node_id[:12]}", message=not_used(flaw))))
            for worker in list(self._workers.busy()):
                if worker.node_id == node_id and worker.chunk is not None:
                    self.kill(worker.chunk, flaw.cause, not_used(flaw))
        if events:
            self._nodes.check_that_any_shares()
        return events

    def leftovers(self, wanted: Collection[tuple[str, int]]) -> Iterator[tuple[Event, ...]]:
        """Deliver and remove what workers that died left on their nodes' own disks; idle workers are ended first."""
        assert self._told is not None
        if not self._told.staged:
            return
        for worker in self._workers.idle():
            self._dismiss(worker)
        self._burials.drain(CLOSE_S)
        for node in self._cluster.nodes():
            with contextlib.suppress(ray.exceptions.RayError):
                for said in deliver_leftovers_on(node.node_id, self._setup, wanted):
                    yield ray.get(said)

    def _take_from_pending(self) -> None:
        """Give the chunk of a worker that Ray does not place to an idle one, or end idle ones that are in its way."""
        if not self._workers.num_idle:
            return
        for worker in self._workers.unplaced():
            if time.monotonic() - worker.since < PENDING_S:
                continue
            assert worker.order is not None
            if self._workers.is_warm_for(worker.job):
                self._orders.insert(0, worker.order)
                self._workers.remove(worker)
                self._burials.end(worker.burial())
                self._rooms = None
                return
            for other in self._workers.idle():
                self._dismiss(other)

    def _explained_losses(self) -> list[PoolEvent]:
        """Return the losses whose reason is known by now."""
        losses = []
        for worker in list(self._workers.lost):
            assert worker.inquiry is not None
            assert worker.chunk is not None
            verdict = worker.verdict or self._nodes.blamed(worker, worker.inquiry.verdict(self._cluster))
            if verdict is not None:
                losses.append(self._lose(worker, worker.chunk, *verdict))
        return losses

    def _take_back(self, worker: Worker, order: Order) -> None:
        """Look for another worker for a chunk; this one holds its GPU meanwhile, or for ever if that is bad."""
        self._free(worker)
        order.declined += 1
        if worker.place in self._nodes.quarantined:
            self._workers.remove(worker)
            self._blockers.append(worker)
        self._orders.insert(0, order)

    def _lose(self, worker: Worker, chunk: Chunk, cause: str, message: str) -> PoolEvent:
        self._workers.remove(worker)
        self._rooms = None
        self._burials.end(worker.burial())
        if cause in ("node_lost", "unreachable") and worker.node_id not in (None, self._here):
            assert worker.node_id is not None
            self._nodes.shun(worker.node_id)
        return ChunkFinished(chunk) if cause == WITHDRAWN else WorkerLost(chunk, cause, message, worker.place)

    def kill(self, chunk: Chunk, cause: str, message: str) -> None:
        """End the worker of a chunk by force."""
        worker = self._workers.running(chunk)
        if worker is not None and worker.verdict is None:
            worker.verdict = (cause, message)
            ray.kill(worker.actor, no_restart=True)

    def stop(self) -> None:
        """Let episodes in flight finish and start no other."""
        self._stopped = True
        _internal_kv_put(self._stop_key, STOPPED)
        for worker in list(self._workers.busy()):
            if not worker.heard:
                # It may wait for its resources for ever, and has begun nothing.
                assert worker.chunk is not None
                self.kill(worker.chunk, WITHDRAWN, "the run stops")

    def close(self) -> None:
        """End all workers, busy ones at once, and the Ray that this pool started."""
        if not ray.is_initialized():
            return
        for worker in self._workers.idle():
            self._dismiss(worker)
        for worker in (*self._workers, *self._blockers):
            self._burials.end(worker.burial())
        self._workers, self._blockers = Roster(self._settings), []
        self._burials.finish(CLOSE_S)
        _internal_kv_del(self._stop_key)
        self._nodes.close()
        if self._owns_ray:
            ray.shutdown()
