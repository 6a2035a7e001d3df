"""What the nodes of a cluster have, and what of it is free: arithmetic that asks nobody.

Ray decides where a worker goes. What stands here says how many may be asked for at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from arena_ray.labels import satisfies, selector_text
from arena_ray.specs import EvalJob, Resources, Shape

#: CPUs, GPUs and memory in GB.
Amounts: TypeAlias = tuple[float, float, float]

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive, and all that it has.

    Attributes:
        node_id: Opaque.
        num_cpus: Cores that Ray counts.
        num_gpus: GPUs that Ray counts.
        memory_gb: Memory that Ray counts, GB.
        host: Address, for people.
        labels: Its labels in Ray.
    """

    node_id: str
    num_cpus: float
    num_gpus: float
    memory_gb: float
    host: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def amounts(self) -> Amounts:
        """All that it has."""
        return (self.num_cpus, self.num_gpus, self.memory_gb)

    def how_many(self, resources: Resources) -> int:
        """Return how many workers fit when nothing else runs there."""
        return Room([self]).how_many(resources)


class Room:
    """What is free on each node.

    To take or give a worker's part costs no more with thousands of them: for each shape of worker it is remembered
    which nodes have been found full, until something is given back.

    Args:
        nodes: With all that they have.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._free = {node.node_id: list(node.amounts) for node in nodes}
        self._full_up_to: dict[Shape, int] = {}

    def fits(self, resources: Resources) -> bool:
        """Return whether one more worker fits somewhere."""
        return self._first_fit(resources) is not None

    def take(self, resources: Resources, node_id: str | None) -> None:
        """Count a worker that runs on a node, or, where that is not known yet, on the first that it fits into."""
        node_id = self._first_fit(resources) if node_id is None else node_id
        free = self._free.get(node_id or "")
        if free is not None:
            for index, amount in enumerate(request(resources)):
                free[index] -= amount

    def give(self, resources: Resources, node_id: str | None) -> None:
        """Count a worker of a node no longer."""
        free = self._free.get(node_id or "")
        if free is not None:
            for index, amount in enumerate(request(resources)):
                free[index] += amount
            self._full_up_to.clear()

    def how_many(self, resources: Resources) -> int:
        """Return how many workers fit."""
        wanted = [(index, amount) for index, amount in enumerate(request(resources)) if amount > 0]
        return sum(
            max(0, min(int((free[index] + _EPSILON) // amount) for index, amount in wanted))
            for free in (self._free[node.node_id] for node in self._nodes if may_be_on(resources, node))
        )

    def _first_fit(self, resources: Resources) -> str | None:
        shape = resources.shape
        wanted = request(resources)
        for index in range(self._full_up_to.get(shape, 0), len(self._nodes)):
            node = self._nodes[index]
            free = self._free[node.node_id]
            if may_be_on(resources, node) and all(
                amount <= has + _EPSILON for amount, has in zip(wanted, free, strict=True)
            ):
                self._full_up_to[shape] = index
                return node.node_id
        self._full_up_to[shape] = len(self._nodes)
        return None


def may_be_on(resources: Resources, node: Node) -> bool:
    """Return whether a node's labels are such as a worker wants."""
    return not resources.selector or satisfies(node.labels, resources.selector)


def request(resources: Resources) -> Amounts:
    """Return what a worker takes; one that asks for nothing is counted as a core, or there would be no end of them."""
    nothing = not resources.num_cpus and not resources.num_gpus
    return (1.0 if nothing else resources.num_cpus, resources.num_gpus, resources.memory_gb or 0.0)


def demand_table(jobs: Sequence[EvalJob], nodes: Sequence[Node]) -> str:
    """Return what jobs ask for against what the nodes have, for people."""
    head = f"{'num_cpus':>10} {'num_gpus':>10} {'memory_gb':>10}  labels"
    lines = [f"{'job':<32} {head}"]
    lines += [_row(job.name, request(job.resources), job.resources.selector) for job in jobs]
    wanted = {key for job in jobs for key in job.resources.selector}
    lines += ["", f"{'node':<32} {head}"]
    for index, node in enumerate(nodes):
        shown = {key: value for key, value in node.labels.items() if key in wanted or not key.startswith("ray.io/")}
        lines.append(_row(f"{index} {node.host}".strip(), node.amounts, shown))
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, amounts: Amounts, labels: Mapping[str, str]) -> str:
    num_cpus, num_gpus, memory_gb = amounts
    return f"{name:<32} {num_cpus:>10g} {num_gpus:>10g} {memory_gb:>10.4g}  {selector_text(labels)}"
