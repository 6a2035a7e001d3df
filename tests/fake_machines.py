"""Machines for Ray's autoscaler that are raylets on this one; of some types there are none to be had."""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class FakeMachines(FakeMultiNodeProvider):
    """Ray's fake provider; a node type whose `node_config` says ``sold_out`` never comes, as in a cloud."""

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: Any, count: int, resources: Any, labels: Any
    ) -> None:
        if node_config.get("sold_out"):
            raise RuntimeError("there are no such machines any more")
        super().create_node_with_resources_and_labels(  # type: ignore[no-untyped-call]
            node_config, tags, count, resources, labels
        )
