"""Runs over several machines: nodes in network namespaces with addresses of their own, on real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from tests.chaos.scenes import events, nothing_lives
from tests.cluster_nodes import NodeCluster, why_not
from tests.comparing import outcome
from tests.worlds import walk_job

PROBLEM = why_not()

pytestmark = [
    pytest.mark.ray,
    pytest.mark.heavy,
    pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM)),
    pytest.mark.timeout(400),
]

#: What one episode takes, about: every one has ten steps at most.
WALK: dict[str, Any] = {"max_length": 10}

#: Machines take their time to join, and tests run beside each other.
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[NodeCluster]:
    """A head that runs nothing, and two machines with a core and a declared GPU each."""
    with NodeCluster() as cluster:
        cluster.add_head(num_cpus=0)
        for zone in ("here", "there"):
            cluster.add_node(num_cpus=1, num_gpus=1, labels={"zone": zone})
        yield cluster


def command(cluster: NodeCluster, tmp_path: Path, *jobs: dict[str, Any], **flags: Any) -> list[str]:
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps({"jobs": jobs, "run": {"video_base_dir": str(tmp_path / "runs"), **flags}}))
    return [sys.executable, "-m", "arena_ray.cli", "run", str(file), "--address", cluster.address]


def finished(tmp_path: Path) -> RunResult:
    (run_dir,) = (tmp_path / "runs").iterdir()
    return RunResult.load(run_dir)


def reference(tmp_path: Path, *jobs: dict[str, Any]) -> RunResult:
    return evaluate({"jobs": list(jobs)}, inline=True, video_base_dir=str(tmp_path / "reference"))


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_three_machines_give_the_records_of_a_laptop(tmp_path: Path, cluster: NodeCluster) -> None:
    """On both, on a GPU, on a core, and on the one that a label means."""
    jobs = [
        walk_job("on-gpus", env_kwargs={**WALK, "step_s": 0.05}, num_episodes=12, resources={"num_gpus": 1}),
        walk_job(
            "over-there", env_kwargs=WALK, num_episodes=4, resources={"label_selector": {"zone": "in(nowhere, there)"}}
        ),
    ]
    cluster.run_driver(command(cluster, tmp_path, *jobs, chunk_size=1), check=True, timeout=PATIENCE_S)
    result = finished(tmp_path)
    assert result.status == "completed"
    assert outcome(result) == outcome(reference(tmp_path, *jobs))
    hosts = {name: {one.worker.host for one in job.episodes if one.worker} for name, job in result.jobs.items()}
    _, here, there = (machine.name for machine in cluster.machines)
    assert hosts == {"on-gpus": {here, there}, "over-there": {there}}
    nothing_lives(result)


def test_nobody_has_what_a_label_asks_for(tmp_path: Path, cluster: NodeCluster) -> None:
    job = walk_job(resources={"label_selector": {"zone": "!in(here, there)", "disk": "fast"}})
    ended = cluster.run_driver(command(cluster, tmp_path, job), capture_output=True, text=True)
    assert ended.returncode == 3
    assert "disk=fast, zone=!in(here, there)" in ended.stderr
    assert "zone=there" in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_machines_come_and_go(tmp_path: Path, cluster: NodeCluster) -> None:
    """One joins and is used, one is drained and left in time, one is lost: nothing is charged for any of it."""
    hurry = tmp_path / "hurry"
    job = walk_job(env_kwargs={**WALK, "hurry": str(hurry)}, num_episodes=300)
    job["env"]["entry_point"] = "tests.worlds:Leisurely"
    flags = {"chunk_size": 2, "max_attempts": 1}
    said = (tmp_path / "said").open("w")
    driver = cluster.start_driver(command(cluster, tmp_path, job, **flags), stdout=said, stderr=said)
    try:

        def hosts() -> set[str]:
            folders = list((tmp_path / "runs").glob("*"))
            return {line["worker"]["host"] for folder in folders for line in events(folder, "worker_started")}

        _, lost, drained = cluster.machines
        wait_for(lambda: len(hosts()) == 2, driver)
        joined = cluster.add_node(num_cpus=1)
        wait_for(lambda: joined.name in hosts(), driver)
        cluster.drain(drained)
        (run_dir,) = (tmp_path / "runs").iterdir()
        wait_for(lambda: bool(events(run_dir, "worker_retired")), driver)
        cluster.lose(lost)
        hurry.touch()
        driver.wait(PATIENCE_S)
    finally:
        driver.kill()
        driver.wait(10)
        said.close()
    result = finished(tmp_path)
    assert result.status == "completed"
    assert outcome(result) == outcome(reference(tmp_path, walk_job(env_kwargs=WALK, num_episodes=300)))
    (retired,) = events(run_dir, "worker_retired")
    assert retired["reason"] == "its node is being drained"
    assert {event["cause"] for event in events(run_dir, "worker_lost")} <= {"node_lost", "unreachable"}
    assert len(events(run_dir, "worker_lost")) == 1
    last_there = max(
        str(line.started_at) for line in result.records() if line.worker and line.worker.host == drained.name
    )
    assert last_there < retired["time"], "nothing begins on a drained machine after its worker has left"
    assert {line.worker.host for line in result.records() if line.worker} == {lost.name, drained.name, joined.name}
    nothing_lives(result)
