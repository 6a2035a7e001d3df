"""Worker processes that are replaced between episodes, on a real local Ray."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from tests.comparing import outcome
from tests.worlds import Walk, walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]


class Leaky(Walk):
    """A walk whose every episode keeps some megabytes for ever."""

    kept: list[bytearray] = []  # noqa: RUF012  # one leak a process, as in a simulator

    def reset(self, **kwargs: Any) -> Any:
        self.kept.append(bytearray(b"x") * 60_000_000)
        return super().reset(**kwargs)


def run(tmp_path: Path, job: dict[str, Any], **flags: Any) -> RunResult:
    return evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), **flags)


def events(result: RunResult, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def episodes_by_process(result: RunResult) -> dict[int, int]:
    pids = sorted(record.worker.pid for record in result.records() if record.worker)
    return {pid: len(list(group)) for pid, group in itertools.groupby(pids)}


def undisturbed(tmp_path: Path, **changes: Any) -> list[Any]:
    return outcome(evaluate({"jobs": [walk_job(**changes)]}, inline=True, video_base_dir=str(tmp_path / "reference")))


@pytest.mark.parametrize(("slots", "most"), [pytest.param(1, 3, id="one-slot"), pytest.param(3, 4, id="three-slots")])
def test_no_process_runs_more_episodes_than_it_may(tmp_path: Path, local_ray: None, slots: int, most: int) -> None:
    job = walk_job(num_episodes=10, num_envs=slots)
    result = run(tmp_path, job, max_episodes_per_worker=most, num_workers=1, chunk_size=7, isolation="run")
    assert result.status == "completed"
    assert sorted(episodes_by_process(result).values(), reverse=True) == [most] * (10 // most) + [10 % most]
    assert len(events(result, "worker_retired")) >= 10 // most
    assert events(result, "worker_lost") == []
    assert outcome(result) == undisturbed(tmp_path, num_episodes=10)
    assert {record.attempt for record in result.records()} == {1}


def test_a_worker_over_its_memory_limit_is_replaced_between_episodes(tmp_path: Path, local_ray: None) -> None:
    job = walk_job(num_episodes=8, env_kwargs={"step_s": 0.3, "max_length": 3}, resources={"memory_gb": 0.6})
    job["env"]["entry_point"] = "tests.test_ray_recycling:Leaky"
    result = run(tmp_path, job, num_workers=1, chunk_size=8)
    assert result.status == "completed"
    assert len(episodes_by_process(result)) >= 2
    assert events(result, "worker_lost") == []
    assert "memory_gb 0.6" in events(result, "worker_retired")[0]["reason"]
    assert outcome(result) == undisturbed(tmp_path, env_kwargs={"max_length": 3})
    assert {record.attempt for record in result.records()} == {1}


def test_a_limit_that_every_worker_exceeds_still_lets_one_episode_through_each(tmp_path: Path, local_ray: None) -> None:
    result = run(tmp_path, walk_job(num_episodes=3, resources={"memory_gb": 0.01}), num_workers=1)
    assert result.status == "completed"
    assert list(episodes_by_process(result).values()) == [1, 1, 1]


def test_memory_is_sampled_so_that_a_leak_can_be_seen(tmp_path: Path, local_ray: None) -> None:
    job = walk_job(num_episodes=8, env_kwargs={"max_length": 3})
    job["env"]["entry_point"] = "tests.test_ray_recycling:Leaky"
    result = run(tmp_path, job, num_workers=1, chunk_size=1)
    samples = [*events(result, "worker_started"), *events(result, "chunk_finished")]
    assert len(samples) == 9
    assert samples[-1]["resident_mb"] > samples[0]["resident_mb"] + 7 * 50
    assert {sample["gpu_mb"] for sample in samples} == {None}


def test_limits_that_an_inline_run_cannot_keep_are_named(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(), inline=True, max_episodes_per_worker=2)
    assert result.status == "completed"
    assert [event["topic"] for event in events(result, "warning")] == ["no_limits"]


def test_episodes_that_break_each_other_end_although_workers_are_replaced(tmp_path: Path, local_ray: None) -> None:
    """A policy that raises for a batch has its episodes run alone; a worker that retires must not forget that."""
    job = walk_job(num_episodes=4, num_envs=2, policy={"entry_point": "tests.worlds:Choker", "kwargs": {"poison": [1]}})
    result = run(tmp_path, job, max_episodes_per_worker=2, continue_on_error=True, num_workers=1)
    assert result.jobs["walk"].counts == {"completed": 3, "error": 1, "timeout": 0}
