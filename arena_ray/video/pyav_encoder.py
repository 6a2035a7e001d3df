"""H.264 through PyAV: in the calling thread on the CPU (libx264), or on a GPU that can (NVENC).

FFmpeg 7.1 and later writes ``hybrid_fragmented`` files: fragments while writing, an ordinary MP4 after closing. Older
builds write fragmented MP4.
"""

from __future__ import annotations

import functools
import io
import time
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from arena_ray.video.encoder import EncoderError, RgbFrame, VideoFormat
from arena_ray.video.yuv_pictures import YuvPictures

HYBRID = "hybrid_fragmented"
FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
EVERY_FRAME = "frag_every_frame"

#: So many frames are encoded at once, each: the file is there, or its error, and a crash leaves something to see.
FIRST_FRAMES = 8

#: Later ones are encoded several in a row, as many as these bytes of memory hold, if they come faster than this.
BATCH_BYTES = 4 * 2**20
LONGEST_WAIT_S = 0.025

# zerolatency: no frame waits inside x264, so a crash costs at most what the muxer still holds. A constant quantiser
# spares x264 the look at a half-size picture that rate control needs: a quarter of the time, at the same quality.
X264 = {
    "fast": {"preset": "ultrafast", "tune": "zerolatency", "qp": "20"},
    "small": {"preset": "veryfast", "tune": "zerolatency", "crf": "25"},
}
_NVENC = {
    "fast": {"preset": "p1", "tune": "ull", "rc": "constqp", "qp": "20", "delay": "0", "zerolatency": "1"},
    "small": {"preset": "p4", "tune": "ull", "rc": "constqp", "qp": "28", "delay": "0", "zerolatency": "1"},
}

# ITU-R BT.601, limited range: what both converters give. Players guess BT.709 for large pictures unless told.
_BT601, _LIMITED_RANGE = 6, 1


class _Stream:
    """One file with one H.264 stream."""

    def __init__(
        self,
        target: str | IO[bytes],
        video_format: VideoFormat,
        muxer: dict[str, str],
        codec: str,
        options: dict[str, str],
        batch: int = 1,
    ) -> None:
        import av

        # flush_packets: FFmpeg otherwise holds back 256 KiB, which a killed process loses.
        container: Any = av.open(target, "w", format="mp4", options={**muxer, "flush_packets": "1"})
        video: Any = cast(Any, container).add_stream(codec, rate=video_format.rate, options=options)
        video.width, video.height = video_format.encoded_size
        video.pix_fmt, video.codec_context.thread_count = "yuv420p", 1
        video.codec_context.colorspace, video.codec_context.color_range = _BT601, _LIMITED_RANGE
        self._container: Any = container
        self._video: Any = video
        self._converted = YuvPictures(video_format, batch)
        self._batch = batch
        self._pictures: list[Any] = []
        self._frames = 0
        self._encoded_at = 0.0

    def write(self, frame: RgbFrame) -> None:
        """Append one frame, ``uint8[height, width, 3]``."""
        picture = self._converted.picture_of(frame)
        picture.pts = self._frames
        self._frames += 1
        self._pictures.append(picture)
        full = self._frames % self._batch == 0 or self._frames <= FIRST_FRAMES
        if full or time.monotonic() - self._encoded_at >= LONGEST_WAIT_S:
            self._encode_pictures()
            self._encoded_at = time.monotonic()

    def _encode_pictures(self) -> None:
        pictures, self._pictures = self._pictures, []
        for picture in pictures:
            # The first packet writes the header too. Never call start_encoding(): closing a hybrid file that has a
            # header but no packet is a segmentation fault (PyAV 17 and 18, FFmpeg 8.1).
            self._container.mux(self._video.encode(picture))

    def close(self) -> None:
        """Complete the file."""
        if self._container is None:
            return
        try:
            if self._frames:
                self._encode_pictures()
                self._container.mux(self._video.encode(None))
        finally:
            container, self._container = self._container, None
            container.close()


class PyAvEncoder(_Stream):
    """libx264 in this process, one thread, yuv420p.

    Args:
        path: File to write, overwritten if it exists; created by the first frame.
        video_format: What to write.
        batch: Most frames that are encoded one after the other. A caller that works between two frames leaves the
            encoder cold caches: the first frame of a batch takes up to twice as long as the fourth. One that comes
            25 ms after the last batch or later is encoded at once, with what waits. A crash loses at most a batch, what
            waits and the frame that the muxer holds, and with `VideoFormat.fragment_s` a fragment.
    """

    codec = "libx264"
    options = X264

    def __init__(self, path: Path, video_format: VideoFormat, batch: int = 7) -> None:
        fragments = EVERY_FRAME if video_format.fragment_s is None else None
        muxer = {"movflags": "+".join(filter(None, (_movflags(), fragments)))}
        if video_format.fragment_s is not None:
            muxer["frag_duration"] = str(round(video_format.fragment_s * 1e6))
        width, height = video_format.encoded_size
        batch = min(batch, max(1, BATCH_BYTES // (width * height * 3 // 2)))
        super().__init__(str(path), video_format, muxer, self.codec, self.options[video_format.preset], batch)


class NvencEncoder(PyAvEncoder):
    """NVENC, where opening a context works; H100 and H200 have no such hardware."""

    codec = "h264_nvenc"
    options = _NVENC


def probe() -> None:
    """Encode a tiny video.

    Raises:
        Exception: If that does not work here.
    """
    _movflags()


@functools.lru_cache(maxsize=1)
def probe_nvenc() -> None:
    """Open a context on the GPU and encode a frame.

    Raises:
        EncoderError: If that does not work here.
    """
    import av

    _movflags()
    try:
        _write_small_video({"movflags": _movflags()}, NvencEncoder.codec, _NVENC["fast"], side=256)
    except (av.error.FFmpegError, ValueError) as error:
        raise EncoderError(f"this machine's GPUs cannot encode H.264 ({getattr(error, 'strerror', error)})") from error


@functools.lru_cache(maxsize=1)
def _movflags() -> str:
    """Return the flags that this build takes; an unknown flag shows only when the first packet is written."""
    import av

    av.logging.set_level(None)  # its log callback takes the GIL and can deadlock threaded programs (PyAV #751)
    for movflags in (HYBRID, FRAGMENTED):
        try:
            _write_small_video({"movflags": f"{movflags}+{EVERY_FRAME}"}, PyAvEncoder.codec, X264["fast"])
        except av.error.FFmpegError:
            if movflags == FRAGMENTED:
                raise
        else:
            return movflags
    raise AssertionError("unreachable")


def _write_small_video(muxer: dict[str, str], codec: str, options: dict[str, str], side: int = 16) -> None:
    stream = _Stream(io.BytesIO(), VideoFormat(width=side, height=side, fps=30.0), muxer, codec, options)
    stream.write(np.zeros((side, side, 3), np.uint8))
    stream.close()
