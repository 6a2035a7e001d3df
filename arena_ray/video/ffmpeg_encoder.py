"""H.264 through the ffmpeg program that imageio-ffmpeg brings: the fallback where PyAV does not work."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from arena_ray.video.encoder import EncoderError, RgbFrame, VideoFormat
from arena_ray.video.frames import pad_to_even
from arena_ray.video.pyav_encoder import EVERY_FRAME, FRAGMENTED, HYBRID, X264

_FFMPEG_END_S = 60.0


class FfmpegPipeEncoder:
    """libx264 in an ffmpeg process of its own, fed through a pipe.

    The process is started here and not by `imageio_ffmpeg.write_frames`: that one uses ``preexec_fn``, which can
    deadlock in threaded programs (imageio-ffmpeg #58), and hides ffmpeg's exit status.

    Args:
        path: File to write, overwritten if it exists.
        video_format: What to write.
    """

    def __init__(self, path: Path, video_format: VideoFormat) -> None:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        self._path = path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [program, *_arguments(path, video_format, _movflags(program))],
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
            self._process.stdin.write(np.ascontiguousarray(pad_to_even(frame)).data)
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


def probe() -> None:
    """Find the program and ask it for its abilities.

    Raises:
        Exception: If that does not work here.
    """
    import imageio_ffmpeg

    _movflags(imageio_ffmpeg.get_ffmpeg_exe())


@functools.lru_cache(maxsize=4)
def _movflags(program: str) -> str:
    command = [program, "-hide_banner", "-h", "muxer=mp4"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    return f"{HYBRID if HYBRID in listed else FRAGMENTED}+{EVERY_FRAME}"


def _arguments(path: Path, video_format: VideoFormat, movflags: str) -> list[str]:
    width, height = (side + side % 2 for side in (video_format.width, video_format.height))
    source = f"-y -v error -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {video_format.rate} -i - -an"
    scale = "-vf scale={}:{}:flags=area".format(*video_format.encoded_size)
    options: Any = {"pix_fmt": "yuv420p", "threads": "1", **X264[video_format.preset]}
    codec = "-c:v libx264 " + " ".join(f"-{key} {value}" for key, value in options.items())
    target = ["-movflags", movflags, "-flush_packets", "1", "-f", "mp4", str(path)]
    return [*source.split(), *scale.split(), *codec.split(), *target]
