"""A JSON-lines file that somebody else appends to, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arena_ray.errors import RunDirError


class Shrunk(Exception):
    """The file is shorter than what was read of it: it is another one now."""


class GrowingLines:
    """The lines of a file that are new since the last look; a torn last line waits for its end.

    Args:
        path: The file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lines = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines that were added.

        Raises:
            Shrunk: If the file is shorter than before.
            RunDirError: If a line is no JSON object.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if file.seek(0, 2) < self._offset:
                raise Shrunk
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._lines += 1
                yield self._parsed(line)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            content = json.loads(line)
        except ValueError as error:
            raise RunDirError(f"{self._path}, line {self._lines}, is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise RunDirError(f"{self._path}, line {self._lines}, is no JSON object")
        return content
