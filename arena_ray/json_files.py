"""JSON on disk that a crash leaves whole: documents are replaced at once, logs grow by whole lines."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from arena_ray.errors import StorageError


def strict_json(value: Any, **kwargs: Any) -> str:
    """Return `value` as JSON; NaN and infinities raise `ValueError` instead of becoming invalid JSON."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, **kwargs)


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees the old content or the new, never a part; it is on the disk on return."""
    replace_text(path, strict_json(content, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a text file as `replace_json` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force names that were made in a folder to the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class LineLog:
    """An append-only JSON-lines file. A line is with the operating system when `append` returns."""

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._length = os.fstat(self._file.fileno()).st_size
        if self._file.tell() == 0:
            sync_folder(path.parent)

    def append(self, content: Mapping[str, Any]) -> None:
        """Append one line, whole or not at all.

        Raises:
            StorageError: If the disk does not take it.
        """
        line = (strict_json(content) + "\n").encode("utf-8", "backslashreplace")
        try:
            self._cut_back()
            if self._file.write(line) != len(line):
                self._cut_back()
                raise OSError(errno.ENOSPC, "only a part of the line could be written")
        except OSError as error:
            raise self._storage_error(error) from error
        self._length += len(line)

    def _cut_back(self) -> None:
        """Cut off what a write that failed has left behind the last whole line."""
        if os.fstat(self._file.fileno()).st_size > self._length:
            os.ftruncate(self._file.fileno(), self._length)

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path} takes no more lines ({error.strerror}); make room on that disk")

    def sync(self) -> None:
        """Force what was appended to the disk.

        Raises:
            StorageError: If the disk does not take it; network file systems say so only now.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._storage_error(error) from error

    def close(self) -> None:
        """Sync and close; may be called again.

        Raises:
            StorageError: If the disk does not take what was appended; the file is closed then too.
        """
        if not self._file.closed:
            try:
                self.sync()
            finally:
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
