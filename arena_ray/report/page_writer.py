"""Writes ``report.html`` beside a run that goes on, for a small part of its time."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from arena_ray.report.page import write_page
from arena_ray.report.run_reader import RunReader
from arena_ray.results import RunResult

logger = logging.getLogger(__name__)

#: The page is written at most so often, seconds.
PERIOD_S = 10.0

#: ...and so seldom that writing takes at most this share of the time.
SHARE = 0.02


class PageWriter:
    """Writes a run's page from time to time in a thread of its own, which only reads files; at the end once more.

    A page that cannot be written costs a line in the log, never the run.

    Args:
        run_dir: The run directory, in which ``run.json`` stands already.
        period_s: At most so often, seconds; ``None``: `PERIOD_S`.
    """

    def __init__(self, run_dir: Path, period_s: float | None = None) -> None:
        self._run_dir = run_dir
        self._period_s = PERIOD_S if period_s is None else period_s
        self._reader: RunReader | None = None
        self._thread: threading.Thread | None = None
        self._due = time.monotonic() + self._period_s

    def tick(self) -> None:
        """Begin to write the page if it is time; returns at once."""
        if time.monotonic() < self._due or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._write, name="report", daemon=True)
        self._thread.start()

    def finish(self, result: RunResult | None = None) -> None:
        """Write the page as it is at the end.

        Args:
            result: What the run came to, if that is known already: counting takes most of the time.
        """
        if self._thread is not None:
            self._thread.join()
        self._write(result)

    def _write(self, result: RunResult | None = None) -> None:
        began, cpu_s = time.monotonic(), time.thread_time()
        try:
            if self._reader is None:
                self._reader = RunReader(self._run_dir)
            self._reader.refresh()
            if result is not None:
                self._reader.result = result
            write_page(self._reader)
        except Exception as error:
            self._reader = None
            logger.warning("%s: the page could not be written: %s", self._run_dir, error)
        cost_s = max(time.thread_time() - cpu_s, 0.1 * (time.monotonic() - began))
        self._due = time.monotonic() + max(self._period_s, cost_s / SHARE)
