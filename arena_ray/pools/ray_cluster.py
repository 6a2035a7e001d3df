"""A Ray cluster as the pool sees it: the connection, and what its nodes have."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Collection, Sequence
from typing import Any

import ray

from arena_ray.errors import ClusterError, ConfigError
from arena_ray.pools.ray_access import SAME_VERSIONS, check_access, refuse_ray_client, token_problem
from arena_ray.specs import EvalJob, Resources

#: How old the list of nodes may be; a node that joins is used after so long.
NODES_FRESH_S = 1.0

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive, and all that it has."""

    node_id: str
    num_cpus: float
    num_gpus: float
    memory_gb: float

    def how_many(self, resources: Resources) -> int:
        """Return how many workers fit when nothing else runs there."""
        return Room([self]).how_many(resources)


class Cluster:
    """The nodes, at most some seconds old: asking costs a call to Ray's head."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._asked_at = -NODES_FRESH_S

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""
        if time.monotonic() - self._asked_at > NODES_FRESH_S:
            self._nodes = [_node(entry) for entry in ray.nodes() if entry["Alive"]]  # type: ignore[no-untyped-call]
            self._asked_at = time.monotonic()
        return self._nodes

    def room(self, without: Collection[str] = ()) -> Room:
        """Return what there is when nothing runs, leaving some nodes out."""
        return Room([node for node in self.nodes() if node.node_id not in without])


def _node(entry: dict[str, Any]) -> Node:
    has = entry["Resources"]
    return Node(entry["NodeID"], has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0) / 1e9)


class Room:
    """What is free on each node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._free = {
            node.node_id: {"num_cpus": node.num_cpus, "num_gpus": node.num_gpus, "memory_gb": node.memory_gb}
            for node in nodes
        }

    def fits(self, resources: Resources) -> bool:
        """Return whether one more worker fits somewhere."""
        return any(_fits(resources, free) for free in self._free.values())

    def take(self, resources: Resources, node_id: str | None) -> None:
        """Count a worker that runs on a node, or, where that is not known yet, on the first that it fits into."""
        free = self._free.get(node_id or "")
        if node_id is None:
            free = next((free for free in self._free.values() if _fits(resources, free)), None)
        if free is not None:
            for name, amount in _request(resources).items():
                free[name] -= amount

    def how_many(self, resources: Resources) -> int:
        """Return how many workers fit."""
        wanted = {name: amount for name, amount in _request(resources).items() if amount > 0}
        return sum(
            max(0, min(int((free[name] + _EPSILON) // amount) for name, amount in wanted.items()))
            for free in self._free.values()
        )


def _request(resources: Resources) -> dict[str, float]:
    """Return what a worker takes; one that asks for nothing is counted as a core, or there would be no end of them."""
    nothing = not resources.num_cpus and not resources.num_gpus
    return {
        "num_cpus": 1.0 if nothing else resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "memory_gb": resources.memory_gb or 0.0,
    }


def _fits(resources: Resources, free: dict[str, float]) -> bool:
    return all(amount <= free[name] + _EPSILON for name, amount in _request(resources).items())


def demand_table(jobs: Sequence[EvalJob], nodes: Sequence[Node]) -> str:
    """Return what jobs ask for that no node has, for people."""
    head = f"{'num_cpus':>10} {'num_gpus':>10} {'memory_gb':>10}"
    lines = ["no node can ever run a worker of these jobs:", "", f"{'job':<32} {head}"]
    lines += [_row(job.name, _request(job.resources)) for job in jobs]
    lines += ["", f"{'node':<32} {head}"]
    lines += [_row(str(index), Room([node])._free[node.node_id]) for index, node in enumerate(nodes)]
    lines += ["", "ask for less in the job's 'resources', or give --address of a cluster that has it"]
    return "\n".join(lines)


def _row(name: str, amounts: dict[str, float]) -> str:
    return f"{name:<32} {amounts['num_cpus']:>10g} {amounts['num_gpus']:>10g} {amounts['memory_gb']:>10.4g}"


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
