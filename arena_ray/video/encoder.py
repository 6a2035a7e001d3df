"""What an encoder is, and which one to take.

An encoder writes one MP4 that can be played at any moment while it grows, so a killed process loses a few frames and
not the video. The backends: ``inline`` (`pyav_encoder`), ``process`` (`encoder_process`), ``nvenc`` (`pyav_encoder`),
``imageio-ffmpeg`` (`ffmpeg_encoder`).
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # The encoder process imports this module, and must start fast.
    from arena_ray.specs import EncoderName

logger = logging.getLogger(__name__)

RgbFrame: TypeAlias = npt.NDArray[np.uint8]

#: Where many machines share a disk, a write is a message: a quarter of a second of video goes in one.
NETWORK_FRAGMENT_S = 0.25

_NETWORK_FILE_SYSTEMS = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "glusterfs", "wekafs"]
)


class EncoderError(RuntimeError):
    """A video could not be encoded or written."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VideoFormat:
    """What goes into an encoder and what comes out.

    Attributes:
        width: Of the frames that are written, pixels.
        height: Of the frames that are written, pixels.
        fps: Frames per second of the file.
        preset: ``fast`` or ``small``.
        max_resolution: Longest side of the video, pixels; larger frames are scaled down. ``None``: no limit.
        fragment_s: Seconds of video per write; ``None``: each frame is written at once.
    """

    width: int
    height: int
    fps: float
    preset: Literal["fast", "small"] = "fast"
    max_resolution: int | None = None
    fragment_s: float | None = None

    @property
    def encoded_size(self) -> tuple[int, int]:
        """Width and height of the video: scaled down to the limit, then up to even numbers, as yuv420p needs."""
        longest = max(self.width, self.height)
        scale = Fraction(min(longest, self.max_resolution or longest), longest)
        width, height = (max(1, round(side * scale)) for side in (self.width, self.height))
        return width + width % 2, height + height % 2

    @property
    def rate(self) -> Fraction:
        """Frames per second as the file states them."""
        return Fraction(self.fps).limit_denominator(1001)


class Encoder(Protocol):
    """Writes one MP4 file frame by frame."""

    def write(self, frame: RgbFrame) -> None:
        """Append one frame, ``uint8[height, width, 3]``, strided as it may be. It may be reused afterwards.

        Raises:
            Exception: Whatever the backend raises; the file then takes no more frames.
        """
        ...

    def close(self) -> None:
        """Complete the file. A second call does nothing.

        Raises:
            Exception: If the file is not complete.
        """
        ...


class EncoderBackend(Protocol):
    """Opens encoders. Held by a recorder from its first frame to its last."""

    def open(self, path: Path, video_format: VideoFormat) -> Encoder:
        """Begin a file, overwritten if it exists.

        Raises:
            Exception: If it cannot be opened.
        """
        ...

    def close(self) -> None:
        """Let go of what encoders share; to be called when all files are closed. A second call does nothing."""
        ...


class PlainBackend:
    """A backend whose encoders share nothing.

    Args:
        new_encoder: The encoder's class.
    """

    def __init__(self, new_encoder: Callable[[Path, VideoFormat], Encoder]) -> None:
        self._new_encoder = new_encoder

    def open(self, path: Path, video_format: VideoFormat) -> Encoder:
        """Begin a file."""
        return self._new_encoder(path, video_format)

    def close(self) -> None:
        """Do nothing."""


def open_backend(name: EncoderName = "auto") -> EncoderBackend:
    """Return a backend that works here, by its name in `VideoRecordingCfg.encoder`.

    One that does not work here gives way to one that does, which is said once.

    Raises:
        EncoderError: If no video can be encoded here.
        ValueError: If there is no such backend.
    """
    if name not in ("auto", *_BACKENDS):
        known = ", ".join(repr(backend) for backend in ("auto", *_BACKENDS))
        raise ValueError(f"encoder is {name!r}, which does not exist; choose one of {known}")
    is_helper = multiprocessing.parent_process() is not None
    automatic = ("inline" if is_helper else choose_encoder(usable_cores()), "inline", "imageio-ffmpeg")
    failures = []
    for backend in dict.fromkeys(automatic if name == "auto" else (name, *automatic)):
        try:
            opened = open_exactly(backend)
        except Exception as error:
            failures.append(f"{backend}: {type(error).__name__}: {error}")
            continue
        if failures and name != "auto":
            _say_once(f"videos are encoded by {backend!r}, because {name!r} does not work here ({failures[0]})")
        return opened
    raise EncoderError(
        f"no video can be encoded here ({'; '.join(failures)}). Install PyAV (pip install av) or imageio-ffmpeg "
        "(pip install imageio-ffmpeg), or switch video recording off"
    )


def open_exactly(name: str) -> EncoderBackend:
    """Return the backend of this name and no other.

    Raises:
        Exception: If it does not work here.
    """
    return _BACKENDS[name]()


def choose_encoder(cores: float, num_stepping: int = 1) -> Literal["process", "inline"]:
    """Return what costs least: a process beside each one that steps where there is a core for it, else none.

    Args:
        cores: Cores that all of them share.
        num_stepping: Processes that step environments and record them.
    """
    return "process" if cores >= 2 * num_stepping else "inline"


def usable_cores() -> float:
    """Return how many cores this process may use: its affinity and its control group's quota say so."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def fragment_length(folder: Path) -> float | None:
    """Return the `VideoFormat.fragment_s` that suits the disk under `folder`."""
    return NETWORK_FRAGMENT_S if _file_system(folder) in _NETWORK_FILE_SYSTEMS else None


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds `folder`, e.g. ``ext4``; empty if that is not known.

    FUSE file systems (s3fs, sshfs) say ``fuse.s3fs`` and are taken for network ones.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found, longest, place = "", -1, folder.resolve()
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        if len(point) > longest and place.is_relative_to(point):
            found, longest = after.split()[0], len(point)
    return "nfs" if found.startswith("fuse.") else found


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        logger.warning("%s", text)


def _inline() -> EncoderBackend:
    from arena_ray.video import pyav_encoder

    pyav_encoder.probe()
    return PlainBackend(pyav_encoder.PyAvEncoder)


def _nvenc() -> EncoderBackend:
    from arena_ray.video import pyav_encoder

    pyav_encoder.probe_nvenc()
    return PlainBackend(pyav_encoder.NvencEncoder)


def _process() -> EncoderBackend:
    from arena_ray.video import encoder_process, pyav_encoder

    pyav_encoder.probe()
    return encoder_process.ProcessBackend(fallback=PlainBackend(pyav_encoder.PyAvEncoder))


def _imageio_ffmpeg() -> EncoderBackend:
    from arena_ray.video import ffmpeg_encoder

    ffmpeg_encoder.probe()
    return PlainBackend(ffmpeg_encoder.FfmpegPipeEncoder)


_BACKENDS: dict[str, Callable[[], EncoderBackend]] = {
    "inline": _inline,
    "process": _process,
    "nvenc": _nvenc,
    "imageio-ffmpeg": _imageio_ffmpeg,
}
