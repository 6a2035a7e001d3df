"""Nodes that join in the middle of a run and cannot run workers of it, on a real Ray with two raylets."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from tests.chaos.scenes import events
from tests.comparing import outcome
from tests.worlds import walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]

HAS: dict[str, Any] = {"object_store_memory": 80_000_000}

#: What a node has instead of this package.
NOTHING = "raise ModuleNotFoundError('it is not installed here')"
ANOTHER = "__version__ = '0.0.1'"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head with two cores. Ray has workers look for modules in the driver's folder first, so that is another one."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **HAS})
    here = os.getcwd()
    try:
        os.chdir(tmp_path_factory.mktemp("elsewhere"))
        ray.init(address=str(cluster.address), log_to_driver=False, logging_level=logging.ERROR)
        os.chdir(here)
        yield cluster
    finally:
        os.chdir(here)
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


class Watching:
    """An observer that lets a node join at the first record, and the rest go fast at the first warning."""

    def __init__(self, join: Callable[[], None], hurry: Path) -> None:
        self._join, self._hurry, self._records = join, hurry, 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def recorded(self, record: Any) -> None:
        self._records += 1
        if self._records == 1:
            self._join()

    def event(self, line: Mapping[str, Any]) -> None:
        if line["kind"] == "warning":
            self._hurry.touch()


def occupy() -> Any:
    """Take a core of the head that the run counts on."""
    import ray

    class Occupant:
        def ping(self) -> None: ...

    remote: Any = ray.remote(num_cpus=1)(Occupant)
    actor = remote.remote()
    ray.get(actor.ping.remote(), timeout=60)
    return actor


@pytest.mark.parametrize(
    ("package", "occupied", "said"),
    [
        pytest.param(ANOTHER, False, "arena-ray is 0.0.1, here ", id="another-version"),
        pytest.param(NOTHING, True, "arena-ray is not installed, here ", id="none-and-a-worker-is-sent-there"),
    ],
)
def test_a_node_that_does_not_fit_is_not_used(
    cluster: Any, tmp_path: Path, package: str, occupied: bool, said: str
) -> None:
    """A worker that waits for room may be sent there by Ray; that is held against the node alone."""
    import ray

    (tmp_path / "shadow" / "arena_ray").mkdir(parents=True)
    (tmp_path / "shadow" / "arena_ray" / "__init__.py").write_text(package)
    joined: list[Any] = []
    occupants = [occupy()] if occupied else []

    def join() -> None:
        variables = {"PYTHONPATH": str(tmp_path / "shadow")}
        joined.append(cluster.add_node(num_cpus=2, env_vars=variables, **HAS))

    hurry = tmp_path / "hurry"
    job = walk_job(env_kwargs={"max_length": 10, "hurry": str(hurry)}, num_episodes=400)
    job["env"]["entry_point"] = "tests.worlds:Leisurely"
    try:
        result = evaluate(
            {"jobs": [job]},
            video_base_dir=str(tmp_path / "runs"),
            observer=Watching(join, hurry),
            chunk_size=5,
            max_attempts=1,
        )
    finally:
        for occupant in occupants:
            ray.kill(occupant)
        for node in joined:
            cluster.remove_node(node)
    assert hurry.exists(), "the run was over before the node was looked at"
    assert outcome(result) == outcome(_reference(tmp_path, job))
    (warning,) = events(result.run_dir, "warning")
    assert said in warning["message"]
    assert "the node is not used" in warning["message"]
    assert "install the same versions" in warning["message"]
    assert list(result.notes) == [warning["message"]]
    assert {event["cause"] for event in events(result.run_dir, "worker_lost")} == ({"unfit"} if occupied else set())


def _reference(tmp_path: Path, job: dict[str, Any]) -> RunResult:
    return evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path / "reference"))
