"""Driver and ledger at the size of a large cluster, and the overhead of real Ray on this machine.

    python -m tests.benchmarks.bench_scale [--rows driver,ledger,pool,ray] [--workers 10000] [--episodes 1000000]

* ``ledger``: the driver's loop and the ledger over simulated workers, with a journal that only counts.
* ``driver``: the same with the real journal: records, events and summary on the disk.
* ``pool``: what Ray's pool spends on bookkeeping while it starts that many workers, without starting them.
* ``ray``: 2,000 chunks of 50 ms on two cores of real Ray, over the minimum (chunks x 50 ms / workers).

Jobs are heavy-tailed: their sizes follow Pareto's law (exponent 1.2), and so do the mean times of their episodes; the
times within a job are log-normal (sigma 1), with a time limit at five times the mean. Efficiency is the time that no
schedule can beat, the larger of (all work / workers) and the longest episode, over the time that the run took, both
simulated.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from arena_ray import EvalJob, evaluate
from arena_ray.config import EvalPlan, load_plan
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.eval_runner import Run
from arena_ray.records import EpisodeRecord
from arena_ray.stopping import Stopped
from arena_ray.worker_events import Notice, Tuned
from tests.simulation import SimulatedPool

#: Mean wall time of an episode over all jobs, about, seconds.
EPISODE_S = 10.0

#: Times of episodes end here, as multiples of their job's mean, as environments have limits of time.
TIME_LIMIT = 5.0

#: What a worker of a simulator needs to start, seconds.
START_S = 30.0


class CountingJournal:
    """Takes in what a run tells, and keeps nothing but that each episode came once."""

    waited_s = 0.0
    setup = WorkerSetup(run_dir="/nowhere")

    def __init__(self, jobs: Mapping[str, int]) -> None:
        self.in_a_hurry: Callable[[], bool] = lambda: False
        self.seen = {name: bytearray(num_episodes) for name, num_episodes in jobs.items()}
        self.status = ""

    def commit(self, record: EpisodeRecord) -> None:
        assert not self.seen[record.job][record.episode]
        self.seen[record.job][record.episode] = 1

    def note(self, chunk: Chunk | None, notice: Notice) -> None: ...

    def event(self, kind: str, chunk: Chunk | None = None, /, **fields: Any) -> None: ...

    def tuned(self, chunk: Chunk, tuned: Tuned) -> None: ...

    def stopped_early(self, job_name: str, stopped: Stopped) -> None: ...

    def tick(self) -> None: ...

    def withdraw(self) -> None: ...

    def finish(self, status: str, verdicts: Mapping[str, tuple[str, str | None]]) -> str:
        self.status = status
        return status

    def __enter__(self) -> CountingJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    @property
    def all_once(self) -> bool:
        """Whether every episode has come."""
        return all(all(flags) for flags in self.seen.values())


def heavy_tailed_jobs(num_jobs: int, num_episodes: int, seed: int = 0) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return jobs whose sizes and times follow Pareto's law, and the mean time of each one's episodes, seconds."""
    random = np.random.default_rng(seed)
    sizes = random.pareto(1.2, num_jobs) + 1
    counts = np.maximum(1, (sizes / sizes.sum() * num_episodes).astype(int))
    counts[0] += num_episodes - counts.sum()
    means = np.minimum(random.pareto(1.2, num_jobs) + 1, 30) * EPISODE_S / 4
    jobs = [
        {
            "name": f"job-{index}",
            "env": {"id": "Simulated-v0"},
            "policy": {"type": "zero"},
            "num_episodes": int(count),
        }
        for index, count in enumerate(counts)
    ]
    return jobs, {f"job-{index}": float(mean) for index, mean in enumerate(means)}


def log_normal(means: Mapping[str, float]) -> Callable[[EvalJob, int], float]:
    """Return how long an episode takes: log-normal around its job's mean, the same whenever it is asked."""
    factors = np.minimum(np.random.default_rng(1).lognormal(-0.5, 1.0, 65_537), TIME_LIMIT).tolist()
    offsets = {name: 7919 * index for index, name in enumerate(means)}
    return lambda job, episode: means[job.name] * factors[(episode + offsets[job.name]) % len(factors)]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def simulate(
    num_workers: int,
    num_episodes: int,
    num_jobs: int = 200,
    start_s: float = 0.0,
    chunk_size: int | str = "auto",
    *,
    on_disk: bool = False,
) -> dict[str, Any]:
    """Run simulated workers under the real driver; return what it came to."""
    documents, means = heavy_tailed_jobs(num_jobs, num_episodes)
    pool = SimulatedPool(num_workers, log_normal(means), start_s)
    # Workers live in simulated time, and so would never answer in time.
    flags: dict[str, Any] = {"chunk_size": chunk_size, "start_timeout": 1e9, "stall_timeout": 1e9}
    before_mb, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if on_disk:
            result = evaluate({"jobs": documents}, pool=pool, video_base_dir=folder, **flags)
            complete = sum(job.counts["completed"] for job in result.jobs.values()) == num_episodes
        else:
            journal = CountingJournal({job["name"]: job["num_episodes"] for job in documents})
            plan: EvalPlan = load_plan({"jobs": documents}, (), flags)
            Run(plan, lambda hardware: journal).execute(pool)
            complete = journal.status == "completed" and journal.all_once
    took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return {
        "workers": num_workers,
        "episodes": num_episodes,
        "jobs": num_jobs,
        "chunks": pool.chunks,
        "worker_starts": sum(pool.starts.values()),
        "complete": complete,
        "wall_s": round(took_s, 1),
        "cpu_s": round(cpu_s, 1),
        "chunks_per_cpu_s": round(pool.chunks / cpu_s),
        "records_per_cpu_s": round(num_episodes / cpu_s),
        "grown_mb": round(peak_mb() - before_mb, 1),
        "bytes_per_episode": round((peak_mb() - before_mb) * 2**20 / num_episodes),
        "makespan_s": round(pool.now, 1),
        "ideal_s": round(pool.ideal_s, 1),
        "longest_s": round(pool.longest_s, 1),
        "efficiency": round(pool.ideal_s / pool.now, 4),
    }


class _Actor:
    """Takes what a pool says to an actor, and answers nothing."""

    @property
    def run(self) -> _Actor:
        return self

    def options(self, **options: Any) -> _Actor:
        return self

    def remote(self, *arguments: Any) -> object:
        return object()


def bookkeeping(num_workers: int) -> dict[str, Any]:
    """Return what Ray's pool spends on starting so many workers, besides Ray's own part."""
    import ray

    from arena_ray.pools import ray_actors
    from arena_ray.specs import RunSettings

    ray.init(address="local", num_cpus=num_workers, include_dashboard=False, logging_level=logging.ERROR)
    pool_module: Any = ray_actors
    start, pool_module.start_actor = pool_module.start_actor, lambda *arguments, **options: _Actor()
    try:
        pool = ray_actors.RayPool(RunSettings())
        (document, *_), _ = heavy_tailed_jobs(1, num_workers)
        job = EvalJob.model_validate(document)
        started = time.perf_counter()
        for index in range(num_workers):
            assert pool.has_room(job)
            pool.num_workers(job)
            pool.submit(Chunk(job=job, index=index, episodes=(index,)))
        took_s = time.perf_counter() - started
    finally:
        pool_module.start_actor = start
        ray.shutdown()
    return {"workers": num_workers, "bookkeeping_s": round(took_s, 3)}


def overhead(num_chunks: int = 2000, chunk_s: float = 0.05, num_workers: int = 2) -> dict[str, Any]:
    """Return what chunks of one short episode take on real Ray, over the minimum."""
    import ray

    ray.init(address="local", num_cpus=num_workers, include_dashboard=False, logging_level=logging.ERROR)
    job = {
        "name": "short",
        "env": {"entry_point": "tests.paced:Paced", "kwargs": {"length": 1, "step_s": chunk_s}},
        "policy": {"type": "zero"},
        "num_episodes": num_chunks,
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            result = evaluate({"jobs": [job]}, video_base_dir=folder, chunk_size=1)
            took_s = time.perf_counter() - started
            assert result.status == "completed"
            running_s = _between_chunks(result.run_dir)
    finally:
        ray.shutdown()
    minimum_s = num_chunks * chunk_s / num_workers
    return {
        "chunks": num_chunks,
        "chunk_s": chunk_s,
        "minimum_s": minimum_s,
        "running_s": round(running_s, 2),
        "overhead": round(running_s / minimum_s - 1, 4),
        "per_chunk_ms": round((running_s - minimum_s) * num_workers / num_chunks * 1000, 2),
        "with_start_s": round(took_s, 2),
        "overhead_with_start": round(took_s / minimum_s - 1, 4),
    }


def _between_chunks(run_dir: Path) -> float:
    """Return how long chunks ran: from the first worker that was ready to the last chunk's end."""
    import datetime

    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]

    def at(line: Mapping[str, Any]) -> float:
        return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()

    ready = [at(line) for line in lines if line["kind"] == "worker_started"]
    return max(at(line) for line in lines if line["kind"] == "chunk_finished") - min(ready)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="ledger,driver,pool,ray")
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--start_s", type=float, default=0.0)
    parser.add_argument("--chunk_size", default="auto")
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    size = options.chunk_size if options.chunk_size == "auto" else int(options.chunk_size)
    for row in options.rows.split(","):
        if row in ("ledger", "driver"):
            figures = simulate(
                options.workers,
                options.episodes,
                start_s=options.start_s,
                chunk_size=size,
                on_disk=row == "driver",
            )
            print(row, json.dumps(figures), flush=True)
        elif row == "pool":
            for num_workers in (100, 200, 400, 1000, 2000):
                print(row, json.dumps(bookkeeping(num_workers)), flush=True)
        else:
            print(row, json.dumps(overhead()), flush=True)


if __name__ == "__main__":
    main()
