"""The life of one video file, the video of one episode, and the names that files have."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from arena_ray.records import VideoFile
from arena_ray.video.encoder import Encoder, EncoderBackend, RgbFrame, VideoFormat

logger = logging.getLogger(__name__)

_LONGEST_NAME = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VideoSettings:
    """What the videos of one recorder have in common.

    Attributes:
        folder: Where the files are written; exists.
        kind: What is reported.
        fps: Frames per second.
        backend: Opens the encoders.
        preset: ``fast`` or ``small``.
        max_resolution: Longest side, pixels; ``None``: no limit.
        fragment_s: Seconds of video per write; ``None``: each frame is written at once.
        max_frames: Frames after which a video takes no more; ``None``: no limit.
    """

    folder: Path
    kind: Literal["viewport", "camera"]
    fps: float
    backend: EncoderBackend
    preset: Literal["fast", "small"] = "fast"
    max_resolution: int | None = None
    fragment_s: float | None = None
    max_frames: int | None = None

    def format_of(self, frame: RgbFrame) -> VideoFormat:
        """Return the format of a file of such frames."""
        height, width = frame.shape[:2]
        return VideoFormat(
            width=width,
            height=height,
            fps=self.fps,
            preset=self.preset,
            max_resolution=self.max_resolution,
            fragment_s=self.fragment_s,
        )


class EpisodeVideo:
    """The video of one episode, encoded while the episode runs: one MP4 file, or one per size of its frames.

    A file is called ``<stem>.<attempt>.partial.mp4`` from its first byte and gets its final name ``<stem>.mp4`` in
    one step (`os.replace`) when the video is complete. Nothing here raises because of the encoder or the disk: the
    first failure is logged and reported, the video takes no more frames, and what was written keeps its partial name.

    Args:
        settings: What it shares with others.
        stem: Final name without ``.mp4``; see `camera_stem` and `viewport_stem`.
        camera: What is reported; ``None`` for the viewport.
        attempt: The episode's attempt, part of the partial name.
    """

    def __init__(self, settings: VideoSettings, stem: str, *, camera: str | None = None, attempt: int = 1) -> None:
        self.frames = 0
        self.error: str | None = None
        self._settings = settings
        self._stem = stem
        self._camera = camera
        self._attempt = attempt
        self._files: list[_File] = []
        self._is_cut = False

    def takes_frames(self) -> bool:
        """Whether the video takes the next frame; asked before each one that there is, because it may cost a render.

        A video that has its greatest length takes none, and then knows that its episode went on.
        """
        self._is_cut = self._is_cut or self.frames == self._settings.max_frames
        return self.error is None and not self._is_cut

    def add(self, frame: RgbFrame) -> None:
        """Append a frame, ``uint8[H, W, 3]``; the array may be reused afterwards."""
        if not self.takes_frames():
            return
        try:
            self._file_for(frame).write(frame)
        except Exception as error:
            self.fail(error)
            return
        self.frames += 1

    def _file_for(self, frame: RgbFrame) -> _File:
        """Return the file that takes a frame of this size."""
        if self._files and self._files[-1].shape == frame.shape:
            return self._files[-1]
        if self._files:
            self._files[-1].close()
        stem = self._stem if not self._files else f"{self._stem}-segment-{len(self._files)}"
        self._files.append(_File(self._settings, stem, self._attempt, frame))
        return self._files[-1]

    def fail(self, error: Exception) -> None:
        """Take no more frames, because of `error`; what was written stays under the partial name."""
        if self.error is not None:
            return
        self.error = f"{type(error).__name__}: {error}"
        logger.warning(
            "%s.mp4 stops after %d frames: %s. The rollout goes on without this video.",
            self._stem,
            self.frames,
            self.error,
        )
        for file in self._files:
            with contextlib.suppress(Exception):
                file.close()

    def finish(self, *, cut_off: bool = False, ending: str = "") -> tuple[VideoFile, ...]:
        """Complete the files, give them their final names, and report them.

        Args:
            cut_off: Whether the video ends before its episode did; it is then reported as partial, and what other
                attempts left stays.
            ending: Put behind the stem of the final name.

        Returns:
            A report per file. A video that failed keeps its partial name and is reported so.
        """
        self.close()
        if self.error is not None:
            return self.keep()
        try:
            for file in self._files:
                file.rename(ending)
        except OSError as error:
            self.fail(error)
            return self.keep()
        if not cut_off:
            self._remove_leftovers()
        return self._report(partial=cut_off or self._is_cut)

    def keep(self) -> tuple[VideoFile, ...]:
        """Close the files, leave them under their partial names, and report them."""
        self.close()
        return self._report(partial=True)

    def drop(self) -> None:
        """Close and remove the files of an episode that was completed, and what other attempts at it left."""
        self.discard()
        self._remove_leftovers()

    def discard(self) -> None:
        """Close and remove the files."""
        for file in self._files:
            with contextlib.suppress(Exception):
                file.close()
            file.remove()

    def close(self) -> None:
        """Close the files; they keep their partial names until `finish`."""
        try:
            for file in self._files:
                file.close()
        except Exception as error:
            self.fail(error)

    def _report(self, *, partial: bool) -> tuple[VideoFile, ...]:
        reports = []
        for segment, file in enumerate(self._files):
            size = _size_of(file.path)
            if size == 0:
                file.remove()
            reports.append(
                VideoFile(
                    kind=self._settings.kind,
                    camera=self._camera,
                    path=str(file.path),
                    frames=file.frames if self.error is None else _frames_in(file.path),
                    fps=self._settings.fps,
                    bytes=size,
                    partial=partial,
                    segment=segment,
                    error=self.error,
                )
            )
        return tuple(report for report in reports if report.bytes or report.error)

    def _remove_leftovers(self) -> None:
        """Remove what earlier attempts at this episode left, in whatever slot they ran.

        There is nothing to look for in a first attempt: listing a folder of 10,000 videos costs some milliseconds.
        """
        if self._attempt == 1:
            return
        written = {file.path for file in self._files}
        stem = r"-env\d+-".join(re.escape(part) for part in re.split(r"-env\d+-", self._stem, maxsplit=1))
        earlier = re.compile(stem + r"(-segment-\d+)?(-success|-failure)?(\.\d+\.partial)?\.mp4")
        for path in self._settings.folder.iterdir():
            if path not in written and earlier.fullmatch(path.name):
                _remove(path)


class _File:
    """One MP4 file, of frames of one size."""

    def __init__(self, settings: VideoSettings, stem: str, attempt: int, frame: RgbFrame) -> None:
        self.shape = frame.shape
        self.frames = 0
        self.path = settings.folder / f"{stem}.{attempt}.partial.mp4"
        self._stem = stem
        self._open = (settings.backend, settings.format_of(frame))
        self._encoder: Encoder | None = None

    def write(self, frame: RgbFrame) -> None:
        if self._encoder is None:
            backend, video_format = self._open
            self._encoder = backend.open(self.path, video_format)
        self._encoder.write(frame)
        self.frames += 1

    def close(self) -> None:
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.close()

    def rename(self, ending: str) -> None:
        final = self.path.with_name(f"{self._stem}{ending}.mp4")
        os.replace(self.path, final)
        self.path = final

    def remove(self) -> None:
        _remove(self.path)


def camera_stem(prefix: str, slot: int, camera: str, episode: int) -> str:
    """Return the final name, without ``.mp4``, of a camera's video of one episode."""
    return f"{prefix}-env{slot}-{camera}-episode-{episode}"


def viewport_stem(prefix: str, slot: int | None, episode: int) -> str:
    """Return the final name, without ``.mp4``, of the viewport's video of one episode."""
    return f"{prefix}-episode-{episode}" if slot is None else f"{prefix}-env{slot}-episode-{episode}"


def clip_stem(prefix: str, chunk_index: int) -> str:
    """Return the final name, without ``.mp4``, of a viewport that shows all slots in one frame."""
    return f"{prefix}-chunk{chunk_index}"


def outcome_ending(success: bool | None) -> str:
    """Return what stands behind the stem when names tell the outcome."""
    return "" if success is None else "-success" if success else "-failure"


def safe_name(name: str) -> str:
    """Return `name` as a part of a file name: ``[A-Za-z0-9._-]``, at most 100 characters, no ``..`` or dot in front."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_LONGEST_NAME]
    return re.sub(r"^\.|\.(?=\.)|(?<=\.)\.", "_", cleaned) or "_"


def plain_name(name: str) -> str:
    """Return `name` as it is but for what would leave the folder."""
    return re.sub(r"[/\\\0]", "_", name)


def distinct_name(name: str, taken: Iterable[str]) -> str:
    """Return the safe form of `name`, with ``-2``, ``-3`` ... behind it if that is taken."""
    safe, used = safe_name(name), set(taken)
    number, distinct = 1, safe
    while distinct in used:
        number += 1
        distinct = f"{safe}-{number}"
    return distinct


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", path, error)


def _frames_in(path: Path) -> int:
    """Return how many frames a file holds whose encoder failed: it may have taken more than it wrote."""
    from arena_ray.video.remux import count_frames

    try:
        return count_frames(path)
    except Exception:
        return 0


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
