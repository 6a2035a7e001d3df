"""What a run came to, from its directory."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena_ray.errors import RunDirError, nearest
from arena_ray.records import SCHEMA_VERSION, EpisodeRecord, Metric
from arena_ray.results import notebook, table
from arena_ray.results.aggregate import GroupResult, group_of, jobs_by_tag
from arena_ray.results.bottleneck import bottleneck
from arena_ray.results.tally import JobTally, tallies_for
from arena_ray.results.usage import JobUsage
from arena_ray.run_dir import RunDir
from arena_ray.specs import EvalJob
from arena_ray.stopping import Stopped
from arena_ray.storage import fetch_missing, is_uri, local_copy

if TYPE_CHECKING:
    import os

    import pandas

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What one job came to.

    Of a job that stopped because it was sure (`EvalJob.stop_when`), everything here is about its first
    ``stopped.at`` episodes, and so the same however they were run; `beyond` has the others.

    Attributes:
        name: The job's name.
        status: ``completed``: every requested episode has a completed record; ``failed``; ``incomplete``.
        requested: Episodes asked for; ``None`` for `num_steps`.
        counts: Episodes by status: ``completed``, ``error``, ``timeout``.
        metrics: ``success_rate``, mean and interquartile mean of ``return`` and ``length`` (``return_iqm``,
            ``length_iqm``), and the means of the job's own, over completed episodes.
        error: Why the job failed, if it did.
        tags: The job's tags.
        videos: Paths of the videos, relative to the run directory, in episode order.
        run_dir: The run directory.
        usage: Where the time of its chunks went, summed over chunks and workers; ``None`` if no chunk told.
        bottleneck: What bounds its speed, in words; ``None`` where it ran too short to tell.
        stopped: Where it stopped because its success rate was known well enough; ``None`` if it did not.
    """

    name: str
    status: str
    requested: int | None
    counts: Mapping[str, int]
    metrics: Mapping[str, Metric]
    error: str | None
    tags: Mapping[str, Any]
    videos: tuple[str, ...]
    run_dir: Path = dataclasses.field(compare=False)
    usage: JobUsage | None = None
    bottleneck: str | None = None
    stopped: Stopped | None = None

    @functools.cached_property
    def _records(self) -> tuple[EpisodeRecord, ...]:
        newest = {record.episode: record for record in RunDir(self.run_dir).records() if record.job == self.name}
        return tuple(newest[episode] for episode in sorted(newest))

    @property
    def episodes(self) -> tuple[EpisodeRecord, ...]:
        """The records that count in episode order, read from disk when first asked for."""
        return self._records if self.stopped is None else self._records[: self.stopped.at]

    @property
    def beyond(self) -> tuple[EpisodeRecord, ...]:
        """The records of episodes that were in flight when the job stopped; they count for nothing."""
        return () if self.stopped is None else self._records[self.stopped.at :]


@dataclasses.dataclass(frozen=True, repr=False)
class RunResult:
    """What a run came to. `print` shows a table; a notebook shows videos too, failures first.

    Attributes:
        run_dir: The run directory, wherever it now lies.
        status: ``running``, ``completed``, ``failed`` or ``interrupted``.
        jobs: Results by job name, in the order of the job file.
        notes: What limits the results, e.g. an environment that ignores its seed.
        overall: All jobs together.
        groups: Jobs with one tag together, by tag and value.
        storage: URI of the run's folder in a storage, where its videos are; ``None``: they are in `run_dir`.
    """

    run_dir: Path = dataclasses.field(compare=False)
    status: str
    jobs: Mapping[str, JobResult]
    notes: tuple[str, ...] = ()
    overall: GroupResult | None = None
    groups: Mapping[str, Mapping[str, GroupResult]] = dataclasses.field(default_factory=dict)
    storage: str | None = None

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> RunResult:
        """Read a run directory, also of a run that was interrupted or still goes on.

        Args:
            run_dir: The run directory, or the URI of the run's folder in a storage (``s3://BUCKET/FOLDER/RUN``).

        Raises:
            RunDirError: If it is not a run directory, or a record in it cannot be read.
        """
        folder = RunDir.open(local_copy(run_dir))
        run = folder.read_run()
        storage = str(run_dir).rstrip("/") if is_uri(run_dir) else run.get("storage")
        jobs = [EvalJob.model_validate(job) for job in run["jobs"]]
        tallies = tallies_for(jobs)
        for record in folder.records():
            if record.job in tallies:
                tallies[record.job].add(record)
        _add_usage(folder, tallies)
        verdicts, notes = read_verdicts(folder), tuple(run["notes"])
        return cls.from_tallies(folder.path, run["status"], jobs, tallies, verdicts, notes, storage)

    @classmethod
    def from_tallies(
        cls,
        run_dir: Path,
        status: str,
        jobs: list[EvalJob],
        tallies: Mapping[str, JobTally],
        verdicts: Mapping[str, tuple[str, str | None]],
        notes: tuple[str, ...] = (),
        storage: str | None = None,
    ) -> RunResult:
        """Build the result from what the records came to.

        Args:
            run_dir: The run directory.
            status: Status of the run.
            jobs: The jobs.
            tallies: A tally for each job.
            verdicts: Status and error of each job as the driver left them, by name; a job without one is judged by
                its records.
            notes: What limits the results.
            storage: Where the videos are, if not in the run directory.
        """
        results = {job.name: _job_result(job, tallies[job.name], verdicts.get(job.name), run_dir) for job in jobs}
        samples = {name: tallies[name].samples() for name in results}
        counts = {name: result.counts for name, result in results.items()}
        groups = {
            tag: {value: group_of(names, samples, counts) for value, names in values.items()}
            for tag, values in jobs_by_tag(jobs).items()
        }
        return cls(run_dir, status, results, notes, group_of([*results], samples, counts), groups, storage)

    def summary(self) -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        jobs = {name: _summary(job) for name, job in self.jobs.items()}
        groups = {
            tag: {value: group.to_json() for value, group in values.items()} for tag, values in self.groups.items()
        }
        overall = None if self.overall is None else self.overall.to_json()
        return {"schema": SCHEMA_VERSION, "status": self.status, "jobs": jobs, "groups": groups, "overall": overall}

    def records(self) -> Iterator[EpisodeRecord]:
        """Yield the newest record of every episode: jobs in order, episodes in order."""
        for job in self.jobs.values():
            yield from job.episodes

    def video_paths(
        self,
        job: str | None = None,
        camera: str | None = None,
        success: bool | None = None,
        kind: str | None = None,
    ) -> list[Path]:
        """Return the videos that fit, in episode order.

        Of a run whose videos are in a storage, those that are returned are fetched into the run directory first, each
        once; `video_uris` names them without.

        Args:
            job: Name of a job; ``None``: all.
            camera: Name of a camera; ``None``: all cameras and the viewport.
            success: Only of episodes that succeeded (or failed); ``None``: all.
            kind: ``viewport`` or ``camera``; ``None``: both.

        Raises:
            KeyError: If there is no such job.
            RunDirError: If a video cannot be fetched.
        """
        return self.fetched(self._chosen(job, camera, success, kind))

    def video_uris(
        self,
        job: str | None = None,
        camera: str | None = None,
        success: bool | None = None,
        kind: str | None = None,
    ) -> list[str]:
        """Return where the videos are that `video_paths` would return: URIs of a storage, or local paths."""
        base = str(self.run_dir) if self.storage is None else self.storage
        return [f"{base}/{path}" for path in self._chosen(job, camera, success, kind)]

    def fetched(self, paths: Iterable[str]) -> list[Path]:
        """Return local paths of videos, fetched from the storage if need be.

        Args:
            paths: Relative to the run directory, as in records.

        Raises:
            RunDirError: If a video cannot be fetched.
        """
        return fetch_missing(self.run_dir, self.storage, paths)

    def _chosen(self, job: str | None, camera: str | None, success: bool | None, kind: str | None) -> list[str]:
        if job is not None and job not in self.jobs:
            raise KeyError(f"there is no job {job!r}; {nearest(job, self.jobs)}")
        jobs = [self.jobs[job]] if job is not None else list(self.jobs.values())
        return [
            video.path
            for result in jobs
            for record in result.episodes
            for video in record.videos
            if video.bytes > 0
            and (camera is None or video.camera == camera)
            and (kind is None or video.kind == kind)
            and (success is None or record.success is success)
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row per episode, with the keys of ``episodes.jsonl``; metrics become ``metrics.NAME`` columns.

        Raises:
            ModuleNotFoundError: If pandas is missing; ``pip install "arena-ray[pandas]"``.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError('to_pandas needs pandas; run: pip install "arena-ray[pandas]"') from error
        return pandas.DataFrame([_row(record) for record in self.records()])

    def __str__(self) -> str:
        return table.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return notebook.page(self)


def _job_result(job: EvalJob, tally: JobTally, verdict: tuple[str, str | None] | None, run_dir: Path) -> JobResult:
    counts = tally.counts()
    said, error = verdict or ("incomplete", None)
    if tally.stopped() is not None:
        error = None  # A summary of another time may speak of episodes that do not count.
    error = error or tally.first_error()
    if error:
        status = "failed"
    elif job.num_episodes is None:
        status = said
    elif tally.stopped() is not None:
        status = "completed"
    else:
        status = "completed" if counts["completed"] >= job.num_episodes else "incomplete"
    usage = tally.usage.total()
    return JobResult(
        name=job.name,
        status=status,
        requested=job.num_episodes,
        counts=counts,
        metrics=tally.metrics(),
        error=error,
        tags=job.tags,
        videos=tuple(tally.videos()),
        run_dir=run_dir,
        usage=usage,
        bottleneck=None if usage is None else bottleneck(usage, job),
        stopped=tally.stopped(),
    )


def _summary(job: JobResult) -> dict[str, Any]:
    return {
        "status": job.status,
        "episodes": {"requested": job.requested, **job.counts},
        "metrics": {name: dataclasses.asdict(metric) for name, metric in job.metrics.items()},
        "error": job.error,
        "stopped": None if job.stopped is None else job.stopped.to_json(),
        "videos": [*job.videos],
        "usage": None if job.usage is None else job.usage.to_json(),
    }


def _add_usage(folder: RunDir, tallies: Mapping[str, JobTally]) -> None:
    """Add what the events say of the time of chunks; events that cannot be read cost only that."""
    try:
        for line in folder.events():
            if line["kind"] == "chunk_finished" and "usage" in line and line.get("job") in tallies:
                tallies[line["job"]].usage.add(line["usage"])
    except (RunDirError, KeyError, TypeError) as error:
        logger.warning("%s: where the time of the run went is known only in part: %r", folder.events_file, error)


def read_verdicts(folder: RunDir) -> dict[str, tuple[str, str | None]]:
    """Return status and error of each job as the driver left them; empty while the run goes on."""
    summary = folder.read_summary() or {}
    try:
        return {name: (job["status"], job["error"]) for name, job in summary["jobs"].items()}
    except (KeyError, TypeError, AttributeError):
        return {}


def _row(record: EpisodeRecord) -> dict[str, Any]:
    row = record.to_json()
    metrics = row.pop("metrics")
    return {**row, **{f"metrics.{name}": value for name, value in metrics.items()}}
