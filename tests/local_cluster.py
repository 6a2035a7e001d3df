"""Ray nodes that are all on this machine, without what no test asks for: dashboard, log monitor, autoscaler."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

#: Ray's own processes take a second of a core each to start.
LEAN: dict[str, Any] = {"include_log_monitor": False, "object_store_memory": 80_000_000}


class LocalCluster:
    """A head, and further nodes, each a raylet; as a context it is ended, with the connection to it.

    It outlives the connection of this process, so that a test may connect elsewhere in between.

    Args:
        **head: `num_cpus` and `num_gpus` (declared, not there) of the head, and its `node_ip_address`.

    Attributes:
        cluster: Ray's own.
        head: Its head, with `node_id` and `all_processes`.
    """

    def __init__(self, **head: Any) -> None:
        from ray.cluster_utils import Cluster

        disconnect()
        options = {**LEAN, **head, "include_dashboard": False, "no_monitor": True}
        self.cluster = Cluster(initialize_head=True, head_node_args=options)
        self.head: Any = self.cluster.head_node

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        disconnect()
        self.cluster.shutdown()  # type: ignore[no-untyped-call]

    @property
    def address(self) -> str:
        """Of the head, ``HOST:PORT``."""
        return str(self.cluster.address)

    def add_node(self, **options: float) -> Any:
        """Add a node with this `num_cpus` and `num_gpus`, and return Ray's object of it."""
        node: dict[str, Any] = {**LEAN, **options}
        return self.cluster.add_node(**node)

    def connect(self) -> None:
        """Make this process a driver of this cluster, whatever it was connected to."""
        import ray

        if ray.is_initialized():
            if ray.get_runtime_context().gcs_address == self.address:
                return
            ray.shutdown()
        ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)


def disconnect() -> None:
    """Leave the Ray that this process is connected to, if it is."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
