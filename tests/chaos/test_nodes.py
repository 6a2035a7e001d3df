"""A node that disappears, on a real Ray with two raylets."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_ray import evaluate
from tests.chaos.scenes import events, hold_to_promise, note_row, nothing_lives, undisturbed, wait_until
from tests.local_cluster import LocalCluster
from tests.worlds import walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]

#: Ray notices the death of a raylet by its closed connection, at once; its workers end by themselves.
NOTICED_S = 40.0


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Two nodes with a core and two GPUs each, which are declared, not there."""
    with LocalCluster(num_cpus=1, num_gpus=2) as cluster:
        cluster.add_node(num_cpus=1, num_gpus=2)
        cluster.connect()
        yield cluster


def test_a_raylet_is_killed(request: pytest.FixtureRequest, tmp_path: Path, cluster: LocalCluster) -> None:
    (second,) = cluster.cluster.worker_nodes
    (raylet,) = second.all_processes["raylet"]
    job = walk_job(
        num_episodes=40,
        env_kwargs={"step_s": 0.05, "max_length": 10},
        video={"record_viewport_video": True},
        resources={"num_cpus": 0.5, "num_gpus": 1},
    )
    base = tmp_path / "runs"
    killed: list[float] = []

    def kill_when_it_works() -> None:
        def works_there() -> bool:
            return any(len(events(folder, "worker_started")) == 4 for folder in base.glob("*"))

        assert wait_until(works_there, 60)
        killed.append(time.monotonic())
        os.kill(raylet.process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_it_works)
    killer.start()
    started = time.monotonic()
    result = evaluate({"jobs": [job]}, video_base_dir=str(base), max_attempts=1)
    took = time.monotonic() - started
    killer.join(60)
    assert killed
    losses = events(result.run_dir, "worker_lost")
    assert len(losses) >= 2
    assert {event["cause"] for event in losses} <= {"node_lost", "unreachable"}
    hold_to_promise(result, "walk", undisturbed(tmp_path, walk_job(num_episodes=40, env_kwargs={"max_length": 10})))
    nothing_lives(result)
    note_row(
        request,
        "SIGKILL of a raylet with two workers",
        injected=len(losses),
        episodes=40,
        extra_s=took,
        bound_s=2 * NOTICED_S,
    )
