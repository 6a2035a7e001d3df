"""The run directory: every file name, who may write there, and reading back what stands there."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from arena_ray.errors import RunDirError
from arena_ray.json_files import replace_json, sync_folder
from arena_ray.provenance import Provenance
from arena_ray.records import SCHEMA_VERSION, EpisodeRecord, EpisodeReplay, VideoFile
from arena_ray.run_lock import RunLock

LineT = TypeVar("LineT")


def utc_text(moment: datetime.datetime) -> str:
    """Return a moment as UTC, ISO 8601 with ``Z`` and milliseconds."""
    return moment.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def create_timestamped_folder(base: str | os.PathLike[str], now: datetime.datetime) -> Path:
    """Create ``base/YYYY-MM-DD_HH-MM-SS`` exclusively; if it exists, ``..._1`` and so on.

    Args:
        base: Parent folder; created if missing.
        now: Names the folder, in the timezone that it carries.

    Raises:
        RunDirError: If the folder cannot be created.
    """
    stem = Path(base).absolute() / now.strftime("%Y-%m-%d_%H-%M-%S")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix in range(10_000):
            path = stem if suffix == 0 else stem.with_name(f"{stem.name}_{suffix}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            sync_folder(path.parent)
            return path
    except OSError as error:
        raise RunDirError(
            f"cannot create a run directory in {str(stem.parent)!r}: {error}; choose another base"
        ) from error
    raise RunDirError(f"{stem} and 9,999 names after it exist; choose another base")


class RunDir:
    """A run directory. It alone knows the names of its files.

    Args:
        path: The directory, which exists.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    @classmethod
    def create(cls, base: str | os.PathLike[str], now: datetime.datetime) -> RunDir:
        """Create the run directory of a new run; see `create_timestamped_folder`."""
        return cls(create_timestamped_folder(base, now))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDir:
        """Open an existing run directory.

        Raises:
            RunDirError: If it has no ``run.json``.
        """
        run_dir = cls(path)
        if run_dir.episodes_file.is_file() and not run_dir.run_file.is_file():
            raise RunDirError(
                f"{str(path)!r} has no run.json, which says what is run: the run has just begun, or it ended before "
                "anything was run; then start it again"
            )
        if not run_dir.run_file.is_file():
            raise RunDirError(
                f"{str(path)!r} is not a run directory: it has no run.json; give the folder that a run printed"
            )
        return run_dir

    def lock(self) -> RunLock:
        """Make this directory this driver's alone.

        Raises:
            RunDirError: If another driver has it, or nothing can be written there.
        """
        try:
            return RunLock(self.episodes_file)
        except BlockingIOError as error:
            raise RunDirError(
                f"the run in {str(self.path)!r} still goes on: {self._driver()} writes there; wait until it has ended, "
                "or end it first (SIGINT once: the episodes in flight finish)"
            ) from error
        except OSError as error:
            raise RunDirError(f"cannot write into the run directory {str(self.path)!r}: {error}") from error

    def _driver(self) -> str:
        """Return who runs the run, in words."""
        try:
            driver = self.read_run()["driver"]
            return f"process {driver['pid']} on {driver['host']}"
        except (RunDirError, KeyError, TypeError):
            return "another process"

    def check_links(self, job_names: Iterable[str]) -> None:
        """Check that nothing that a driver or worker writes would land outside of this directory.

        Raises:
            RunDirError: If a file or folder of the run is a link that leads out of it.
        """
        inside = self.path.resolve()
        folders = [folder for name in job_names for folder in (self.job_folder(name), self.log_folder(name))]
        for path in (self.episodes_file, self.events_file, self.rank_file(0).parent, *folders):
            target = path.resolve()
            if path.is_symlink() and not target.is_relative_to(inside):
                raise RunDirError(
                    f"{path} is a link to {target}, outside of the run directory, where nothing must be written; "
                    "remove the link, or put what it leads to in its place"
                )

    @property
    def run_file(self) -> Path:
        """What ran: ``run.json``."""
        return self.path / "run.json"

    @property
    def summary_file(self) -> Path:
        """What came out: ``summary.json``."""
        return self.path / "summary.json"

    @property
    def episodes_file(self) -> Path:
        """One line per record: ``episodes.jsonl``, the source of truth."""
        return self.path / "episodes.jsonl"

    @property
    def events_file(self) -> Path:
        """One line per event: ``events.jsonl``."""
        return self.path / "events.jsonl"

    @property
    def replays_file(self) -> Path:
        """One line per episode that was run again: ``replays.jsonl``; exists once something was."""
        return self.path / "replays.jsonl"

    @property
    def report_file(self) -> Path:
        """The page to look at: ``report.html``."""
        return self.path / "report.html"

    def documents(self) -> list[Path]:
        """Return the files that are not a job's: those that a reader needs, ``run.json`` last."""
        logs = [self.episodes_file, self.events_file, self.replays_file]
        return [*logs, self.summary_file, self.report_file, self.run_file]

    def job_folder(self, job_name: str) -> Path:
        """Return the folder of a job's videos."""
        return self.path / job_name

    def log_folder(self, job_name: str) -> Path:
        """Return the folder of a job's worker logs."""
        return self.job_folder(job_name) / "logs"

    def unequal_folder(self, job_name: str) -> Path:
        """Return the folder of videos whose episode came to something else than its record says."""
        return self.job_folder(job_name) / "unequal-replays"

    def create_replay_folder(self, job_name: str) -> Path:
        """Create a folder, hidden beside the job's videos, in which episodes are run again; it is this caller's alone.

        Raises:
            RunDirError: If nothing can be written there.
        """
        number = 1
        while True:
            folder = self.job_folder(job_name) / f".replay-{number}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise RunDirError(f"cannot write into the run directory {str(self.path)!r}: {error}") from error
            else:
                return folder

    def rank_file(self, rank: int) -> Path:
        """Return where a rank of `torchrun` keeps its records until rank 0 merges them."""
        return self.path / "ranks" / f"episodes-{rank}.jsonl"

    def rank_files(self) -> list[Path]:
        """Return the files of ranks whose records have not been merged."""
        return sorted(self.rank_file(0).parent.glob("episodes-*.jsonl"))

    def write_run(self, content: Mapping[str, Any]) -> None:
        """Replace ``run.json`` atomically."""
        replace_json(self.run_file, content)

    def write_summary(self, content: Mapping[str, Any]) -> None:
        """Replace ``summary.json`` atomically."""
        replace_json(self.summary_file, content)

    def read_run(self) -> dict[str, Any]:
        """Return the content of ``run.json``.

        Raises:
            RunDirError: If it cannot be read.
        """
        try:
            content = json.loads(self.run_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirError(f"cannot read {self.run_file}: {error}") from error
        if not isinstance(content, dict):
            raise RunDirError(f"{self.run_file} holds no JSON object; it was not written by arena-ray")
        return content

    def read_summary(self) -> dict[str, Any] | None:
        """Return the content of ``summary.json``, ``None`` if there is none: a run writes it at its end."""
        try:
            content = json.loads(self.summary_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def records(self) -> Iterator[EpisodeRecord]:
        """Yield the records of ``episodes.jsonl`` in the order in which they were written.

        The videos that ``replays.jsonl`` adds to an episode, and that are still there (or in the run's storage), stand
        behind its own.

        Raises:
            RunDirError: If a whole line is not a record; a torn last line is passed over.
        """
        added = self._added_videos()
        for record in read_records(self.episodes_file):
            videos = added.get((record.job, record.episode))
            yield record if videos is None else dataclasses.replace(record, videos=by_path(record.videos, videos))

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of ``events.jsonl``.

        Raises:
            RunDirError: If a whole line is none; a torn last line is passed over.
        """
        yield from _read_lines(self.events_file, _event, "an event")

    def extended(self, reason: str) -> dict[str, int]:
        """Return the first episode that the last extension for a reason added, by job.

        Raises:
            RunDirError: If an event cannot be read.
        """
        found: dict[str, int] = {}
        for line in self.events():
            if line["kind"] == "run_extended" and line.get("reason") == reason:
                try:
                    found.update({name: int(change["was"]) for name, change in line["num_episodes"].items()})
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise RunDirError(f"{self.events_file}: a line {line['kind']} cannot be read: {error!r}") from error
        return found

    def replays(self) -> Iterator[EpisodeReplay]:
        """Yield the lines of ``replays.jsonl``.

        Raises:
            RunDirError: If a whole line is none; a torn last line is passed over.
        """
        yield from _read_lines(self.replays_file, EpisodeReplay.from_json, "a replay")

    def _has_storage(self) -> bool:
        """Return whether the run's videos are in a storage."""
        try:
            return self.read_run().get("storage") is not None
        except RunDirError:
            return False

    def _added_videos(self) -> dict[tuple[str, int], list[VideoFile]]:
        """Return by job and episode the videos of equal replays."""
        added: dict[tuple[str, int], list[VideoFile]] = {}
        elsewhere = self.replays_file.exists() and self._has_storage()
        for replay in self.replays():
            if replay.equal:
                there = [video for video in replay.videos if elsewhere or (self.path / video.path).is_file()]
                added.setdefault((replay.job, replay.episode), []).extend(there)
        return added


def _event(line: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(line["kind"], str):
        raise TypeError("its kind is no text")
    return line


def read_records(path: Path) -> Iterator[EpisodeRecord]:
    """Yield the records of a JSON-lines file as they stand there; see `RunDir.records`."""
    yield from _read_lines(path, EpisodeRecord.from_json, "an episode record")


def _read_lines(path: Path, parse: Callable[[Any], LineT], what: str) -> Iterator[LineT]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield parse(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunDirError(f"{path}, line {number}, is not {what}: {error!r}") from error


def by_path(*videos: Iterable[VideoFile]) -> tuple[VideoFile, ...]:
    """Return the videos in order; of two with one path, because the first was deleted, the second counts."""
    return tuple({video.path: video for some in videos for video in some}.values())


def move_to_free_name(source: Path, folder: Path) -> Path:
    """Move a file into a folder on the same file system, and return its new path.

    A name that is taken gets ``-replay1``, ``-replay2`` ... behind its stem: nothing is ever overwritten.

    Args:
        source: The file.
        folder: Created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = _split_name(source.name)
    target, number = folder / source.name, 0
    while target.exists():
        number += 1
        target = folder / f"{stem}-replay{number}{suffix}"
    os.replace(source, target)
    return target


def _split_name(name: str) -> tuple[str, str]:
    """Return the final stem, and what follows it: ``.mp4``, or ``.<attempt>.partial.mp4`` of a video that broke off."""
    match = re.fullmatch(r"(.+?)((?:\.\d+\.partial)?\.[^.]+)", name)
    return (name, "") if match is None else (match[1], match[2])


def run_document(
    *,
    status: str,
    jobs: Any,
    settings: Mapping[str, Any],
    source: Mapping[str, Any],
    python_path: Iterable[str],
    provenance: Provenance,
    driver: Mapping[str, Any],
    mark: str,
    tuning: Mapping[str, Any],
    stopped: Mapping[str, Any],
    storage: str | None,
    notes: list[str],
    started_at: str,
    resumed_at: Iterable[str],
    finished_at: str | None,
) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "schema": SCHEMA_VERSION,
        "status": status,
        "jobs": jobs,
        "settings": dict(settings),
        "source": dict(source),
        "python_path": [*python_path],
        **provenance.to_json(),
        "driver": dict(driver),
        "mark": mark,
        "tuning": dict(tuning),
        "stopped": dict(stopped),
        "storage": storage,
        "notes": notes,
        "started_at": started_at,
        "resumed_at": [*resumed_at],
        "finished_at": finished_at,
    }
