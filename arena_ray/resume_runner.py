"""Finishing a run that ended early: only what has no record is run, in the same run directory.

lock -> read what was asked for and what is there -> end what the dead driver left -> salvage videos -> run the rest
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from arena_ray.config import EvalPlan, JobChanges, PlanSource, compare_jobs, load_plan
from arena_ray.errors import ConfigError, RunDirError
from arena_ray.eval_runner import Run
from arena_ray.journal import Journal, Past
from arena_ray.narration import RunObserver
from arena_ray.pools import WorkerPool, open_pool
from arena_ray.processes import end_marked, new_mark
from arena_ray.provenance import Provenance, versions
from arena_ray.results import RunResult
from arena_ray.run_dir import RunDir, utc_text
from arena_ray.run_history import RunHistory, read_history
from arena_ray.trackers import Tracking, open_tracking
from arena_ray.video.remux import salvage

#: Flags of a run that a resumed run does not have, and why.
NO_FLAGS = {
    "video_base_dir": "a resumed run writes into its run directory",
    "storage": "the videos of a run are in one place",
    "record_viewport_video": "what is recorded is part of the jobs; add videos with arena-ray replay",
    "record_camera_video": "what is recorded is part of the jobs; add videos with arena-ray replay",
}

#: How long processes that a dead driver's workers left may take to end, seconds.
END_LEFTOVERS_S = 10.0


def resume(
    run_dir: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    retry_failed: bool = False,
    observer: RunObserver | None = None,
    pool: WorkerPool | None = None,
    **flags: Any,
) -> RunResult:
    """Finish a run that ended early, or extend one: only episodes without a record are run.

    Args:
        run_dir: The run directory. A run that is finished is left untouched.
        overrides: ``NAME:key=value``, as on the command line, on top of the run's own. Together with the job file, if
            that is still there, they must come to the jobs of the run; but `num_episodes` may be more than it was, and
            `stop_when` narrower or surer.
        retry_failed: Run episodes again whose newest record is ``error`` or ``timeout``.
        observer: Watches the run.
        pool: Where workers run; ``None``: what the settings ask for. It is closed at the end.
        **flags: The flags of ``arena-ray resume``; settings without a flag stay what they were.

    Returns:
        The result of the whole run.

    Raises:
        ConfigError: If the input is wrong, or the jobs have changed; nothing has started then.
        RunDirError: If `run_dir` is no run directory, cannot be read or written, or another driver writes there.
        NotEnoughResourcesError: If no node could ever run a worker of some job; nothing has started then.
    """
    with Resumption(run_dir, overrides, retry_failed=retry_failed, flags=flags) as resumption:
        return resumption.execute(observer, pool)


class Resumption:
    """A run directory that this process has to itself, and what there is to do. As a context it lets go at its end.

    Args:
        run_dir: The run directory.
        overrides: See `resume`.
        retry_failed: See `resume`.
        flags: See `resume`.
        reason: Why the run is extended, for its event; ``None``: somebody asked for it.

    Attributes:
        path: The run directory.
        signal: The signal that ended the resumed run early, or ``None``.
        storage_error: Why the disk took no more records, or ``None``.

    Raises:
        ConfigError: See `resume`.
        RunDirError: See `resume`.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        overrides: Sequence[str] = (),
        *,
        retry_failed: bool = False,
        flags: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        self._reason = reason
        self._run_dir = RunDir.open(run_dir)
        self.path = self._run_dir.path
        self.signal: int | None = None
        self.storage_error: Exception | None = None
        names = [job.name for job in _recorded_plan(self._run_dir, _read_run(self._run_dir)).jobs]
        self._run_dir.check_links(names)
        self._lock = self._run_dir.lock()
        try:
            self._run = _read_run(self._run_dir)
            self._plan, self._changes = _plan_again(self._run_dir, self._run, overrides, flags or {})
            self._history = self._read_history(retry_failed)
        except BaseException:
            self._lock.release()
            raise

    def _read_history(self, retry_failed: bool) -> RunHistory:
        was_completed = self._run["status"] == "completed"
        return read_history(self._run_dir, self._plan.jobs, retry_failed=retry_failed, was_completed=was_completed)

    @property
    def failed(self) -> int:
        """Episodes whose newest record is ``error`` or ``timeout``."""
        return self._history.failed

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: no episode to run, no file to write."""
        status = "failed" if self._history.failed else "completed"
        is_written_down = self._run["status"] == status and self._run_dir.read_summary() is not None
        has_changed = bool(self._changes.grown or self._changes.tightened)
        return self._history.left == 0 and not self._run_dir.rank_files() and is_written_down and not has_changed

    def execute(self, observer: RunObserver | None = None, pool: WorkerPool | None = None) -> RunResult:
        """Run what is left and write down what the whole run came to; once.

        Args:
            observer: Watches the run.
            pool: Where workers run; ``None``: what the settings ask for. It is closed at the end.
        """
        if self._history.left == 0:
            if pool is not None:
                pool.close()
            return RunResult.load(self.path) if self.finished else self._write_last_files(observer)
        tracking = open_tracking(self._plan.settings.trackers)
        run = Run(self._plan, lambda hardware: self._open_journal(hardware, observer, tracking), self._history.ledger)
        self._history = dataclasses.replace(self._history, ledger={})  # It may be large, and has been read.
        result = run.execute(pool if pool is not None else open_pool(self._plan.settings))
        self.signal, self.storage_error = run.signal, run.storage_error
        return result

    def _write_last_files(self, observer: RunObserver | None) -> RunResult:
        """Write down what the run came to: its driver ended when nothing was left to run."""
        status = "failed" if self._history.failed else "completed"
        tracking = open_tracking(self._plan.settings.trackers)
        with self._open_journal(self._run["hardware"], observer, tracking) as journal:
            return journal.finish(status, {job.name: ("completed", None) for job in self._plan.jobs})

    def _open_journal(self, hardware: Mapping[str, Any], observer: RunObserver | None, tracking: Tracking) -> Journal:
        """Go on writing, and clear up after the driver that ended."""
        now = datetime.datetime.now(datetime.timezone.utc)
        past, news = self._past(now)
        with contextlib.ExitStack() as if_it_fails:
            try:
                journal = Journal(
                    self._plan, self._run_dir, hardware, now, observer=observer, past=past, tracking=tracking
                )
                if_it_fails.push(journal)
                journal.event("run_resumed", left=self._history.left, jobs=self._history.counts)
                self._tell_changes(journal)
                for text in news:
                    journal.event("warning", topic="resumed", message=text)
                self._clear_up(journal)
            except OSError as error:
                raise RunDirError(f"cannot write into the run directory {str(self.path)!r}: {error}") from error
            if_it_fails.pop_all()
        return journal

    def _tell_changes(self, journal: Journal) -> None:
        if self._changes.grown:
            grown = {name: {"was": was, "is": is_now} for name, (was, is_now) in self._changes.grown.items()}
            journal.event("run_extended", num_episodes=grown, reason=self._reason)
        for name, stopped in self._history.stopped.items():
            journal.stopped_early(name, stopped)

    def _past(self, now: datetime.datetime) -> tuple[Past, list[str]]:
        """Return what the journal takes over, and what there is to tell about that."""
        run = self._run
        provenance = Provenance.from_run(run) if self._history.left == 0 else None
        news = [] if provenance is not None else list(_version_notes(run["versions"], versions()))
        news += _tightening_notes(self._changes)
        past = Past(
            lock=self._lock,
            tallies=self._history.tallies,
            mark=run.get("mark") or new_mark(),
            notes=(*run["notes"], *news),
            python_path=tuple(run.get("python_path", ())),
            tuning=run.get("tuning", {}),
            provenance=provenance,
            storage=run.get("storage"),
            started_at=run["started_at"],
            resumed_at=(*run.get("resumed_at", ()), utc_text(now)),
        )
        return past, news

    def _clear_up(self, journal: Journal) -> None:
        if self._run.get("mark"):
            survivors = _end_leftover_workers(self._run["mark"])
            if survivors:
                message = f"processes that the run started before do not end: {', '.join(map(str, survivors))}"
                journal.event("warning", topic="leftover_workers", message=message)
        salvaged = list(_salvage(self._run_dir, self._plan, self._history.partial_videos))
        if salvaged:
            journal.event("salvaged", number=len(salvaged), paths=salvaged)
        for record in self._history.unmerged:
            journal.commit(record)
        _remove(self._run_dir.rank_files())

    def __enter__(self) -> Resumption:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


def _read_run(run_dir: RunDir) -> dict[str, Any]:
    """Return the content of ``run.json``, which has everything that is needed."""
    run = run_dir.read_run()
    needed = {"status": str, "jobs": list, "settings": dict, "argv": list, "versions": dict, "hardware": dict}
    needed |= {"notes": list, "started_at": str}
    needed |= {
        key: kind
        for key, kind in {"mark": str, "python_path": list, "resumed_at": list, "tuning": dict}.items()
        if key in run
    }
    lacking = [key for key, kind in needed.items() if not isinstance(run.get(key), kind)]
    if lacking:
        raise RunDirError(
            f"{run_dir.run_file} does not say {', '.join(lacking)}, so the run cannot be resumed; start it again"
        )
    return run


def _recorded_plan(run_dir: RunDir, run: Mapping[str, Any]) -> EvalPlan:
    """Return the jobs and settings that stand in ``run.json``."""
    try:
        return load_plan({"jobs": run["jobs"], "run": run["settings"]})
    except ConfigError as error:
        raise RunDirError(f"{run_dir.run_file}: what it says of jobs and settings cannot be used: {error}") from error


def _plan_again(
    run_dir: RunDir, run: Mapping[str, Any], overrides: Sequence[str], flags: Mapping[str, Any]
) -> tuple[EvalPlan, JobChanges]:
    """Return the plan of the run as it is asked for now, and what has changed about its jobs."""
    for flag in flags:
        if flag in NO_FLAGS:
            raise ConfigError(f"flags: {flag}: {NO_FLAGS[flag]}; leave it out")
    source = _source(run_dir, run)
    source = dataclasses.replace(source, overrides=(*source.overrides, *_texts(overrides)))
    before = _recorded_plan(run_dir, run)
    if source.job_file is not None and os.path.isfile(source.job_file):
        now = load_plan(source.job_file, source.overrides, source.flags)
        what, hint = source.job_file, "put it back as it was, or move it away: then the jobs of run.json are taken"
    else:
        now = load_plan({"jobs": run["jobs"]}, overrides)
        what, hint = "overrides", "leave them out"
    changes = compare_jobs(before.document["jobs"], now.document["jobs"])
    if changes.refused:
        text = f"{what}: these are not the jobs that the run in {run_dir.path} began with; {hint}, or start a new run"
        raise ConfigError("\n  ".join([text, *changes.refused]))
    settings = load_plan({"jobs": run["jobs"], "run": run["settings"]}, (), flags).settings
    return dataclasses.replace(now, settings=settings, source=source), changes


def _texts(overrides: Sequence[str]) -> tuple[str, ...]:
    return (overrides,) if isinstance(overrides, str) else tuple(overrides)


def _source(run_dir: RunDir, run: Mapping[str, Any]) -> PlanSource:
    """Return where the run's plan came from; nowhere, for a run of a version that did not say."""
    source = run.get("source", {})
    try:
        return PlanSource(
            job_file=source.get("job_file"),
            overrides=tuple(map(str, source.get("overrides", ()))),
            flags=dict(source.get("flags", {})),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise RunDirError(f"{run_dir.run_file}: its key 'source' cannot be read: {error}") from error


def _tightening_notes(changes: JobChanges) -> Iterator[str]:
    """Yield a note for each job that goes on after it may have been looked at: its sequence is another one then."""
    for name, (was, is_now) in changes.tightened.items():
        both = 1 - (1 - was["confidence"]) - (1 - is_now["confidence"])
        yield (
            f"job {name!r}: stop_when was half_width {was['half_width']:g} and is {is_now['half_width']:g} since the "
            f"run was resumed; the interval of its success rate holds with {100 * is_now['confidence']:g} % by itself, "
            f"with {100 * both:g} % together with the earlier one"
        )


def _version_notes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield a note if results may depend on when they were made."""
    changed = [
        f"{name} {now[name]} (was {before.get(name, 'not there')})" if name in now else f"no {name} (was {was})"
        for name, was in {**now, **before}.items()
        if before.get(name) != now.get(name)
    ]
    if changed:
        yield f"resumed with {', '.join(changed)}"


def _end_leftover_workers(mark: str) -> list[int]:
    """End what workers of an earlier driver left on this machine; return the processes that do not end."""
    try:
        return end_marked(mark, timeout_s=END_LEFTOVERS_S)
    except ValueError as error:
        raise RunDirError(f"the mark in run.json is none: {error}") from error


def _salvage(run_dir: RunDir, plan: EvalPlan, recorded: Collection[str]) -> Iterator[str]:
    """Make ordinary videos of those that killed workers left, and yield their paths; one without a picture is removed.

    Those that belong to a record are whole files already. Hidden folders are those of replays, which may go on.
    """
    for job in plan.jobs:
        folder = run_dir.job_folder(job.name)
        for torn in folder.glob(".*.partial.mp4.*.tmp"):
            torn.unlink(missing_ok=True)  # Of a salvage that was killed.
        for path in sorted(folder.glob("*.partial.mp4")):
            relative = path.relative_to(run_dir.path).as_posix()
            if relative not in recorded and salvage(path):
                yield relative


def _remove(rank_files: Sequence[Path]) -> None:
    """Remove the files of ranks, whose records have been merged."""
    for file in rank_files:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in rank_files}:
        with contextlib.suppress(OSError):
            folder.rmdir()
