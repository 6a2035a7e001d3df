"""Clusters that grow and shrink, on Ray's own autoscaler, which starts real raylets as if they were machines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from arena_ray import RunResult, evaluate, resume
from arena_ray.errors import NotEnoughResourcesError
from arena_ray.pools import ray_actors
from tests.chaos.scenes import events, nothing_lives, wait_until
from tests.comparing import outcome
from tests.ray_head import HEAD_ID, autoscaled_head
from tests.worlds import Leisurely, walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]

MEMORY = {"object_store_memory": 80_000_000}

#: What the autoscaler may start: two machines in all, of types with a core or a GPU; of a third there are none left.
NODE_TYPES: dict[str, dict[str, Any]] = {
    "cpu": {"resources": {"CPU": 1, **MEMORY}, "max_workers": 2},
    "gpu": {"resources": {"CPU": 1, "GPU": 1, **MEMORY}, "max_workers": 1},
    "big": {"resources": {"CPU": 64, **MEMORY}, "max_workers": 1, "node_config": {"sold_out": True}},
}

#: Machines take their time to come, and tests run beside each other.
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head that runs nothing, and no machine yet."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    with autoscaled_head(tmp_path_factory.mktemp("head"), NODE_TYPES, max_workers=2, idle_timeout_s=2) as address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield address
        finally:
            ray.shutdown()


def nodes(alive: bool = True) -> set[str]:
    """Return the ids of the machines that are there, or of all that ever were."""
    import ray

    entries = ray.nodes()  # type: ignore[no-untyped-call]
    return {entry["NodeID"] for entry in entries if entry["Alive"] or not alive} - {HEAD_ID}


def make_noting(noted: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """An environment that notes on which node it is."""
    import ray

    (Path(noted) / ray.get_runtime_context().get_node_id()).touch()
    return Leisurely(**kwargs)


def noting_job(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    kwargs = {"noted": str(folder), "hurry": str(folder / "hurry"), **changes.pop("env_kwargs", {})}
    job = walk_job(name, env_kwargs=kwargs, **changes)
    job["env"]["entry_point"] = "tests.test_autoscaler:make_noting"
    return job


def reference(tmp_path: Path, *jobs: dict[str, Any]) -> RunResult:
    return evaluate({"jobs": list(jobs)}, inline=True, video_base_dir=str(tmp_path / "reference"))


def test_what_no_type_of_machine_has_is_refused_before_anything_starts(address: str, tmp_path: Path) -> None:
    job = walk_job(resources={"num_gpus": 2})
    with pytest.raises(NotEnoughResourcesError, match="no node, and none that the autoscaler adds, can ever run"):
        evaluate({"jobs": [job]}, address=address, video_base_dir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    assert not nodes(alive=False)


def test_a_machine_that_never_comes_ends_the_run_which_can_be_resumed(address: str, tmp_path: Path) -> None:
    """What the autoscaler still tries for this run is no answer to the next one."""
    job = walk_job(resources={"num_cpus": 64})
    failed = evaluate({"jobs": [job]}, address=address, video_base_dir=str(tmp_path / "runs"), start_timeout=3)
    assert (failed.status, failed.jobs["walk"].counts["completed"]) == ("failed", 0)
    (waits, ends) = events(failed.run_dir, "warning")
    assert waits["topic"] == "waits_for_machines"
    assert "has waited 3 s for a machine, and no worker has one" in ends["message"]
    resumed = resume(failed.run_dir, inline=True)
    assert outcome(resumed) == outcome(reference(tmp_path, job))
    assert not nodes(alive=False)


def test_a_cluster_grows_as_far_as_it_is_used_and_shrinks(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing to both machines; one goes while the other still runs, and makes room for one with a GPU."""
    monkeypatch.setattr(ray_actors, "GIVE_BACK_S", 1.0)
    noted = tmp_path / "noted"
    noted.mkdir()
    short: dict[str, Any] = {"num_episodes": 4, "env_kwargs": {"max_length": 3}}
    # Its episode has 329 steps.
    tail: dict[str, Any] = {"num_episodes": 1, "seed": 48, "env_kwargs": {"max_length": 400}}
    on_gpu: dict[str, Any] = {"num_episodes": 3, "env_kwargs": {"max_length": 3}, "resources": {"num_gpus": 1}}
    flags: dict[str, Any] = {"address": address, "video_base_dir": str(tmp_path / "runs"), "chunk_size": 2}
    with ThreadPoolExecutor() as threads:
        jobs = [noting_job("tail", noted, **tail), noting_job("short", noted, **short)]
        first = threads.submit(evaluate, {"jobs": jobs}, **flags)
        try:
            assert wait_until(lambda: len(nodes()) == 2, PATIENCE_S)
            second = evaluate({"jobs": [noting_job("on-gpu", noted, **on_gpu)]}, **flags)
            assert not first.done()
        finally:
            (noted / "hurry").touch()
        result = first.result(PATIENCE_S)
    (waits,) = [event for event in events(second.run_dir, "warning") if event["topic"] == "waits_for_machines"]
    assert "adds none as long as those that are there reach its limits" in waits["message"]
    assert outcome(result) == outcome(reference(tmp_path, walk_job("tail", **tail), walk_job("short", **short)))
    assert outcome(second) == outcome(reference(tmp_path, walk_job("on-gpu", **on_gpu)))
    assert not events(result.run_dir, "worker_lost")
    launched = nodes(alive=False)
    assert len(launched) == 3
    assert {path.name for path in noted.iterdir()} - {"hurry"} == launched, "every machine was used"
    nothing_lives(result)
    assert wait_until(lambda: not nodes(), PATIENCE_S), "all machines are given back"
