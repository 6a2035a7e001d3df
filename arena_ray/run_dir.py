"""The run directory: every file name, atomic replacement, append-only logs, and reading them back."""

from __future__ import annotations

import dataclasses
import datetime
import errno
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from arena_ray.errors import RunDirError, StorageError
from arena_ray.records import SCHEMA_VERSION, EpisodeRecord, EpisodeReplay, VideoFile

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
            return path
    except OSError as error:
        raise RunDirError(
            f"cannot create a run directory in {str(stem.parent)!r}: {error}; choose another base"
        ) from error
    raise RunDirError(f"{stem} and 9,999 names after it exist; choose another base")


def strict_json(value: Any, **kwargs: Any) -> str:
    """Return `value` as JSON; NaN and infinities raise `ValueError` instead of becoming invalid JSON."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, **kwargs)


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
        if not run_dir.run_file.is_file():
            raise RunDirError(
                f"{str(path)!r} is not a run directory: it has no run.json; give the folder that a run printed"
            )
        return run_dir

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

        The videos that ``replays.jsonl`` adds to an episode, and that are still there, stand behind its own.

        Raises:
            RunDirError: If a whole line is not a record; a torn last line is passed over.
        """
        added = self._added_videos()
        for record in read_records(self.episodes_file):
            videos = added.get((record.job, record.episode))
            yield record if videos is None else dataclasses.replace(record, videos=_by_path(record.videos, videos))

    def replays(self) -> Iterator[EpisodeReplay]:
        """Yield the lines of ``replays.jsonl``.

        Raises:
            RunDirError: If a whole line is none; a torn last line is passed over.
        """
        yield from _read_lines(self.replays_file, EpisodeReplay.from_json, "a replay")

    def _added_videos(self) -> dict[tuple[str, int], list[VideoFile]]:
        """Return by job and episode the videos of equal replays."""
        added: dict[tuple[str, int], list[VideoFile]] = {}
        for replay in self.replays():
            if replay.equal:
                there = [video for video in replay.videos if (self.path / video.path).is_file()]
                added.setdefault((replay.job, replay.episode), []).extend(there)
        return added


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


def _by_path(*videos: Iterable[VideoFile]) -> tuple[VideoFile, ...]:
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


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(strict_json(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class LineLog:
    """An append-only JSON-lines file. A line is with the operating system when `append` returns."""

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def append(self, content: Mapping[str, Any]) -> None:
        """Append one line, whole or not at all.

        Raises:
            StorageError: If the disk does not take it.
        """
        line = (strict_json(content) + "\n").encode("utf-8", "backslashreplace")
        before = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                os.ftruncate(self._file.fileno(), before)
                raise OSError(errno.ENOSPC, "only a part of the line could be written")
        except OSError as error:
            raise StorageError(
                f"{self._path} takes no more lines ({error.strerror}); make room on that disk"
            ) from error

    def sync(self) -> None:
        """Force what was appended to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close; may be called again."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> LineLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line that a crash left without its end."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        tail_start = size
        while tail_start > 0:
            step = min(65_536, tail_start)
            tail_start -= step
            file.seek(tail_start)
            end = file.read(step).rfind(b"\n")
            if end >= 0:
                file.truncate(tail_start + end + 1)
                return
        file.truncate(0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a run comes from; stands in ``run.json``."""

    argv: tuple[str, ...]
    git: Mapping[str, Any] | None
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``run.json``."""
        return {**dataclasses.asdict(self), "argv": [*self.argv]}


def run_document(
    *,
    status: str,
    jobs: Any,
    settings: Mapping[str, Any],
    python_path: Iterable[str],
    provenance: Provenance,
    notes: list[str],
    started_at: str,
    finished_at: str | None,
) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "schema": SCHEMA_VERSION,
        "status": status,
        "jobs": jobs,
        "settings": dict(settings),
        "python_path": [*python_path],
        **provenance.to_json(),
        "notes": notes,
        "started_at": started_at,
        "finished_at": finished_at,
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and cleanness of the git work tree that `folder` lies in, or ``None``."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
