"""Uploads with retries, some at a time, each by a thread with a connection of its own."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from pathlib import Path

from arena_ray.errors import ArenaError
from arena_ray.storage.address import open_storage
from arena_ray.storage.base import Storage

logger = logging.getLogger("arena_ray")

#: A worker sends so many files at a time.
THREADS = 2

#: The first wait after a failure, and the longest, seconds; it doubles in between.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 10.0


class UploadError(ArenaError):
    """A file could not be stored in the time that it had."""


class Uploader:
    """Sends files into a storage.

    A storage that fails is tried again until `patience_s` have passed since it last took something, counted over all
    files: in a long outage only the first file waits for so long.

    Args:
        uri: The folder in the storage.
        patience_s: See above.
    """

    def __init__(self, uri: str, patience_s: float) -> None:
        self._uri, self._patience_s = uri, patience_s
        self._waiting: queue.SimpleQueue[tuple[futures.Future[None], Path, str] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._connection = threading.local()
        self._failing_since: float | None = None
        self._closed = False

    def submit(self, source: Path, path: str) -> futures.Future[None]:
        """Send a file in a thread; what comes of it is `UploadError` or nothing."""
        upload: futures.Future[None] = futures.Future()
        self._waiting.put((upload, source, path))
        if len(self._threads) < THREADS:
            # Not those of `concurrent.futures`, which keep a process that is to end at once.
            self._threads.append(threading.Thread(target=self._work, name="upload", daemon=True))
            self._threads[-1].start()
        return upload

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            upload, source, path = work
            try:
                self.upload(source, path)
            except BaseException as error:
                upload.set_exception(error)
            else:
                upload.set_result(None)

    def upload(self, source: Path, path: str) -> None:
        """Send a file, and check that the storage has all of it.

        Raises:
            UploadError: If it has not, and the patience is at an end.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                self._try(source, path)
                self._failing_since = None
                return
            except Exception as error:
                since = self._failing_since = self._failing_since or time.monotonic()
                gone = not source.exists()
                if gone or self._closed or time.monotonic() - since + wait_s > self._patience_s:
                    raise UploadError(f"{type(error).__name__}: {error}") from error
                logger.warning("%s: %s; tried again in %.2g s", path, error, wait_s)
            time.sleep(wait_s * random.uniform(0.5, 1.0))  # Workers that failed together should not return together.
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _try(self, source: Path, path: str) -> None:
        storage = getattr(self._connection, "storage", None)
        self._connection.storage = None
        storage = storage or open_storage(self._uri)
        put_whole(storage, source, path)
        self._connection.storage = storage

    def close(self) -> None:
        """Let go of the threads; what has not been sent is not tried again."""
        self._closed = True
        for _ in self._threads:
            self._waiting.put(None)


def send_all(uri: str, folder: Path, files: Iterable[Path], patience_s: float) -> str | None:
    """Send files of a folder under their names relative to it; return what went wrong first, if anything did.

    Files that do not exist are passed over.
    """
    uploader, problem = Uploader(uri, patience_s), None
    for file in files:
        if file.exists():
            try:
                uploader.upload(file, file.relative_to(folder).as_posix())
            except UploadError as error:
                problem = problem or f"{file.name}: {error}"
    uploader.close()
    return problem


def put_whole(storage: Storage, source: Path, path: str) -> None:
    """Store a file.

    Raises:
        UploadError: If the storage tells another size than the file has.
    """
    size = source.stat().st_size
    stored = storage.put(source, path)
    if stored != size:
        raise UploadError(f"the storage has {stored} of {size} bytes")


def in_time(action: Callable[[], None], timeout_s: float, name: str) -> bool:
    """Run an action in a thread; return whether it ended in time. It does not keep the process."""
    thread = threading.Thread(target=action, name=name, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return not thread.is_alive()
