"""Chosen episodes of a run again, with video: seeds follow from job and episode, so they must come to the same.

check everything -> run the episodes into a hidden folder -> judge each record -> move its videos to where they belong
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import operator
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from arena_ray.config import EvalPlan, load_plan
from arena_ray.config.problems import shown
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.errors import ConfigError, RunDirError, StorageError, nearest
from arena_ray.eval_runner import WORKER_LOST, Run
from arena_ray.journal import python_path
from arena_ray.json_files import LineLog, strict_json
from arena_ray.ledger import History, JobHistory
from arena_ray.narration import Narrator, RunObserver
from arena_ray.pools import WorkerPool, open_pool
from arena_ray.records import EpisodeRecord, EpisodeReplay, VideoFile
from arena_ray.report.page_writer import PageWriter
from arena_ray.results import ReplayResult, RunResult, named
from arena_ray.run_dir import RunDir, move_to_free_name
from arena_ray.specs import EvalJob
from arena_ray.storage import send_all

logger = logging.getLogger(__name__)

#: What an episode came to, in the words of ``episodes.jsonl``; metrics and error come on top.
_OUTCOME = ("seed", "status", "success", "return", "length", "terminated", "truncated")

#: Settings that decide what becomes of an episode: where no flag says otherwise they are those of the run.
_INHERITED = ("max_attempts", "episode_timeout", "stall_timeout", "start_timeout")

#: Removing the hidden folder is tried so often: workers that were ended may write into it for a moment longer.
_REMOVALS = 20


def replay(
    run_dir: str | os.PathLike[str],
    job: str,
    episodes: str | Iterable[int],
    *,
    observer: RunObserver | None = None,
    pool: WorkerPool | None = None,
    **flags: Any,
) -> ReplayResult:
    """Run chosen episodes of a run again with video, and add the videos to their records.

    Args:
        run_dir: The run directory; the run may still go on.
        job: Name of a job.
        episodes: Indices, or text as ``"3,7,10-12"``; each must have a record.
        observer: Watches the replay.
        pool: Where workers run; ``None``: what the flags ask for. It is closed at the end.
        **flags: The flags of ``arena-ray replay``, e.g. ``record_camera_video=True``.

    Returns:
        What each episode came to; its `equal` says whether all of them came to what their records say. SIGINT ends
        the replay after the episodes in flight.

    Raises:
        ConfigError: If the input is wrong; nothing has started then.
        RunDirError: If `run_dir` is no run directory, or cannot be read or written.
        NotEnoughResourcesError: If no node could ever run a worker of the job; nothing has started then.
    """
    order = _place_order(RunDir.open(run_dir), job, episodes, flags)
    with contextlib.ExitStack() as when_the_pool_is_closed:

        def open_journal(hardware: Mapping[str, Any]) -> _ReplayJournal:
            # Resolved, because recorders report resolved paths.
            folder = order.run_dir.create_replay_folder(job).resolve()
            when_the_pool_is_closed.callback(_clear, folder, order)
            return _ReplayJournal(order, folder, observer)

        run = Run(order.plan, open_journal, order.history())
        result = run.execute(pool if pool is not None else open_pool(order.plan.settings))
    error = result.error if run.storage_error is None else str(run.storage_error)
    return dataclasses.replace(result, signal=run.signal, error=error)


@dataclasses.dataclass(frozen=True)
class _Order:
    """What is to be replayed, checked against the run directory.

    Attributes:
        run_dir: The run directory.
        plan: With one job, recording what it should.
        recorded: The records of the chosen episodes.
        python_path: Where entry points are looked for: where the run looked, then where a new run would.
        notes: What the run noted of this job's seeding.
    """

    run_dir: RunDir
    plan: EvalPlan
    recorded: Mapping[int, EpisodeRecord]
    python_path: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def job(self) -> EvalJob:
        return self.plan.jobs[0]

    def history(self) -> History:
        """Return all episodes that are not chosen as recorded."""
        others = (episode for episode in range(self.job.num_episodes or 0) if episode not in self.recorded)
        return {self.job.name: JobHistory(recorded=((episode, "completed") for episode in others))}

    def shown_plan(self) -> EvalPlan:
        """Return a plan in whose words the chosen episodes are all there are, to show progress."""
        return dataclasses.replace(self.plan, jobs=(self.job.model_copy(update={"num_episodes": len(self.recorded)}),))


def _place_order(run_dir: RunDir, name: str, episodes: str | Iterable[int], flags: Mapping[str, Any]) -> _Order:
    """Check everything that can be wrong."""
    ranges = _parse_episodes(episodes)
    run = run_dir.read_run()
    job = _find_job(run_dir, run, name)
    recorded = _find_records(run_dir, job, ranges)
    job = job.model_copy(update={"stop_when": None})  # Whatever they come to, all that were chosen are run.
    if job.num_episodes is None:
        job = job.model_copy(update={"num_steps": None, "num_episodes": 1 + max(recorded)})
    return _Order(
        run_dir=run_dir,
        plan=_plan(job, run, flags),
        recorded=recorded,
        python_path=tuple(dict.fromkeys((*run.get("python_path", ()), *python_path(None)))),
        notes=tuple(note for note in run.get("notes", ()) if f"job {name!r}:" in note and "reset(seed)" in note),
    )


def _parse_episodes(episodes: str | Iterable[int]) -> list[range]:
    if isinstance(episodes, str):
        return [_parse_range(part, episodes) for part in episodes.split(",")]
    try:
        indices = [operator.index(episode) for episode in episodes]
    except TypeError:
        indices = []
    if not indices or min(indices) < 0:
        raise ConfigError(f"episodes: found {shown(episodes)}; give indices from 0, e.g. [3, 7], or '3,7,10-12'")
    return [range(index, index + 1) for index in indices]


def _parse_range(part: str, whole: str) -> range:
    match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if last < first:
        raise ConfigError(
            f"episodes {shown(whole)}: {shown(part)} is neither an episode nor a range; write indices from 0 and "
            "ascending ranges, e.g. 3,7,10-12"
        )
    return range(first, last + 1)


def _find_job(run_dir: RunDir, run: Mapping[str, Any], name: str) -> EvalJob:
    try:
        jobs = {job["name"]: job for job in run["jobs"]}
        if name in jobs:
            job, tuned = EvalJob.model_validate(jobs[name]), run.get("tuning", {}).get(name)
            slots = {} if tuned is None else {key: tuned[key] for key in ("num_envs", "vectorization", "num_groups")}
            return job.model_copy(update=slots)
    except (KeyError, TypeError, ValidationError) as error:
        raise RunDirError(f"{run_dir.run_file}: its jobs cannot be read: {error}") from error
    raise ConfigError(f"the run in {run_dir.path} has no job {name!r}; {nearest(name, jobs)}")


def _find_records(run_dir: RunDir, job: EvalJob, ranges: Sequence[range]) -> dict[int, EpisodeRecord]:
    """Return the newest record of each chosen episode, in episode order."""
    mine = (record for record in run_dir.records() if record.job == job.name)
    bound = job.num_episodes
    if bound is None:
        bound = 1 + max((record.episode for record in mine), default=-1)
        mine = (record for record in run_dir.records() if record.job == job.name)
    last = max(chosen.stop for chosen in ranges) - 1
    if last >= bound:
        there = f"it has episodes 0 to {bound - 1}" if bound else "its budget of steps ended before the first episode"
        raise ConfigError(f"job {job.name!r} has no episode {last}: {there}")
    found = {record.episode: record for record in mine if any(record.episode in chosen for chosen in ranges)}
    missing = sorted({episode for chosen in ranges for episode in chosen} - found.keys())
    if missing:
        why = f"it has not run; finish the run first (arena-ray resume {run_dir.path})"
        if job.stop_when is not None:
            why = f"it has not run: the job stopped before, or is to be finished (arena-ray resume {run_dir.path})"
        if job.num_steps is not None:
            why = "the budget of steps cut it off"
        raise ConfigError(f"job {job.name!r}: {named(missing)}: there is no record yet to compare with, {why}")
    return {episode: found[episode] for episode in sorted(found)}


def _plan(job: EvalJob, run: Mapping[str, Any], flags: Mapping[str, Any]) -> EvalPlan:
    if "video_base_dir" in flags:
        raise ConfigError("flags: video_base_dir: a replay writes into the run directory; leave it out")
    if "trackers" in flags:
        raise ConfigError("flags: trackers: a replay adds no episodes, and trackers are not told of it; leave it out")
    settings = run.get("settings")
    inherited = {key: settings[key] for key in _INHERITED if key in settings} if isinstance(settings, dict) else {}
    filmed = _filmed(job, bool(flags.get("record_viewport_video")), bool(flags.get("record_camera_video")))
    # An episode that was recorded as broken breaks again; that must not keep the others from being run.
    return load_plan({"jobs": [filmed], "run": inherited}, (), {**flags, "continue_on_error": True})


def _filmed(job: EvalJob, viewport: bool, camera: bool) -> EvalJob:
    """Return the job recording what the flags name; else what it records by itself; else the viewport."""
    if not (viewport or camera):
        viewport, camera = job.video.record_viewport_video, job.video.record_camera_video
    viewport = viewport or not camera
    video = dataclasses.replace(job.video, record_viewport_video=viewport, record_camera_video=camera, record="all")
    return job.model_copy(update={"video": video})


class _ReplayJournal(Narrator):
    """Judges the records of a replay, and moves each episode's videos from the hidden folder to where they belong.

    Args:
        order: What is replayed.
        folder: The hidden folder, which workers take for the run directory.
        observer: Watches the replay.

    Raises:
        RunDirError: If nothing can be written into the run directory.
    """

    def __init__(self, order: _Order, folder: Path, observer: RunObserver | None) -> None:
        super().__init__(observer)
        self.setup = WorkerSetup(
            run_dir=str(folder),
            python_path=order.python_path,
            max_episodes=order.plan.settings.max_episodes_per_worker,
            collect=order.plan.settings.collect,
        )
        self._order, self._folder = order, folder
        self._run_dir, self._job = order.run_dir, order.job.name
        self._replays: dict[int, EpisodeReplay] = {}
        try:
            self._log = LineLog(self._run_dir.replays_file)
        except OSError as error:
            raise RunDirError(f"cannot write {self._run_dir.replays_file}: {error}") from error
        self.tell("started", self._run_dir.path, order.shown_plan())

    def commit(self, record: EpisodeRecord) -> None:
        """Judge a record, move its videos, and append what it came to to ``replays.jsonl``, forced to the disk.

        Raises:
            StorageError: If the disk does not take it.
        """
        found = differences(self._order.recorded[record.episode], record)
        try:
            videos = tuple(self._moved(video, equal=not found) for video in record.videos if video.bytes)
            replay = EpisodeReplay(
                job=record.job, episode=record.episode, equal=not found, videos=videos, differences=found
            )
            self._log.append(replay.to_json())
            self._log.sync()
        except OSError as error:
            raise StorageError(f"{self._run_dir.path} takes no more: {error}") from error
        self._replays[record.episode] = replay
        if not videos:
            self.event("warning", job=self._job, message=f"episode {record.episode}: no video was recorded")
        self.tell("recorded", record)

    def _moved(self, video: VideoFile, *, equal: bool) -> VideoFile:
        return dataclasses.replace(video, path=self._move(video.path, equal=equal))

    def _move(self, path: str, *, equal: bool) -> str:
        """Move a video out of the hidden folder; return its path relative to the run directory."""
        folder = self._run_dir.job_folder(self._job) if equal else self._run_dir.unequal_folder(self._job)
        return move_to_free_name(self._folder / path, folder).relative_to(self._run_dir.path).as_posix()

    def _chunk_video(self, chunk: Chunk, path: str) -> None:
        judged = [self._replays[episode] for episode in chunk.episodes if episode in self._replays]
        try:
            path = self._move(path, equal=all(replay.equal for replay in judged))
        except OSError as error:
            raise StorageError(f"{self._run_dir.path} takes no more: {error}") from error
        super()._chunk_video(chunk, path)

    def tick(self) -> None:
        """Tell the observer."""
        self.tell("tick")

    def withdraw(self) -> None:
        """Do nothing: the hidden folder goes when the pool is closed."""

    def finish(self, status: str, verdicts: Mapping[str, tuple[str, str | None]]) -> ReplayResult:
        """Bring ``summary.json`` up to date, and return what the replay came to."""
        self._log.close()
        _add_videos_to_summary(self._run_dir)
        self._send_to_storage()
        result = RunResult.load(self._run_dir.path)
        PageWriter(self._run_dir.path).finish(result)
        self.tell("finished", result)
        return ReplayResult(
            run_dir=self._run_dir.path,
            job=self._job,
            replays=tuple(self._replays[episode] for episode in sorted(self._replays)),
            missing=tuple(episode for episode in self._order.recorded if episode not in self._replays),
            result=result,
            notes=tuple(dict.fromkeys((*self._order.notes, *self._seeding_notes()))),
            error=verdicts[self._job][1],
        )

    def _send_to_storage(self) -> None:
        """Put the videos, and what names them, where the other videos of the run are."""
        uri = self._run_dir.read_run().get("storage")
        if uri is None:
            return
        videos = [self._run_dir.path / video.path for replay in self._replays.values() for video in replay.videos]
        patience_s = self._order.plan.settings.storage_timeout
        problem = send_all(uri, self._run_dir.path, [*videos, *self._run_dir.documents()], patience_s)
        if problem is not None:
            self.event(
                "warning", job=self._job, message=f"{uri} lacks videos, which are in the run directory: {problem}"
            )

    def _seeding_notes(self) -> Iterator[str]:
        return (message for (_, topic), message in self._notes.items() if topic == "seed_ignored")

    def __enter__(self) -> _ReplayJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._log.close()


def differences(recorded: EpisodeRecord, replayed: EpisodeRecord) -> dict[str, tuple[Any, Any]]:
    """Return in what two records of an episode came to differ: key to ``(recorded, replayed)``, as JSON values.

    Where and when an episode ran, and its videos, are no difference. Nor are the words in which the loss of a worker
    is described: they name processes and times.
    """
    old, new = _substance(recorded), _substance(replayed)
    keys = dict.fromkeys((*old, *new))
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _substance(record: EpisodeRecord) -> dict[str, Any]:
    row = json.loads(strict_json(record.to_json()))
    found = {key: row[key] for key in _OUTCOME}
    found.update({f"metrics.{name}": value for name, value in row["metrics"].items()})
    if row["error"] is not None:
        found["error.type"] = row["error"]["type"]
        if row["error"]["type"] != WORKER_LOST:
            found["error.message"] = row["error"]["message"]
    return found


def _add_videos_to_summary(run_dir: RunDir) -> None:
    """Rewrite the lists of videos in ``summary.json``; a run that still goes on writes that file itself."""
    summary = run_dir.read_summary()
    if summary is None:
        return
    for name, job in RunResult.load(run_dir.path).jobs.items():
        summary["jobs"][name]["videos"] = [*job.videos]
    try:
        run_dir.write_summary(summary)
    except OSError as error:
        logger.error("%s", error)  # A full disk: what was replayed is safe, and the file is whole.


def _clear(folder: Path, order: _Order) -> None:
    """Keep the workers' logs, and remove the hidden folder."""
    for log in sorted(RunDir(folder).log_folder(order.job.name).glob("*")):
        with contextlib.suppress(OSError):
            move_to_free_name(log, order.run_dir.log_folder(order.job.name))
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    logger.warning("%s could not be removed; it holds nothing of worth", folder)
