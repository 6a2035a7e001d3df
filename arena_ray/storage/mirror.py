"""Keeps a copy of the driver's own files in the storage, where the videos are."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from arena_ray.storage.upload import Uploader, UploadError, in_time

logger = logging.getLogger("arena_ray")

#: The files are sent at least so far apart, seconds; and so rarely that sending takes at most a twentieth of the time:
#: a storage cannot append, so logs are sent whole.
PERIOD_S, SHARE = 30.0, 0.05

#: A driver that must end at once waits so long for the last copy, seconds.
HURRY_S = 1.0


class Mirror:
    """Sends files whenever they have changed, in a thread of its own.

    Args:
        uri: The run's folder in the storage.
        files: Which files; those that do not exist are passed over.
        patience_s: How long a storage that takes nothing is tried, seconds.
    """

    def __init__(self, uri: str, files: Sequence[Path], patience_s: float) -> None:
        self._files = files
        self._patience_s = patience_s
        self._uploader = Uploader(uri, patience_s)
        self._sent: dict[Path, tuple[int, int]] = {}
        self._thread: threading.Thread | None = None
        self._next = time.monotonic()
        self.problem: str | None = None

    def tick(self) -> None:
        """Send what has changed, if it is time."""
        if time.monotonic() < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next = time.monotonic() + PERIOD_S
        self._thread = threading.Thread(target=self._send, name="mirror", daemon=True)
        self._thread.start()

    def _send(self) -> None:
        began = time.monotonic()
        self.problem = None
        with tempfile.TemporaryDirectory() as folder:
            for file in self._files:
                try:
                    self._send_if_changed(file, Path(folder) / file.name)
                except (OSError, UploadError) as error:
                    self.problem = f"{file.name}: {error}"
        self._next = time.monotonic() + max(PERIOD_S, (time.monotonic() - began) / SHARE)

    def _send_if_changed(self, file: Path, copy: Path) -> None:
        """Send a copy of a file, which may grow meanwhile."""
        try:
            status = file.stat()
        except FileNotFoundError:
            return
        state = (status.st_size, status.st_mtime_ns)
        if self._sent.get(file) == state:
            return
        shutil.copyfile(file, copy)
        self._uploader.upload(copy, file.name)
        self._sent[file] = state
        copy.unlink()

    def finish(self, *, in_a_hurry: bool) -> str | None:
        """Send what has changed a last time; return why that could not be done, if so."""
        timeout_s = HURRY_S if in_a_hurry else 2 * self._patience_s + 60

        def send_last() -> None:
            if self._thread is not None:
                self._thread.join()
            self._send()

        ended = in_time(send_last, timeout_s, "mirror")
        self._uploader.close()
        return self.problem if ended else f"not sent in {timeout_s:g} s"
