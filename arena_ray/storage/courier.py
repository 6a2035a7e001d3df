"""Delivers what a worker wrote: an event that names files passes on when its files have arrived."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Protocol

from arena_ray.dispatch import WorkerSetup
from arena_ray.records import EpisodeRecord
from arena_ray.storage.base import NOT_DELIVERED
from arena_ray.storage.pieces import read_pieces
from arena_ray.storage.upload import Uploader
from arena_ray.worker_events import Delivering, Event, Notice

logger = logging.getLogger("arena_ray")

#: With more files on their way a worker waits before it steps on, so that its disk does not fill.
MOST_ON_THE_WAY = 16

#: A worker that waits for its files says so at least so often, seconds.
SAY_PERIOD_S = 1.0


class Courier(Protocol):
    """Delivers files of a worker's folder."""

    def send(self, events: tuple[Event, ...]) -> Iterator[tuple[Event, ...]]:
        """Yield these events, or, while their files are on their way, earlier ones."""
        ...

    def finish(self) -> Iterator[tuple[Event, ...]]:
        """Yield what is left when everything has been delivered, logs too."""
        ...

    def send_file(self, path: str) -> Iterator[tuple[Event, ...]]:
        """Deliver one file that no event names, and remove it."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


def open_courier(setup: WorkerSetup, folder: Path) -> Courier:
    """Return what delivers a worker's files.

    Args:
        setup: Says where to.
        folder: Where the worker writes: the run directory itself, or a staging folder.
    """
    if setup.storage is not None:
        return UploadCourier(folder, setup.storage, setup.storage_timeout_s)
    return PieceCourier(folder) if setup.collect else NoCourier()


class NoCourier:
    """Everything is where it belongs as soon as it is written."""

    def send(self, events: tuple[Event, ...]) -> Iterator[tuple[Event, ...]]:
        """Yield the events."""
        yield events

    def finish(self) -> Iterator[tuple[Event, ...]]:
        """Yield nothing."""
        yield from ()

    def send_file(self, path: str) -> Iterator[tuple[Event, ...]]:
        """Yield nothing."""
        yield from ()

    def close(self) -> None:
        """Do nothing."""


class PieceCourier:
    """Streams files to the driver, in pieces, in front of the event that names them.

    Args:
        folder: Where the worker writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, events: tuple[Event, ...]) -> Iterator[tuple[Event, ...]]:
        """Yield the files of the events, then these."""
        passed: list[Event] = []
        for event in events:
            lost = {}
            for path in files_of(event):
                try:
                    yield from self._pieces(path)
                except OSError as error:
                    lost[path] = f"{type(error).__name__}: {error}"
                _remove(self._folder / path)
            passed.append(without(event, lost))
        yield tuple(passed)

    def _pieces(self, path: str) -> Iterator[tuple[Event, ...]]:
        for piece in read_pieces(self._folder, path):
            yield (piece,)

    def finish(self) -> Iterator[tuple[Event, ...]]:
        """Yield the logs."""
        for path in log_files(self._folder):
            with contextlib.suppress(OSError):
                yield from self._pieces(path)

    def send_file(self, path: str) -> Iterator[tuple[Event, ...]]:
        """Yield a file, and remove it."""
        with contextlib.suppress(OSError):
            yield from self._pieces(path)
        _remove(self._folder / path)

    def close(self) -> None:
        """Do nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Shipment:
    """An event, and the uploads that it waits for, by path."""

    event: Event
    uploads: Mapping[str, futures.Future[None]]

    @property
    def arrived(self) -> bool:
        return all(upload.done() for upload in self.uploads.values())


class UploadCourier:
    """Uploads files into a storage while the worker steps on; an event passes when its files are there.

    Args:
        folder: Where the worker writes.
        uri: The run's folder in the storage.
        patience_s: See `Uploader`.
    """

    def __init__(self, folder: Path, uri: str, patience_s: float) -> None:
        self._folder = folder
        self._uploader = Uploader(uri, patience_s)
        self._shipments: list[_Shipment] = []

    def send(self, events: tuple[Event, ...]) -> Iterator[tuple[Event, ...]]:
        """Begin to send the files of the events; yield those without, and those whose files have arrived."""
        named = [(event, files_of(event)) for event in events]
        held = [(event, paths) for event, paths in named if paths]
        self._shipments += [_Shipment(event, {path: self._submit(path) for path in paths}) for event, paths in held]
        ended = tuple(event.episode for event, _ in held if isinstance(event, EpisodeRecord))
        on_the_way = (Delivering(episodes=ended),) if ended else ()
        yield (*(event for event, paths in named if not paths), *on_the_way, *self._arrived())
        while self._number_on_the_way() > MOST_ON_THE_WAY:
            yield self._wait()

    def _submit(self, path: str) -> futures.Future[None]:
        upload = self._uploader.submit(self._folder / path, path)
        upload.add_done_callback(lambda _: _remove(self._folder / path))
        return upload

    def _number_on_the_way(self) -> int:
        return sum(not upload.done() for shipment in self._shipments for upload in shipment.uploads.values())

    def _arrived(self) -> tuple[Event, ...]:
        """Take off the shipments that have arrived; return their events."""
        arrived = [shipment for shipment in self._shipments if shipment.arrived]
        self._shipments = [shipment for shipment in self._shipments if shipment not in arrived]
        return tuple(without(shipment.event, _problems(shipment.uploads)) for shipment in arrived)

    def _wait(self) -> tuple[Event, ...]:
        """Wait for some upload, not for long; return what to say."""
        running = [upload for shipment in self._shipments for upload in shipment.uploads.values() if not upload.done()]
        futures.wait(running, timeout=SAY_PERIOD_S, return_when=futures.FIRST_COMPLETED)
        return (Delivering(episodes=()), *self._arrived())

    def finish(self) -> Iterator[tuple[Event, ...]]:
        """Wait until everything has arrived, then send the logs."""
        while self._shipments:
            yield self._wait()
        logs = {path: self._uploader.submit(self._folder / path, path) for path in log_files(self._folder)}
        while any(not upload.done() for upload in logs.values()):
            futures.wait(logs.values(), timeout=SAY_PERIOD_S)
            yield (Delivering(episodes=()),)
        for path, problem in _problems(logs).items():
            logger.warning("%s: %s", path, problem)

    def send_file(self, path: str) -> Iterator[tuple[Event, ...]]:
        """Upload a file, and remove it."""
        futures.wait([self._submit(path)])
        yield from ()

    def close(self) -> None:
        """Let go of the threads."""
        self._uploader.close()


def files_of(event: Event) -> list[str]:
    """Return the files that an event names, relative to where the worker writes."""
    if isinstance(event, EpisodeRecord):
        return [video.path for video in event.videos if video.bytes]
    return [event.message] if isinstance(event, Notice) and event.topic == "chunk_video" else []


def without(event: Event, lost: Mapping[str, str]) -> Event:
    """Return an event that says which of its files were lost, and why."""
    if not lost:
        return event
    if isinstance(event, EpisodeRecord):
        videos = (
            dataclasses.replace(video, bytes=0, error=f"{NOT_DELIVERED}: {lost[video.path]}")
            if video.path in lost
            else video
            for video in event.videos
        )
        return dataclasses.replace(event, videos=tuple(videos))
    (reason,) = lost.items()
    return Notice(topic=f"not_delivered {reason[0]}", message=f"{reason[0]}: {NOT_DELIVERED}: {reason[1]}")


def log_files(folder: Path) -> list[str]:
    """Return the logs of workers in a folder."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/logs/*.log"))]


def _problems(uploads: Mapping[str, futures.Future[None]]) -> dict[str, str]:
    failed = {path: upload.exception() for path, upload in uploads.items()}
    return {path: str(error) for path, error in failed.items() if error is not None}


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
