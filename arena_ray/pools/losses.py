"""Why a worker was lost, from what Ray says of it.

Ray's first word may be too early: that the actor cannot be reached, or that its process ended, while it is the node
that is gone. So away from this machine its second word is awaited.
"""

from __future__ import annotations

import time
from typing import Any

import ray

from arena_ray.pools.ray_cluster import Cluster

#: How long Ray may take to say why an actor cannot be reached, seconds.
EXPLAIN_S = 5.0

#: How long after the death of a process the death of its node may become known, seconds.
NODE_DEATH_S = 3.0


class Inquiry:
    """Finds out why a worker was lost, without waiting.

    Args:
        error: What its stream raised.
        actor: Its actor, which has a method `ping`.
        node_id: Where it was; ``None`` if that is not known.
        here: Id of this process's node, which is alive as long as this process is.
    """

    def __init__(self, error: Exception, actor: Any, node_id: str | None, here: str) -> None:
        self._error, self._node_id, self._here = error, node_id, here
        self._since = time.monotonic()
        unreachable = isinstance(error, ray.exceptions.ActorUnavailableError)
        self._ping = actor.ping.remote() if unreachable else None

    def verdict(self, cluster: Cluster) -> tuple[str, str] | None:
        """Return cause and text, or ``None`` as long as they are not certain."""
        age = time.monotonic() - self._since
        self._listen()
        cause, text = classify(self._error)
        if self._node_id in cluster.drained and cause in ("died", "unreachable"):
            return "preempted", text  # Whatever ends a process there, it is on its way out.
        if self._node_id in (None, self._here) and cause == "unreachable":
            return ("died", text) if age > EXPLAIN_S else None
        if cause not in ("died", "unreachable") or self._node_id in (None, self._here):
            return cause, text
        if all(node.node_id != self._node_id for node in cluster.nodes()):
            return "node_lost", text
        return (cause, text) if age > (NODE_DEATH_S if cause == "died" else EXPLAIN_S) else None

    def _listen(self) -> None:
        """Take in why the actor could not be reached, if that is known by now."""
        if self._ping is None or not ray.wait([self._ping], timeout=0)[0]:
            return
        try:
            ray.get(self._ping)
        except ray.exceptions.ActorUnavailableError:
            pass
        except ray.exceptions.RayError as error:
            self._error = error
        self._ping = None


def node_of(actor: Any) -> str | None:
    """Return the id of the node on which Ray started an actor, dead or alive, if it has done so."""
    table = ray._private.state.state.actor_table(actor._actor_id.hex())
    return table.get("Address", {}).get("NodeID") or None


def classify(error: Exception) -> tuple[str, str]:
    """Return the cause and a text for the loss of a worker."""
    text = " ".join(str(error).split())
    return _cause(error, text), _essence(text)


def _cause(error: Exception, text: str) -> str:
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "unreachable"
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
