"""What adds machines to a cluster: whether there is such a thing, what it will not add, and how much it is asked for.

Ray's autoscaler (version 2, the default from Ray 2.50 on) starts machines for actors that wait for room, and says for
which it can start none, be it that no type of machine has that, or that its limits are reached. Also a cluster without
one has its process, which says that of everything; what tells them apart is that the nodes of an autoscaled cluster
have a type.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import ray

from arena_ray.labels import condition_parts
from arena_ray.specs import EvalJob, Shape

logger = logging.getLogger("arena_ray")

#: Workers that may wait for machines at a time: at least, and at most.
BURST_AT_LEAST, BURST_AT_MOST = 8, 200

#: How long the autoscaler may take to say what it will not add, seconds; it looks every five.
ANSWER_S = 20.0

#: How often it is asked, seconds.
LOOK_S = 0.2

#: The label of a node's type, from the environment variable RAY_NODE_TYPE_NAME, which whatever adds nodes sets.
NODE_GROUP = "ray.io/node-group"

#: What Ray's head has in its resources, and no other node.
HEAD_RESOURCE = "node:__internal_head__"

#: What an actor asks for: its resources, and the conditions on labels.
_Demand: TypeAlias = tuple[frozenset[tuple[str, float]], frozenset[tuple[str, frozenset[str], bool]]]


def _messages() -> Any:
    from ray.core.generated import autoscaler_pb2

    return autoscaler_pb2


def _negated() -> Any:
    from ray.core.generated import common_pb2

    enum: Any = common_pb2
    return enum.LabelSelectorOperator.Value("LABEL_OPERATOR_NOT_IN")


def _status() -> Any:
    """Return what Ray's head knows of the autoscaler; it is not public (`ray.autoscaler.v2.sdk`, Ray 2.60)."""
    worker: Any = ray._private.worker.global_worker
    reply = _messages().GetClusterStatusReply()
    reply.ParseFromString(worker.gcs_client.get_cluster_status(timeout_s=10))
    return reply


class Autoscaler:
    """The autoscaler of the cluster that this process is connected to.

    Attributes:
        is_there: Whether machines may be added.
        adds_none_now: Whether it said that it adds no machine for jobs it was asked about, while there are machines
            that count against its limits: when some of them go, it may.
    """

    def __init__(self) -> None:
        self.adds_none_now = False
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
        actors = [start(job) for job in jobs]
        try:
            self._take_answer(jobs, _answer({_demand(job) for job in jobs}))
        finally:
            for actor in actors:
                ray.kill(actor)

    def _take_answer(self, jobs: Sequence[EvalJob], status: Any) -> None:
        if status is None:
            return
        infeasible = {_as_demand(request) for request in status.autoscaling_state.infeasible_resource_requests}
        refused = {job.resources.shape for job in jobs if _demand(job) in infeasible}
        self.adds_none_now = bool(refused) and _others_are_there(status)
        self._refused = set() if self.adds_none_now else refused


def _answer(demands: set[_Demand]) -> Any:
    """Return the status in which the autoscaler has seen these demands, or ``None`` if it has not in time.

    What it says before that is about others' demands.
    """
    deadline, version = time.monotonic() + ANSWER_S, None
    while time.monotonic() < deadline:
        status = _status()
        known = status.cluster_resource_state
        if version is None and demands <= {_as_demand(asked.request) for asked in known.pending_resource_requests}:
            version = known.cluster_resource_state_version
        if version is not None and status.autoscaling_state.last_seen_cluster_resource_state_version >= version:
            return status
        time.sleep(LOOK_S)
    return None


def _others_are_there(status: Any) -> bool:
    """Return whether there are nodes besides the head, or will be: they count against ``max_workers``."""
    dead = _messages().NodeStatus.Value("DEAD")
    state = status.autoscaling_state
    return bool(state.pending_instance_requests or state.pending_instances) or any(
        node.status != dead and HEAD_RESOURCE not in node.total_resources
        for node in status.cluster_resource_state.node_states
    )


def _as_demand(request: Any) -> _Demand:
    negated = _negated()
    conditions = {
        (asked.label_key, frozenset(asked.label_values), asked.operator == negated)
        for selector in request.label_selectors
        for asked in selector.label_constraints
    }
    return frozenset(request.resources_bundle.items()), frozenset(conditions)


def _demand(job: EvalJob) -> _Demand:
    """Return a worker's demand in Ray's words, as the autoscaler reports it."""
    asked = job.resources
    named = {"CPU": asked.num_cpus, "GPU": asked.num_gpus, "memory": float(int((asked.memory_gb or 0) * 1e9))}
    conditions = {(key, *condition_parts(condition)) for key, condition in asked.selector.items()}
    return frozenset((name, float(amount)) for name, amount in named.items() if amount), frozenset(conditions)
