"""Which nodes of a cluster workers may be started on, and how many fit there.

A node is left out that has not proven what it must (`NodeProofs`), that is in quarantine, that could not be reached
lately, or that is on its way out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from typing import Any

from arena_ray.dispatch import WorkerSetup
from arena_ray.pools.base import Place
from arena_ray.pools.losses import node_of
from arena_ray.pools.node_proofs import Flaw, NodeProofs
from arena_ray.pools.ray_cluster import Cluster
from arena_ray.pools.room import Node, Room
from arena_ray.pools.roster import Worker
from arena_ray.specs import EvalJob, RunSettings

#: A node that could not be reached is not counted on for so long, seconds; Ray may take as long to call it dead.
SHUN_S = 30.0


class UsableNodes:
    """The nodes that a pool counts on.

    Args:
        cluster: All nodes.
        settings: With `num_workers`, which all share the cores.

    Attributes:
        jobs: Those of the run; a node that is too small for each of them is asked for nothing.
        quarantined: Places where no further worker is started.
    """

    def __init__(self, cluster: Cluster, settings: RunSettings) -> None:
        self.jobs: Sequence[EvalJob] = ()
        self.quarantined: set[Place] = set()
        self._cluster, self._settings = cluster, settings
        self._proofs: NodeProofs | None = None
        self._shunned: dict[str, float] = {}
        self._too_small: set[str] = set()
        self._told: set[str] = set()
        self._examined = 0
        self._capacities: dict[Any, tuple[int, float]] = {}

    def require_proofs(self, setup: WorkerSetup, trusted: Collection[str]) -> None:
        """Have each node that would run workers prove that it reaches the run, and those that join later.

        Args:
            setup: Where the run is.
            trusted: Nodes that reach what the driver reaches.

        Raises:
            NotSharedError: If one of them does not.
        """
        self._proofs = NodeProofs(setup, trusted)
        nodes = self._cluster.nodes()
        self._proofs.require([node.node_id for node in nodes if self._is_of_use(node)])

    def _is_of_use(self, node: Node) -> bool:
        return any(node.how_many(job.resources) for job in self.jobs)

    @property
    def proof_key(self) -> str | None:
        """Where workers look whether their node has proven what it must; ``None``: it need not."""
        return None if self._proofs is None else self._proofs.key

    @property
    def any_doubted(self) -> bool:
        """Whether a place is left out that `trust_again` would take back."""
        return bool(self.quarantined or self._shunned)

    def bad(self) -> set[str]:
        """Return the nodes that must not be used."""
        unproven = self._proofs.failed if self._proofs is not None else {}
        return {place.node_id for place in self.quarantined if not place.gpus}.union(unproven)

    def _left_out(self) -> set[str]:
        """Return the nodes that are not to be counted on now."""
        shunned = {node_id for node_id, until in self._shunned.items() if time.monotonic() < until}
        unknown = self._proofs.under_way if self._proofs is not None else ()
        return self.bad().union(shunned, self._cluster.drained, unknown)

    def version(self) -> tuple[int, frozenset[str]]:
        """Return what is equal as long as the same nodes are counted on."""
        self._cluster.nodes()
        if self._cluster.version != self._examined:
            self.examine_newcomers()
        return self._cluster.version, frozenset(self._left_out())

    def room(self) -> Room:
        """Return what there is when nothing runs."""
        return self._cluster.room(without=self._left_out())

    def capacity(self, job: EvalJob) -> tuple[int, float]:
        """Return how many workers of a job fit when nothing else runs, and the cores that each can count on."""
        self._cluster.nodes()
        bad = self.bad()
        key = (self._cluster.version, frozenset(bad), job.resources.shape)
        if key not in self._capacities:
            without = bad | self._cluster.drained
            nodes = [node for node in self._cluster.nodes() if node.node_id not in without]
            fitting = [(node.num_cpus, node.how_many(job.resources)) for node in nodes]
            most = self._settings.num_workers or math.inf
            cores = min((cores / min(number, most) for cores, number in fitting if number), default=1.0)
            self._capacities = {known: value for known, value in self._capacities.items() if known[:2] == key[:2]}
            self._capacities[key] = (sum(number for _, number in fitting), cores)
        return self._capacities[key]

    def has_place_besides(self, place: Place, job: EvalJob) -> bool:
        """Return whether there are GPUs, or nodes, for a worker of a job that are neither this nor quarantined."""
        left_out = self._left_out()
        nodes = [node for node in self._cluster.nodes() if node.node_id not in left_out]
        nodes = [node for node in nodes if node.how_many(job.resources)]
        if not place.gpus:
            return any(node.node_id != place.node_id for node in nodes)
        bad = {(one.node_id, gpu) for one in (*self.quarantined, place) for gpu in one.gpus}
        return sum(node.num_gpus for node in nodes) > len(bad)

    def shun(self, node_id: str) -> None:
        """Be told that a node could not be reached."""
        self._shunned[node_id] = time.monotonic() + SHUN_S

    def trust_again(self) -> None:
        """Take back quarantine, and what could not be reached: when nothing else is left."""
        self.quarantined.clear()
        self._shunned.clear()

    def examine(self, node_id: str) -> None:
        """Have a node prove what it must, unless it has."""
        if self._proofs is not None:
            self._proofs.begin(node_id)

    def examine_newcomers(self) -> None:
        """Have nodes that have joined prove what those at the start have proven, before they are counted on."""
        if self._proofs is None:
            return
        nodes = self._cluster.nodes()
        self._examined = self._cluster.version
        for node in nodes:
            if self._proofs.may_use(node.node_id) or node.node_id in self._too_small:
                continue
            if self._is_of_use(node):
                self._proofs.begin(node.node_id)
            else:
                self._too_small.add(node.node_id)

    def newly_failed(self) -> dict[str, Flaw]:
        """Return the nodes of which it has become known that they must not be used, by id."""
        if self._proofs is None:
            return {}
        self._proofs.tend()
        news = {node_id: flaw for node_id, flaw in self._proofs.failed.items() if node_id not in self._told}
        self._told.update(news)
        return news

    def check_that_any_shares(self) -> None:
        """Check that some node may still reach the run.

        Raises:
            NotSharedError: If nodes do not reach the run directory, or the storage, and none does.
        """
        if self._proofs is not None and self._proofs.none_shares:
            raise self._proofs.error()

    def blamed(self, worker: Worker, verdict: tuple[str, str] | None) -> tuple[str, str] | None:
        """Return why a worker was lost; one that died before it said where it was may have died of its node."""
        if self._proofs is None or verdict is None or verdict[0] != "died" or worker.place is not None:
            return verdict
        worker.sent_to = worker.sent_to or node_of(worker.actor)
        if worker.sent_to is None or self._proofs.may_use(worker.sent_to):
            return verdict
        if worker.sent_to in self._proofs.failed:
            flaw = self._proofs.failed[worker.sent_to]
            return flaw.cause, not_used(flaw)
        if all(node.node_id != worker.sent_to for node in self._cluster.nodes()):
            return "node_lost", verdict[1]
        self._proofs.begin(worker.sent_to)
        return None

    def close(self) -> None:
        """Remove what stands in the cluster's key-value store."""
        if self._proofs is not None:
            self._proofs.close()


def not_used(flaw: Flaw) -> str:
    """Return what to say of a node that must not be used."""
    return f"{flaw.problem}; the node is not used"
