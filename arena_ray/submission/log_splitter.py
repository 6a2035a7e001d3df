"""Tells a job's log and its output apart, while it arrives in pieces."""

from __future__ import annotations

from typing import TextIO

from arena_ray.submission.on_head import RESULT_MARK


class LogSplitter:
    """Writes whole lines of the log to one stream, and keeps what stands behind the mark.

    Args:
        log: Where the log goes.

    Attributes:
        output: What the run printed to standard output; ``None`` until it did.
    """

    def __init__(self, log: TextIO) -> None:
        self.output: str | None = None
        self._log = log
        self._line = ""

    def write(self, text: str) -> None:
        """Take a piece in."""
        if self.output is not None:
            self.output += text
            return
        *lines, self._line = (self._line + text).split("\n")
        for number, line in enumerate(lines):
            if line == RESULT_MARK:
                self.output = "\n".join([*lines[number + 1 :], self._line])
                self._line = ""
                return
            self._log.write(f"{line}\n")
        self._log.flush()

    def close(self) -> None:
        """Write what stands behind the last line."""
        if self._line:
            self._log.write(f"{self._line}\n")
        self._line = ""
