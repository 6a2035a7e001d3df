"""What the nodes of a cluster say about themselves: one small task on each, side by side, with a deadline.

The tasks are sent by value, so that a node without this package can say so.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ray

from arena_ray import __version__
from arena_ray.errors import ClusterError
from arena_ray.pools.ray_access import SAME_VERSIONS
from arena_ray.pools.ray_cluster import on_node

#: How long a node may take to say which versions it has, seconds; a node's first process may take some.
VERSIONS_S = 20.0

#: What a task ends with on a node that dies, or is being drained.
_GONE = (
    ray.exceptions.TaskUnschedulableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,
)

#: Nodes that fitted this process; they are not asked again.
_fitting: set[str] = set()


@dataclasses.dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node said.

    Attributes:
        node_id: Ray's id.
        host: Its address.
        said: What the task returned; ``None``: nothing.
        problem: Why not.
        gone: Whether that is because it is on its way out, or does not answer now.
    """

    node_id: str
    host: str
    said: Any
    problem: str | None = None
    gone: bool = False


def ask_nodes(
    make_task: Callable[[], Callable[..., Any]],
    timeout_s: float,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> list[NodeAnswer]:
    """Run a function on every node that is alive, and return what each said.

    Args:
        make_task: Returns the function; one that it defines inside is sent by value.
        timeout_s: A node that has not answered after so long has a problem.
        only: Ids of the nodes that are asked; ``None``: all.
        without: Ids of nodes that are left out.
    """
    entries = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = {entry["NodeID"]: entry["NodeManagerAddress"] for entry in entries if entry["Alive"]}
    chosen = (nodes.keys() if only is None else nodes.keys() & set(only)) - set(without)
    remote: Any = ray.remote(make_task())
    asked = {remote.options(**on_node(node_id)).remote(): node_id for node_id in chosen}
    if not asked:
        return []
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    answers = [_answer(asked[task], nodes[asked[task]], task) for task in ready]
    for task in late:
        ray.cancel(task, force=True)
        answers.append(NodeAnswer(asked[task], nodes[asked[task]], None, f"no answer in {timeout_s:g} s", gone=True))
    return sorted(answers, key=lambda answer: (answer.host, answer.node_id))


def _answer(node_id: str, host: str, task: Any) -> NodeAnswer:
    try:
        return NodeAnswer(node_id, host, ray.get(task))
    except _GONE as error:
        return NodeAnswer(node_id, host, None, type(error).__name__, gone=True)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return NodeAnswer(node_id, host, None, f"{type(error).__name__}: {lines[-1]}")


def own_versions() -> dict[str, str | None]:
    """Return what has to be the same on every node: Ray, the minor version of Python, this package."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"ray": ray.__version__, "python": python, "arena-ray": __version__}


def _make_versions_task() -> Callable[[], dict[str, str | None]]:
    def versions() -> dict[str, str | None]:
        import platform

        import ray

        try:
            import arena_ray
        except ImportError:
            own = None
        else:
            own = arena_ray.__version__
        python = ".".join(platform.python_version_tuple()[:2])
        return {"ray": ray.__version__, "python": python, "arena-ray": own}

    return versions


@functools.cache
def _remote_versions() -> Any:
    return ray.remote(_make_versions_task())


def is_fitting(node_id: str) -> bool:
    """Return whether a node is known to fit this process."""
    return node_id in _fitting


def begin_versions(node_id: str) -> Any:
    """Ask one node for its versions, without waiting; return the reference of what it says."""
    return _remote_versions().options(**on_node(node_id), enable_task_events=False).remote()


def judge_versions(node_id: str, task: Any) -> str | None:
    """Return what is wrong with a node that has answered, and what to do; ``None``: nothing, or it is gone."""
    answer = _answer(node_id, _host(node_id), task)
    if answer.gone:
        return None
    lines = misfits([answer], own_versions())
    if lines:
        return f"{lines[0]}; {SAME_VERSIONS}"
    _fitting.add(node_id)
    return None


def _host(node_id: str) -> str:
    entries = ray.nodes()  # type: ignore[no-untyped-call]
    return next((str(entry["NodeManagerAddress"]) for entry in entries if entry["NodeID"] == node_id), node_id[:12])


def ask_versions(without: Collection[str] = ()) -> list[NodeAnswer]:
    """Ask every node for its versions, in the form of `own_versions`."""
    return ask_nodes(_make_versions_task, VERSIONS_S, without=without)


def differences(said: Mapping[str, str | None], expected: Mapping[str, str | None]) -> list[str]:
    """Return what of a node's versions is not what is expected, in words."""
    return [
        f"{name} is {'not installed' if said.get(name) is None else said[name]}, here {version}"
        for name, version in expected.items()
        if said.get(name) != version
    ]


def misfits(answers: Sequence[NodeAnswer], expected: Mapping[str, str | None]) -> list[str]:
    """Return a line for each node that does not fit."""
    lines = []
    for answer in answers:
        found = [answer.problem] if answer.problem is not None else differences(answer.said, expected)
        if found:
            lines.append(f"node {answer.host}: {'; '.join(found)}")
    return lines


def check_nodes() -> None:
    """Check that every node can run this package's workers; those that could are not asked again.

    A node that says nothing is none of a run's business: it may be about to die, and others are there.

    Raises:
        ClusterError: If one cannot; naming all that cannot, and why.
    """
    answers = [answer for answer in ask_versions(without=_fitting) if not answer.gone]
    lines = misfits(answers, own_versions())
    if lines:
        raise ClusterError("\n".join(["these nodes cannot run workers of this run:", *lines, SAME_VERSIONS]))
    _fitting.update(answer.node_id for answer in answers)


@dataclasses.dataclass(frozen=True, slots=True)
class ClockSkew:
    """How far a node's clock is ahead of this machine's.

    Attributes:
        host: The node's address.
        ahead_s: Seconds.
        within_s: How exactly that is known, seconds: half of the way there and back.
    """

    host: str
    ahead_s: float
    within_s: float


def _make_clock_task() -> Callable[[], float]:
    def clock() -> float:
        import time

        return time.time()

    return clock


def ask_clocks(only: Collection[str]) -> list[ClockSkew]:
    """Compare the clocks of nodes, one after the other, with this machine's; their processes should be warm."""
    skews = []
    for node_id in sorted(only):
        before = time.time()
        answers = ask_nodes(_make_clock_task, VERSIONS_S, only=[node_id])
        after = time.time()
        skews += [
            ClockSkew(answer.host, answer.said - (before + after) / 2, (after - before) / 2)
            for answer in answers
            if answer.problem is None
        ]
    return skews
