"""What trackers are told of records and results: in numbers, and in their configuration."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arena_ray.records import EpisodeRecord, Metric, finite
from arena_ray.results import RunResult
from arena_ray.results.running import RunningJob
from arena_ray.trackers.base import FailureVideo, FinalResult, Point

#: Keys of ``run.json`` that trackers are told; the command line and names of the environment's variables are not.
_CONFIG_KEYS = ("settings", "versions", "git", "started_at")

#: Stands for all jobs together; no job can have that name.
ALL_JOBS = "_overall"


def config_of(run: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return what a tracker is told of a run at its beginning.

    Args:
        run: The content of ``run.json``.
        run_dir: The run directory.
    """
    jobs = {job["name"]: {key: value for key, value in job.items() if key != "name"} for job in run["jobs"]}
    return {"run_dir": str(run_dir), "jobs": jobs, **{key: run.get(key) for key in _CONFIG_KEYS}}


def point_of(record: EpisodeRecord, job: RunningJob, run_step: int) -> Point:
    """Return where a job stands after a record, which has been counted."""
    values: dict[str, float | None] = {"errors": job.failed, "success_rate": job.rate}
    if record.status == "completed":
        own = {f"metrics.{name}": value for name, value in record.metrics.items()}
        values |= {"return": record.episode_return, "length": record.length, **own}
    return Point(job=record.job, step=job.done, run_step=run_step, time_s=time.time(), values=_finite(values))


def videos_of(record: EpisodeRecord, point: Point, run_dir: Path) -> Iterator[FailureVideo]:
    """Yield the videos of an episode that failed: it was judged without success, or broke."""
    if record.status == "completed" and record.success is not False:
        return
    outcome = "failure" if record.status == "completed" else record.status
    title = f"{record.job} episode {record.episode}: {outcome}, seed {record.seed}"
    for video in record.videos:
        if video.bytes and video.frames:
            view = re.sub(r"[^\w.-]", "_", video.camera or video.kind)
            yield FailureVideo(
                job=record.job,
                view=view,
                step=point.step,
                run_step=point.run_step,
                title=title,
                path=run_dir / video.path,
                frames=video.frames,
                fps=video.fps,
            )


def final_of(result: RunResult) -> FinalResult:
    """Return what a run came to, in a tracker's words."""
    metrics = {name: job.metrics for name, job in result.jobs.items()}
    if result.overall is not None and len(metrics) > 1:
        metrics[ALL_JOBS] = result.overall.metrics
    figures = {name: _finite(_figures(of_job)) for name, of_job in metrics.items()}
    table = f"{result}\n\n{result.run_dir}"
    return FinalResult(status=result.status, figures=figures, table=table, summary=result.summary())


def _figures(metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for name, metric in metrics.items():
        figures |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high, f"{name}_n": metric.n}
    return figures


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and finite(value) is not None}
