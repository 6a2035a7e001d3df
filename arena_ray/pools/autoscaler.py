"""What adds machines to a cluster: whether there is such a thing, what it will not add, and how much it is asked for.

Ray's autoscaler (version 2, the default from Ray 2.50 on) starts machines for actors that wait for room, and says of
which it cannot ever start any. Also a cluster without one has its process, which says that of everything; what tells
them apart is that the nodes of an autoscaled cluster have a type.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray

from arena_ray.specs import EvalJob, Shape

logger = logging.getLogger("arena_ray")

#: Workers that may wait for machines at a time: at least, and at most.
BURST_AT_LEAST, BURST_AT_MOST = 8, 200

#: How long the autoscaler may take to say what it will not add, seconds; it looks every five.
ANSWER_S = 20.0

#: How often it is asked, seconds.
LOOK_S = 0.5

#: The label of a node's type, from the environment variable RAY_NODE_TYPE_NAME, which whatever adds nodes sets.
NODE_GROUP = "ray.io/node-group"


def _status() -> Any:
    """Return what Ray's head knows of the autoscaler; it is not public (`ray.autoscaler.v2.sdk`, Ray 2.60)."""
    from ray.core.generated import autoscaler_pb2

    messages: Any = autoscaler_pb2
    worker: Any = ray._private.worker.global_worker
    reply = messages.GetClusterStatusReply()
    reply.ParseFromString(worker.gcs_client.get_cluster_status(timeout_s=10))
    return reply


class Autoscaler:
    """The autoscaler of the cluster that this process is connected to.

    Attributes:
        is_there: Whether machines may be added.
    """

    def __init__(self) -> None:
        self._refused: set[Shape] = set()
        status = _status()
        self.is_there = status.autoscaling_state.autoscaler_state_version > 0 and any(
            node.ray_node_type_name or NODE_GROUP in node.labels for node in status.cluster_resource_state.node_states
        )

    def burst(self, num_placed: int) -> int:
        """Return how many workers may wait for machines at a time.

        As many as run already, so that a cluster doubles rather than asks for everything at once, and gives back what
        came too late. Ray Tune has a similar bound (`TUNE_MAX_PENDING_TRIALS_PG`).

        Args:
            num_placed: Workers that run.
        """
        return max(BURST_AT_LEAST, min(num_placed, BURST_AT_MOST))

    def may_add(self, job: EvalJob) -> bool:
        """Return whether a machine for a worker of a job may be added, as far as is known."""
        return self.is_there and job.resources.shape not in self._refused

    def ask(self, jobs: Sequence[EvalJob], start: Any) -> None:
        """Find out which jobs the autoscaler will never add a machine for, within `ANSWER_S`.

        Args:
            jobs: For which no node has room.
            start: Called with a job; starts an actor of its shape that does nothing, and returns it.
        """
        if not self.is_there:
            return
        logger.warning(
            "the autoscaler is asked whether it can add machines for %s", ", ".join(job.name for job in jobs)
        )
        version = _status().autoscaling_state.autoscaler_state_version
        actors = [start(job) for job in jobs]
        try:
            deadline = time.monotonic() + ANSWER_S
            # Its second report from now on has seen the demand for certain: the first may have been under way.
            while time.monotonic() < deadline:
                state = _status().autoscaling_state
                refused = [dict(demand.resources_bundle) for demand in state.infeasible_resource_requests]
                self._refused = {job.resources.shape for job in jobs if _bundle(job) in refused}
                if self._refused or state.pending_instance_requests or state.autoscaler_state_version > version + 1:
                    return
                time.sleep(LOOK_S)
        finally:
            for actor in actors:
                ray.kill(actor)


def _bundle(job: EvalJob) -> dict[str, float]:
    """Return a worker's demand in Ray's words, as the autoscaler reports it."""
    asked = job.resources
    named = {"CPU": asked.num_cpus, "GPU": asked.num_gpus, "memory": float(int((asked.memory_gb or 0) * 1e9))}
    return {name: float(amount) for name, amount in named.items() if amount}
