"""The driver's side of `--collect`: puts pieces together into files of the run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeAlias

from arena_ray.records import EpisodeRecord
from arena_ray.storage.courier import without
from arena_ray.worker_events import FilePiece

#: Whose pieces these are: job and chunk.
Sender: TypeAlias = tuple[str, int]


@dataclasses.dataclass
class _Arrival:
    """A file of which not all pieces are there."""

    target: Path
    temporary: Path
    file: IO[bytes]
    digest: Any


class FileCollector:
    """Writes files that arrive in pieces. A file gets its name when it is whole; what goes wrong costs that file.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrivals: dict[tuple[Sender, str], _Arrival] = {}
        self._problems: dict[tuple[Sender, str], str] = {}

    def take(self, sender: Sender, piece: FilePiece) -> None:
        """Take in a piece; those of a file come in order."""
        key = (sender, piece.path)
        if piece.offset == 0:
            self._give_up(key)
            self._problems.pop(key, None)
        elif key in self._problems:
            return
        try:
            self._write(key, piece)
        except (OSError, ValueError) as error:
            self._give_up(key)
            self._problems[key] = f"{type(error).__name__}: {error}"

    def _write(self, key: tuple[Sender, str], piece: FilePiece) -> None:
        arrival = self._begin(key, piece.path) if piece.offset == 0 else self._arrivals[key]
        if arrival.file.tell() != piece.offset:
            raise ValueError(f"a piece at {piece.offset} arrived where {arrival.file.tell()} bytes are")
        arrival.file.write(piece.data)
        arrival.digest.update(piece.data)
        if piece.sha256 is None:
            return
        if arrival.digest.hexdigest() != piece.sha256:
            raise ValueError("its digest is another one than where it was written")
        arrival.file.close()
        os.replace(arrival.temporary, arrival.target)
        del self._arrivals[key]

    def _begin(self, key: tuple[Sender, str], path: str) -> _Arrival:
        target = self._target(path)
        (job, chunk) = key[0]
        temporary = target.with_name(f".{target.name}.{chunk}.tmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(self._folder.resolve()):
            raise ValueError(f"{target.parent} of job {job!r} leads out of the run directory")
        arrival = _Arrival(target, temporary, temporary.open("wb"), hashlib.sha256())
        self._arrivals[key] = arrival
        return arrival

    def _target(self, path: str) -> Path:
        """Return where a file belongs; what comes from a worker may name anything."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or len(parts) < 2:
            raise ValueError(f"{path!r} is no path of a job's file")
        return self._folder.joinpath(*parts)

    def _give_up(self, key: tuple[Sender, str]) -> None:
        arrival = self._arrivals.pop(key, None)
        if arrival is not None:
            with contextlib.suppress(OSError):
                arrival.file.close()
            with contextlib.suppress(OSError):
                arrival.temporary.unlink(missing_ok=True)

    def judged(self, sender: Sender, record: EpisodeRecord) -> EpisodeRecord:
        """Return a record that says which of its videos did not arrive."""
        keys = [(sender, video.path) for video in record.videos]
        lost = {path: self._problems.pop((sender, path)) for _, path in keys if (sender, path) in self._problems}
        judged = without(record, lost)
        assert isinstance(judged, EpisodeRecord)
        return judged

    def drop(self, sender: Sender) -> None:
        """Forget what a worker that is gone had not sent to the end."""
        for key in [key for key in self._arrivals if key[0] == sender]:
            self._give_up(key)
        for key in [key for key in self._problems if key[0] == sender]:
            del self._problems[key]
