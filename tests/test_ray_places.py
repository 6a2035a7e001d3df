"""GPUs and nodes on which workers die, on a real Ray with several raylets and GPUs that are declared, not there."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from tests.comparing import outcome
from tests.local_cluster import LocalCluster
from tests.worlds import Walk, walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]


#: So many workers that die in one place put it in quarantine.
DEATHS = 3


class DiesHere(Walk):
    """A walk that ends its process in its first step if it is where it should not be.

    Args:
        where: Environment variable, or ``node``.
        what: Its value there.
        once: A folder: only the first time.
        deaths: A folder, to which each death adds a file: elsewhere steps take their time until there are `DEATHS`.
    """

    def __init__(
        self, where: str, what: str, once: str | None = None, deaths: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._dies = self._where(where) == what
        self._once, self._deaths = once, deaths

    def _where(self, name: str) -> str | None:
        if name != "node":
            return os.environ.get(name)
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def step(self, action: Any) -> Any:
        if self._dies and self._t == 0 and self._is_the_first():
            self._die()
        if self._deaths is not None and len(os.listdir(self._deaths)) < DEATHS:
            time.sleep(0.25)
        return super().step(action)

    def _die(self) -> None:
        if self._deaths is not None:
            Path(self._deaths, str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def _is_the_first(self) -> bool:
        if self._once is None:
            return True
        try:
            os.close(os.open(os.path.join(self._once, "done"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head with two GPUs and a second node without, both on this machine."""
    with LocalCluster(num_cpus=2, num_gpus=2) as cluster:
        cluster.add_node(num_cpus=2)
        cluster.connect()
        yield cluster


def run(tmp_path: Path, kwargs: dict[str, Any], **changes: Any) -> RunResult:
    flags = {name: changes.pop(name) for name in ("num_workers", "chunk_size", "max_attempts") if name in changes}
    job = walk_job(env_kwargs=kwargs, **changes)
    job["env"]["entry_point"] = "tests.test_ray_places:DiesHere"
    return evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), **flags)


def events(result: RunResult, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def folder_of_deaths(tmp_path: Path) -> str:
    (tmp_path / "deaths").mkdir()
    return str(tmp_path / "deaths")


def reference(tmp_path: Path, **changes: Any) -> RunResult:
    return evaluate({"jobs": [walk_job(**changes)]}, inline=True, video_base_dir=str(tmp_path / "reference"))


def test_a_gpu_on_which_every_worker_dies_is_quarantined(tmp_path: Path, cluster: LocalCluster) -> None:
    kwargs = {"where": "CUDA_VISIBLE_DEVICES", "what": "0", "max_length": 6, "deaths": folder_of_deaths(tmp_path)}
    changes: dict[str, Any] = {"num_episodes": 24}
    result = run(tmp_path, kwargs, resources={"num_gpus": 1, "num_cpus": 0.5}, chunk_size=2, max_attempts=9, **changes)
    assert result.status == "completed"
    assert outcome(result) == outcome(reference(tmp_path, env_kwargs={"max_length": 6}, **changes))
    (event,) = events(result, "quarantined")
    assert event["gpus"] == ["0"]
    assert len(events(result, "worker_lost")) == DEATHS
    assert {record.worker.gpus for record in result.records() if record.worker} == {("1",)}
    assert "GPU 0" in " ".join(str(result).split())
    assert "quarantined" in " ".join(result.notes)


def test_an_episode_that_lost_its_worker_is_tried_on_another_gpu(tmp_path: Path, cluster: LocalCluster) -> None:
    kwargs = {"where": "CUDA_VISIBLE_DEVICES", "what": "0", "once": str(tmp_path), "max_length": 6}
    result = run(tmp_path, kwargs, num_episodes=4, resources={"num_gpus": 1, "num_cpus": 0.5}, num_workers=1)
    assert result.status == "completed"
    (lost,) = events(result, "requeued")
    retried = {record.episode: record for record in result.records() if record.episode in lost["suspects"]}
    assert [record.worker.gpus for record in retried.values() if record.worker] == [("1",)] * len(lost["suspects"])
    assert events(result, "quarantined") == []


def test_a_node_on_which_every_worker_dies_is_quarantined(tmp_path: Path, cluster: LocalCluster) -> None:
    bad = cluster.head.node_id
    changes: dict[str, Any] = {"num_episodes": 24}
    kwargs = {"where": "node", "what": bad, "max_length": 6, "step_s": 0.1}
    result = run(tmp_path, kwargs, chunk_size=1, max_attempts=9, num_workers=4, **changes)
    assert result.status == "completed"
    assert outcome(result) == outcome(reference(tmp_path, env_kwargs={"max_length": 6}, **changes))
    assert [event["node_id"] for event in events(result, "quarantined")] == [bad]


def test_a_poisonous_episode_puts_no_place_in_quarantine(tmp_path: Path, cluster: LocalCluster) -> None:
    job = walk_job(env_kwargs={"poison": [1], "deed": "kill"}, resources={"num_gpus": 1, "num_cpus": 0.5})
    flags: dict[str, Any] = {"max_attempts": 4, "continue_on_error": True, "num_workers": 1}
    result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), **flags)
    assert result.jobs["walk"].counts == {"completed": 7, "error": 1, "timeout": 0}
    assert events(result, "quarantined") == []


class DiesThereWhileBuilt(DiesHere):
    def __init__(self, where: str, what: str, **kwargs: Any) -> None:
        super().__init__(where, what, **kwargs)
        if self._dies:
            self._die()


def test_a_gpu_on_which_no_worker_starts_fails_no_job(tmp_path: Path, cluster: LocalCluster) -> None:
    """Where others have started it is the place, not the job."""
    kwargs = {"where": "CUDA_VISIBLE_DEVICES", "what": "0", "max_length": 6, "deaths": folder_of_deaths(tmp_path)}
    job = walk_job(num_episodes=24, env_kwargs=kwargs, resources={"num_gpus": 1, "num_cpus": 0.5})
    job["env"]["entry_point"] = "tests.test_ray_places:DiesThereWhileBuilt"
    result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), chunk_size=2)
    assert result.status == "completed"
    assert {record.worker.gpus for record in result.records() if record.worker} == {("1",)}
