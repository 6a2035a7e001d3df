"""A run that is being looked at: its page, and what is new in it since somebody last asked."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from arena_ray.report.page import fragments, page_html
from arena_ray.report.run_reader import RunReader

#: Files are looked at anew at most so often, seconds...
LOOK_S = 0.5

#: ...and so seldom that counting takes at most this share of the time.
SHARE = 0.2


class ServedRun:
    """One run for any number of pages that are open; may be asked by several threads.

    Args:
        path: The run directory.

    Raises:
        RunDirError: If it is none, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._reader = RunReader(path)
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._page: tuple[str, str] | None = None
        self._parts: tuple[str, dict[str, Any]] | None = None

    def _look(self) -> None:
        if time.monotonic() < self._look_at:
            return
        began = time.monotonic()
        self._reader.refresh()
        _ = self._reader.result
        took_s = time.monotonic() - began
        self._look_at = time.monotonic() + max(LOOK_S, took_s / SHARE)

    def page(self) -> str:
        """Return the page as it is now.

        Raises:
            RunDirError: If something cannot be read.
        """
        with self._lock:
            self._look()
            stamp = self._reader.stamp
            if self._page is None or self._page[0] != stamp:
                self._page = stamp, page_html(self._reader, live=True)
            return self._page[1]

    def updates(self, epoch: str, after: int, errors: int, stamp: str) -> dict[str, Any]:
        """Return what is new to a page.

        Args:
            epoch: `RunReader.epoch` of the page.
            after: Its cursor.
            errors: How many errors it has.
            stamp: `RunReader.stamp` that it knows.

        Raises:
            RunDirError: If something cannot be read.
        """
        with self._lock:
            self._look()
            reader = self._reader
            if epoch != reader.epoch or not 0 <= after <= reader.cursor or errors < 0:
                return {"reset": True}
            if stamp == reader.stamp and after == reader.cursor:
                return {"changed": False, "stamp": stamp}
            rows, cursor = reader.changes_since(after)
            return {
                "changed": True,
                "stamp": reader.stamp,
                "rows": rows,
                "errors": reader.tables.errors.values[errors:],
                "content": {**self._changing(), "cursor": cursor},
                "fragments": self._fragments,
                "more": cursor < reader.cursor,
            }

    def _changing(self) -> dict[str, Any]:
        """Return what changes besides episodes, made once for all pages that ask."""
        stamp = self._reader.stamp
        if self._parts is None or self._parts[0] != stamp:
            self._parts = stamp, self._reader.changing()
            self._fragments = {name: str(text) for name, text in fragments(self._reader).items()}
        return self._parts[1]
