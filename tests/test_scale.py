"""Driver and ledger with many simulated workers: what must hold at any size."""

from __future__ import annotations

import time
from typing import Any

import pytest

from arena_ray import EvalJob
from arena_ray.config import load_plan
from arena_ray.eval_runner import Run
from tests.benchmarks.bench_scale import CountingJournal, simulate
from tests.simulation import SimulatedPool
from tests.worlds import walk_job


def run(jobs: list[dict[str, Any]], times: dict[str, float], num_workers: int, start_s: float = 1.0) -> SimulatedPool:
    """Run jobs on simulated workers; each job's episodes take the same time."""

    def episode_s(job: EvalJob, episode: int) -> float:
        return times[job.name]

    pool = SimulatedPool(num_workers, episode_s, start_s)
    journal = CountingJournal({job["name"]: job["num_episodes"] for job in jobs})
    assert Run(load_plan({"jobs": jobs}), lambda hardware: journal).execute(pool) == "completed"
    assert journal.all_once
    return pool


@pytest.mark.heavy
def test_heavy_tailed_jobs_on_many_workers() -> None:
    """Each episode once; the schedule near what no schedule can beat; next to no memory for an episode."""
    figures = simulate(200, 20_000, num_jobs=50)
    assert figures["complete"]
    assert figures["efficiency"] > 0.8, figures
    assert figures["bytes_per_episode"] < 500, figures
    assert figures["worker_starts"] < 200 * 8, figures


def test_jobs_of_another_shape_do_not_wait() -> None:
    """A job on GPUs holds all of them; one on CPUs, behind it in the file, begins at the same time."""
    gpu = walk_job("gpu", num_episodes=50, resources={"num_gpus": 1})
    pool = run([gpu, walk_job("cpu", num_episodes=4)], {"gpu": 10.0, "cpu": 1.0}, num_workers=2)
    assert pool.first_start == {"gpu": 0.0, "cpu": 0.0}


def test_the_longest_job_begins_first_and_every_job_before_a_second_worker() -> None:
    jobs = [walk_job(f"job-{index}", num_episodes=10 * (index + 1)) for index in range(4)]
    pool = run(jobs, {job["name"]: 1.0 for job in jobs}, num_workers=3, start_s=0.5)
    assert [name for name, since in pool.first_start.items() if since == 0] == ["job-3", "job-2", "job-1"]
    assert sum(pool.starts.values()) <= 8


def test_workers_move_to_the_job_that_would_end_last() -> None:
    """As many episodes, each a hundred times as long: nobody knew, so both began with half of the workers."""
    jobs = [walk_job(name, num_episodes=400) for name in ("short", "long")]
    pool = run(jobs, {"short": 0.5, "long": 50.0}, num_workers=20)
    assert pool.starts["long"] >= 19
    assert pool.ideal_s / pool.now > 0.9


def test_a_job_keeps_its_only_worker() -> None:
    """More jobs than workers: none is built twice."""
    jobs = [walk_job(f"job-{index}", num_episodes=20) for index in range(12)]
    pool = run(jobs, {job["name"]: 1.0 for job in jobs}, num_workers=2, start_s=30.0)
    assert sum(pool.starts.values()) <= 13


def test_ten_times_the_workers_cost_no_more_for_each_chunk() -> None:
    def per_chunk_s(num_workers: int) -> float:
        started = time.process_time()
        figures = simulate(num_workers, 4000, num_jobs=3, chunk_size=1)
        return (time.process_time() - started) / float(figures["chunks"])

    assert per_chunk_s(2000) < 4 * min(per_chunk_s(200) for _ in range(2))
