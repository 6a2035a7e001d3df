"""The life of one video file, and the names that files have."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from arena_ray.records import VideoFile
from arena_ray.video.encoder import Encoder, EncoderError, EncoderFactory, RgbFrame
from arena_ray.video.frames import pad_to_even

logger = logging.getLogger(__name__)

_LONGEST_NAME = 100


class EpisodeVideo:
    """One MP4 file, encoded while the episode runs.

    The file is called ``<stem>.<attempt>.partial.mp4`` from its first byte and gets its final name ``<stem>.mp4`` in
    one step (`os.replace`) when it is complete. Nothing here raises because of the encoder or the disk: the first
    failure is logged, the video takes no more frames, and what was written keeps its partial name.

    Args:
        folder: Where the file is written; exists.
        stem: Final name without ``.mp4``; see `camera_stem` and `viewport_stem`.
        kind: What is reported.
        camera: What is reported; ``None`` for the viewport.
        attempt: The episode's attempt, part of the partial name.
        fps: Frames per second.
        encoder: See `resolve_encoder`.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        *,
        kind: Literal["viewport", "camera"],
        camera: str | None,
        attempt: int,
        fps: float,
        encoder: EncoderFactory,
    ) -> None:
        self.path = folder / f"{stem}.mp4"
        self.partial_path = folder / f"{stem}.{attempt}.partial.mp4"
        self.frames = 0
        self._attempt = attempt
        self._kind: Literal["viewport", "camera"] = kind
        self._camera = camera
        self._fps = fps
        self._new_encoder = encoder
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._failed = False

    def add(self, frame: RgbFrame) -> None:
        """Append a frame, ``uint8[H, W, 3]``; the array may be reused afterwards."""
        if self._failed:
            return
        try:
            self._write(frame)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Take no more frames, because of `error`; what was written stays under the partial name."""
        if self._failed:
            return
        self._failed = True
        logger.warning(
            "%s stops after %d frames: %s: %s. The rollout goes on without this video.",
            self.path.name,
            self.frames,
            type(error).__name__,
            error,
        )
        with contextlib.suppress(Exception):
            self._close_encoder()

    def finish(self, *, cut_off: bool = False) -> VideoFile | None:
        """Complete the file, give it its final name, and report it.

        Args:
            cut_off: Whether the file ends before its episode did; it is then reported as partial, and what other
                attempts left stays.

        Returns:
            The report; ``None`` if nothing was written. A video that failed keeps its partial name and is reported so.
        """
        kept = self.keep()
        if kept is None or self._failed:
            return kept
        try:
            os.replace(self.partial_path, self.path)
        except OSError as error:
            self.fail(error)
            return kept
        if not cut_off:
            self._remove_leftovers()
        return self._report(self.path, partial=cut_off)

    def keep(self) -> VideoFile | None:
        """Close the file, leave it under its partial name, and report it; ``None`` if nothing was written."""
        try:
            self._close_encoder()
        except Exception as error:
            self.fail(error)
        if self.frames == 0 or _size_of(self.partial_path) == 0:
            self._remove(self.partial_path)
            return None
        return self._report(self.partial_path, partial=True)

    def discard(self) -> None:
        """Close and remove the file."""
        with contextlib.suppress(Exception):
            self._close_encoder()
        self._remove(self.partial_path)

    def _write(self, frame: RgbFrame) -> None:
        size = frame.shape[:2]
        frame = pad_to_even(frame)
        if self._encoder is None:
            self._size = size
            self._encoder = self._new_encoder(self.partial_path, frame.shape[1], frame.shape[0], self._fps)
        elif size != self._size:
            raise EncoderError(f"the frame size changed from {self._size} to {size} (H, W) within the episode")
        self._encoder.write(frame)
        self.frames += 1

    def _close_encoder(self) -> None:
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.close()

    def _report(self, path: Path, *, partial: bool) -> VideoFile:
        return VideoFile(
            kind=self._kind,
            camera=self._camera,
            path=str(path.resolve()),
            frames=self.frames,
            fps=self._fps,
            bytes=_size_of(path),
            partial=partial,
        )

    def _remove_leftovers(self) -> None:
        """Remove what earlier attempts at this episode left, in whatever slot they ran.

        There is nothing to look for in a first attempt: listing a folder of 10,000 videos costs some milliseconds.
        """
        if self._attempt == 1:
            return
        parts = re.split(r"-env\d+-", self.path.stem, maxsplit=1)
        earlier = re.compile(r"-env\d+-".join(re.escape(part) for part in parts) + r"(\.\d+\.partial)?\.mp4")
        for path in self.path.parent.iterdir():
            if path != self.path and earlier.fullmatch(path.name):
                self._remove(path)

    @staticmethod
    def _remove(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be removed: %s", path, error)


def camera_stem(prefix: str, slot: int, camera: str, episode: int) -> str:
    """Return the final name, without ``.mp4``, of a camera's video of one episode."""
    return f"{prefix}-env{slot}-{camera}-episode-{episode}"


def viewport_stem(prefix: str, slot: int, episode: int) -> str:
    """Return the final name, without ``.mp4``, of the viewport's video of one episode."""
    return f"{prefix}-env{slot}-episode-{episode}"


def clip_stem(prefix: str, chunk_index: int) -> str:
    """Return the final name, without ``.mp4``, of a viewport that shows all slots in one frame."""
    return f"{prefix}-chunk{chunk_index}"


def safe_name(name: str) -> str:
    """Return `name` as a part of a file name: ``[A-Za-z0-9._-]``, at most 100 characters, no ``..`` or dot in front."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_LONGEST_NAME]
    return re.sub(r"^\.|\.(?=\.)|(?<=\.)\.", "_", cleaned) or "_"


def distinct_name(name: str, taken: Iterable[str]) -> str:
    """Return the safe form of `name`, with ``-2``, ``-3`` ... behind it if that is taken."""
    safe, used = safe_name(name), set(taken)
    number, distinct = 1, safe
    while distinct in used:
        number += 1
        distinct = f"{safe}-{number}"
    return distinct


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
