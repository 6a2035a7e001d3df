"""Video encoders: one small interface, H.264 in process through PyAV or through an ffmpeg process.

Both write an MP4 that can be played at any moment while it grows, so a killed process loses a frame or two and not
the video. FFmpeg 7.1 and later does that with ``hybrid_fragmented`` (fragments while writing, an ordinary MP4 after
closing); older builds write a fragmented MP4.
"""

from __future__ import annotations

import contextlib
import functools
import io
import subprocess
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from arena_ray.specs import EncoderName

RgbFrame: TypeAlias = npt.NDArray[np.uint8]

_HYBRID = "hybrid_fragmented+frag_every_frame"
_FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof+frag_every_frame"
# zerolatency: no frame waits inside x264, so a crash costs at most the frame that the muxer still holds.
_X264 = {"preset": "ultrafast", "tune": "zerolatency"}
_FFMPEG_END_S = 60.0


class EncoderError(RuntimeError):
    """A video could not be encoded or written."""


class Encoder(Protocol):
    """Writes one MP4 file frame by frame; the constructor opens it: ``(path, width, height, fps)``."""

    def write(self, frame: RgbFrame) -> None:
        """Append one frame, ``uint8[height, width, 3]``, C-contiguous. The array may be reused afterwards.

        Raises:
            Exception: Whatever the backend raises; the file then takes no more frames.
        """

    def close(self) -> None:
        """Complete the file. A second call does nothing.

        Raises:
            Exception: If the file is not complete.
        """


EncoderFactory: TypeAlias = Callable[[Path, int, int, float], Encoder]


class PyAvEncoder:
    """libx264 in this process (PyAV): ultrafast, one thread, yuv420p.

    Args:
        path: File to write, overwritten if it exists; created by the first frame.
        width: Pixels; even.
        height: Pixels; even.
        fps: Frames per second.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        self._stream = _PyAvStream(str(path), width, height, fps, _pyav_movflags())

    def write(self, frame: RgbFrame) -> None:
        """Append one frame, ``uint8[height, width, 3]``."""
        self._stream.write(frame)

    def close(self) -> None:
        """Complete the file."""
        self._stream.close()


class _PyAvStream:
    def __init__(self, target: str | IO[bytes], width: int, height: int, fps: float, movflags: str) -> None:
        import av

        # flush_packets: FFmpeg otherwise holds back 256 KiB, which a killed process loses.
        options = {"movflags": movflags, "flush_packets": "1"}
        self._container: Any = av.open(target, "w", format="mp4", options=options)
        self._video: Any = self._container.add_stream("libx264", rate=_rate(fps), options=_X264)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.codec_context.thread_count = 1
        self._frames = 0

    def write(self, frame: RgbFrame) -> None:
        import av

        rgb: Any = av.VideoFrame.from_numpy_buffer(frame, format="rgb24")
        picture = rgb.reformat(format="yuv420p", **_one_thread())
        picture.pts = self._frames
        # The first packet writes the header too. Never call start_encoding(): closing a hybrid file that has a
        # header but no packet is a segmentation fault (PyAV 18.1, FFmpeg 8.1).
        self._container.mux(self._video.encode(picture))
        self._frames += 1

    def close(self) -> None:
        container, self._container = self._container, None
        if container is None:
            return
        try:
            if self._frames:
                container.mux(self._video.encode(None))
        finally:
            container.close()


class FfmpegPipeEncoder:
    """libx264 in the ffmpeg program that imageio-ffmpeg brings, fed through a pipe; one process per video.

    The process is started here and not by `imageio_ffmpeg.write_frames`: that one uses ``preexec_fn``, which can
    deadlock in threaded programs (imageio-ffmpeg #58), and hides ffmpeg's exit status.

    Args:
        path: File to write, overwritten if it exists.
        width: Pixels; even.
        height: Pixels; even.
        fps: Frames per second.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        self._path = path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [program, *_ffmpeg_arguments(path, width, height, fps, _ffmpeg_movflags(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for us; ffmpeg ends when its input does
        )

    def write(self, frame: RgbFrame) -> None:
        """Append one frame, ``uint8[height, width, 3]``.

        Raises:
            EncoderError: If ffmpeg has ended; the message is ffmpeg's own.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame.data)
        except (OSError, ValueError) as error:
            raise EncoderError(self._complaint()) from error

    def close(self) -> None:
        """Complete the file and wait for ffmpeg.

        Raises:
            EncoderError: If ffmpeg failed, hung, or left no file.
        """
        if self._errors.closed:
            return
        complaint = self._complaint()
        self._errors.close()
        if self._process.returncode or not self._path.is_file():
            raise EncoderError(complaint)

    def _complaint(self) -> str:
        """Wait for ffmpeg's end and say how it was."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a broken pipe: the exit status says more
            self._process.stdin.close()
        try:
            self._process.wait(_FFMPEG_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-500:]
        return f"ffmpeg ended with status {self._process.returncode}: {said or 'it said nothing'}"


def resolve_encoder(name: EncoderName) -> EncoderFactory:
    """Return what opens a video file: ``factory(path, width, height, fps) -> Encoder``.

    Args:
        name: ``inline``, ``imageio-ffmpeg``, or ``auto`` for the first of them that works here.

    Raises:
        ValueError: If there is no such encoder.
        EncoderError: If it does not work here; says what to install.
    """
    if name not in ("auto", *_BACKENDS):
        raise ValueError(f"encoder is {name!r}, which does not exist; choose one of 'auto', 'inline', 'imageio-ffmpeg'")
    found = []
    for backend in _BACKENDS if name == "auto" else (name,):
        probe, factory = _BACKENDS[backend]
        try:
            probe()
            return factory
        except Exception as error:
            found.append(f"{backend}: {type(error).__name__}: {error}")
    raise EncoderError(
        f"no video can be encoded here ({'; '.join(found)}). Install PyAV (pip install av) or imageio-ffmpeg "
        "(pip install imageio-ffmpeg), or switch video recording off"
    )


@functools.lru_cache(maxsize=1)
def _pyav_movflags() -> str:
    """Return the flags that this build takes; an unknown flag shows only when the first packet is written."""
    import av

    av.logging.set_level(None)  # its log callback takes the GIL and can deadlock threaded programs (PyAV #751)
    try:
        _write_tiny_video(_HYBRID)
    except av.error.FFmpegError:
        _write_tiny_video(_FRAGMENTED)
        return _FRAGMENTED
    return _HYBRID


def _write_tiny_video(movflags: str) -> None:
    stream = _PyAvStream(io.BytesIO(), 16, 16, 30.0, movflags)
    stream.write(np.zeros((16, 16, 3), np.uint8))
    stream.close()


@functools.lru_cache(maxsize=1)
def _one_thread() -> dict[str, int]:
    """Return the option that keeps swscale from starting threads; PyAV versions without it start none."""
    import av

    picture: Any = av.VideoFrame(16, 16, "rgb24")
    try:
        picture.reformat(format="yuv420p", threads=1)
    except TypeError:
        return {}
    return {"threads": 1}


@functools.lru_cache(maxsize=4)
def _ffmpeg_movflags(program: str) -> str:
    command = [program, "-hide_banner", "-h", "muxer=mp4"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    return _HYBRID if "hybrid_fragmented" in listed else _FRAGMENTED


def _ffmpeg_arguments(path: Path, width: int, height: int, fps: float, movflags: str) -> list[str]:
    source = f"-y -v error -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {_rate(fps)} -i - -an"
    codec = "-c:v libx264 -pix_fmt yuv420p -threads 1 " + " ".join(f"-{key} {value}" for key, value in _X264.items())
    return [*source.split(), *codec.split(), "-movflags", movflags, "-flush_packets", "1", "-f", "mp4", str(path)]


def _ffmpeg_probe() -> str:
    import imageio_ffmpeg

    return _ffmpeg_movflags(imageio_ffmpeg.get_ffmpeg_exe())


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


_BACKENDS: dict[str, tuple[Callable[[], object], EncoderFactory]] = {
    "inline": (_pyav_movflags, PyAvEncoder),
    "imageio-ffmpeg": (_ffmpeg_probe, FfmpegPipeEncoder),
}
