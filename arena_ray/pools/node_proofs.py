"""Which nodes have proven that they can run workers, and reach the run directory, or the storage.

No worker begins an episode elsewhere. A node's probes are small tasks that are placed there, one after the other. Their
verdict stands in the cluster's key-value store, where workers of a node that joined in the middle of a run look for it.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_put

from arena_ray import storage
from arena_ray.dispatch import WorkerSetup
from arena_ray.errors import NotSharedError
from arena_ray.pools import node_survey
from arena_ray.pools.ray_cluster import on_node

#: A node whose probe has not come back after so long is left for later: Ray may be about to call it dead, seconds.
PROBE_S = 60.0

#: How often a worker asks whether its node may begin, seconds.
ASK_S = 0.1


def _prove(setup: WorkerSetup, nonce: str, node_id: str) -> tuple[str, str | None]:
    """Return this node's host name, and what is wrong with it."""
    import socket

    return socket.gethostname(), storage.prove(setup, nonce, node_id)


_REMOTE_PROVE: Any = ray.remote(_prove)


@dataclasses.dataclass(frozen=True, slots=True)
class Flaw:
    """Why a node must not be used.

    Attributes:
        cause: ``unfit``: it lacks what workers need; ``unshared``: it does not reach the run directory, or the storage.
        problem: What is wrong with it, for people.
    """

    cause: str
    problem: str


class NodeProofs:
    """The driver's side.

    Args:
        setup: What every worker of the run is told.
        trusted: Nodes that reach what the driver reaches, because they are this machine.

    Attributes:
        failed: The nodes that must not be used, by id.
    """

    def __init__(self, setup: WorkerSetup, trusted: Collection[str]) -> None:
        self.failed: dict[str, Flaw] = {}
        self._setup = setup
        self._key = f"arena_ray:shared:{uuid.uuid4().hex}:"
        self._trusted = frozenset(trusted)
        self._proven: set[str] = set()
        self._running: dict[str, tuple[Any, float, Callable[[str, Any], Flaw | None]]] = {}
        self._folder: storage.FolderProof | None = None
        for node_id in trusted:
            self._accept(node_id)

    @property
    def key(self) -> str:
        """Under this and a node's id stands in the key-value store that the node may begin."""
        return self._key

    @property
    def under_way(self) -> Collection[str]:
        """The nodes of which it is not known yet whether they may be used."""
        return self._running.keys()

    def may_use(self, node_id: str) -> bool:
        """Return whether a node has proven all that it must."""
        return node_id in self._proven

    def _accept(self, node_id: str) -> None:
        self._proven.add(node_id)
        _internal_kv_put(f"{self._key}{node_id}".encode(), b"1")

    def require(self, node_ids: Collection[str]) -> None:
        """Wait for the probes of nodes.

        Raises:
            NotSharedError: If one of them does not reach what it must; naming all that do not.
        """
        for node_id in node_ids:
            self.begin(node_id)
        give_up = time.monotonic() + PROBE_S
        while self._running and time.monotonic() < give_up:
            ray.wait([task for task, _, _ in self._running.values()], timeout=1.0)
            self.tend()
        if self._not_sharing():
            raise self.error()

    def begin(self, node_id: str) -> None:
        """Start the probes of a node, unless its verdict is known or on its way."""
        if node_id in self._proven or node_id in self.failed or node_id in self._running:
            return
        if node_survey.is_fitting(node_id):
            self._begin_sharing(node_id)
        else:
            self._await(node_id, node_survey.begin_versions(node_id), self._fitting_verdict)

    def _await(self, node_id: str, task: Any, take_in: Callable[[str, Any], Flaw | None]) -> None:
        self._running[node_id] = (task, time.monotonic(), take_in)

    def _begin_sharing(self, node_id: str) -> None:
        if self._setup.collect or node_id in self._trusted:
            self._accept(node_id)
            return
        if self._folder is None and self._setup.storage is None:
            self._folder = storage.FolderProof(Path(self._setup.run_dir))
        nonce = "" if self._folder is None else self._folder.nonce
        prove = _REMOTE_PROVE.options(**on_node(node_id), enable_task_events=False)
        self._await(node_id, prove.remote(self._setup, nonce, node_id), self._sharing_verdict)

    def tend(self) -> None:
        """Look for verdicts, without waiting."""
        for node_id, (task, since, take_in) in list(self._running.items()):
            if not ray.wait([task], timeout=0)[0]:
                if time.monotonic() - since > PROBE_S:
                    del self._running[node_id]  # It is tried again as long as the node is there.
                continue
            del self._running[node_id]
            flaw = take_in(node_id, task)
            if flaw is not None:
                self.failed[node_id] = flaw

    def _fitting_verdict(self, node_id: str, task: Any) -> Flaw | None:
        problem = node_survey.judge_versions(node_id, task)
        if problem is not None:
            return Flaw("unfit", problem)
        if node_survey.is_fitting(node_id):  # Else it is gone.
            self._begin_sharing(node_id)
        return None

    def _sharing_verdict(self, node_id: str, task: Any) -> Flaw | None:
        try:
            host, problem = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            host, problem = node_id[:12], str(error.cause)
        except ray.exceptions.RayError:
            return None  # The node is gone; it proved nothing, and has no worker.
        if problem is None and self._folder is not None and not self._folder.sees(node_id):
            problem = "writes there what is not seen here"
        if problem is None:
            self._accept(node_id)
            return None
        name = f"{host} ({node_id[:12]})" if self._setup.storage is None else f"{host}:"
        return Flaw("unshared", f"node {name} {problem}")

    def _not_sharing(self) -> list[str]:
        return [flaw.problem for flaw in self.failed.values() if flaw.cause == "unshared"]

    @property
    def none_shares(self) -> bool:
        """Whether nodes were found that do not reach what they must, and none that does."""
        return not self._proven and bool(self._not_sharing())

    def error(self) -> NotSharedError:
        """Return what to raise when nodes have failed."""
        nodes = "\n  ".join(self._not_sharing())
        if self._setup.storage is not None:
            return NotSharedError(
                f"these nodes do not reach the storage {self._setup.storage}:\n  {nodes}\nnothing was started; give "
                "them credentials (environment or files, on each machine) and a way to it"
            )
        return NotSharedError(
            f"the run directory {self._setup.run_dir} is not shared with these nodes:\n  {nodes}\nnothing was started; "
            "put --video_base_dir on a file system that all nodes mount at this path, or give --storage "
            "s3://BUCKET/FOLDER (or gs://, sftp://) to send videos there, or --collect to send them to this machine"
        )

    def close(self) -> None:
        """Remove what the probes left."""
        _internal_kv_del(self._key.encode(), del_by_prefix=True)
        if self._folder is not None:
            self._folder.close()


def wait_for_proof(key: str, node_id: str) -> None:
    """Wait in a worker until its node may begin; where it may not, the driver ends the worker.

    Raises:
        RuntimeError: If nobody says so.
    """
    give_up = time.monotonic() + 2 * PROBE_S
    while not _internal_kv_exists(f"{key}{node_id}".encode()):
        if time.monotonic() > give_up:
            raise RuntimeError(f"node {node_id} was not told whether it reaches the run directory")
        time.sleep(ASK_S)
