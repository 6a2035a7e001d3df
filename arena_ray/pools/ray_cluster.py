"""A Ray cluster as the pool sees it: the connection, and what its nodes have."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from typing import Any

import ray

from arena_ray.errors import ClusterError, ConfigError
from arena_ray.pools.ray_access import SAME_VERSIONS, check_access, refuse_ray_client, token_problem
from arena_ray.pools.room import Node, Room

#: How old the list of nodes may be; a node that joins is used after so long.
NODES_FRESH_S = 1.0


class Cluster:
    """The nodes, at most some seconds old: asking costs a call to Ray's head.

    Attributes:
        version: Counts the changes of what there is.
        drained: Nodes that are, or have been, on their way out (``ray drain-node``, preemption, an idle timeout).
    """

    def __init__(self) -> None:
        self.version = 0
        self.drained: set[str] = set()
        self._nodes: list[Node] = []
        self._asked_at = -NODES_FRESH_S

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""
        if time.monotonic() - self._asked_at > NODES_FRESH_S:
            nodes = [_node(entry) for entry in ray.nodes() if entry["Alive"]]  # type: ignore[no-untyped-call]
            # Not public, but what Ray Serve asks, too (`ray.serve._private.cluster_node_info_cache`, Ray 2.60).
            drained = self.drained | ray._private.state.state.get_draining_nodes().keys()
            if (nodes, drained) != (self._nodes, self.drained):
                self._nodes, self.drained = nodes, drained
                self.version += 1
            self._asked_at = time.monotonic()
        return self._nodes

    def room(self, without: Collection[str] = ()) -> Room:
        """Return what there is when nothing runs, leaving some nodes out."""
        return Room([node for node in self.nodes() if node.node_id not in without])


def _node(entry: dict[str, Any]) -> Node:
    has = entry["Resources"]
    return Node(
        node_id=entry["NodeID"],
        num_cpus=has.get("CPU", 0.0),
        num_gpus=has.get("GPU", 0.0),
        memory_gb=has.get("memory", 0.0) / 1e9,
        host=entry["NodeManagerAddress"],
        labels=entry.get("Labels") or {},
    )


def on_node(node_id: str) -> dict[str, Any]:
    """Return the options of a small task that runs on this node or nowhere, and is not tried again."""
    where = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": where}


def connect(address: str | None) -> bool:
    """Connect to Ray or start it; return whether this process started it.

    Args:
        address: ``auto``, ``HOST:PORT``, or ``None``: what `RAY_ADDRESS` says, else Ray is started on this machine.

    Raises:
        ConfigError: If the address, or the token, cannot be used.
        ClusterError: If Ray there is of another version, or another Python's.
    """
    known = address or os.environ.get("RAY_ADDRESS")
    refuse_ray_client(address if ray.is_initialized() else known)
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if known is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return True
    check_access(os.environ.get("RAY_ADDRESS") or known if known == "auto" else known)
    try:
        ray.init(address=address, **quiet)
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(token_problem(known)) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "mismatch" in str(error).lower():
            raise ClusterError(f"Ray at {known!r} does not fit this process: {error}; {SAME_VERSIONS}") from error
        raise ConfigError(
            f"cannot connect to Ray at {known!r}: {error}; check that it runs there (ray status)"
        ) from error
    return True
