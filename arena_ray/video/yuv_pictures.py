"""RGB frames as the yuv420p pictures that H.264 encoders take."""

from __future__ import annotations

import collections
import functools
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arena_ray.video.encoder import RgbFrame, VideoFormat
from arena_ray.video.frames import pad_to_even

#: Left, top, right, bottom: even pixels, as a sample of colour stands for two by two.
Box: TypeAlias = tuple[int, int, int, int]

#: So many frames are taken to be all new at the beginning, and after one of which the box around what has changed is
#: more than this part: comparing costs half of what converting does.
BLIND_FRAMES = 31
_MOST_CHANGED = 0.25


def _load_opencv() -> Any:
    """Return OpenCV, which converts and scales three times as fast as FFmpeg's swscale; ``None`` without it."""
    try:
        import cv2
    except ImportError:  # Another OpenCV package that lacks libGL fails so too.
        return None
    cv2.setNumThreads(1)
    return cv2


_cv2 = _load_opencv()


class YuvPictures:
    """Pictures of the size of the video, used again and again.

    Most of what a camera shows stands still from one frame to the next: with OpenCV, only the box around what differs
    is converted, which gives the same picture and costs less than half.

    Args:
        video_format: Tells the size.
        count: After so many more frames a picture is used again; the encoder must have copied it by then.
    """

    def __init__(self, video_format: VideoFormat, count: int) -> None:
        self._size = video_format.encoded_size
        scratch = np.empty(math.prod(self._size) * 3 // 2, np.uint8)
        self._pictures = [_Picture(*self._size, scratch) for _ in range(count)] if _cv2 is not None else []
        self._changes = _Changes(*self._size, count)
        self._place = 0

    def picture_of(self, frame: RgbFrame) -> Any:
        """Return an `av.VideoFrame` that shows a frame, ``uint8[height, width, 3]``, scaled or padded to the size."""
        if _cv2 is None:
            return _by_swscale(frame, *self._size)
        if (frame.shape[1] + frame.shape[1] % 2, frame.shape[0] + frame.shape[0] % 2) != self._size:
            frame = _cv2.resize(frame, self._size, interpolation=_cv2.INTER_AREA)
        frame = pad_to_even(frame)
        if frame.strides[1:] != (3, 1):
            frame = np.ascontiguousarray(frame)
        picture = self._pictures[self._place]
        try:
            picture.convert(frame, self._changes.box_of(frame))
            self._place = (self._place + 1) % len(self._pictures)
        except BaseException:  # Ctrl-C in a notebook, where the user may go on: the picture does not show its frame.
            self._changes.forget()
            raise
        return picture.video_frame()


class _Picture:
    """One picture: what OpenCV writes, and what the encoder reads."""

    def __init__(self, width: int, height: int, scratch: npt.NDArray[np.uint8]) -> None:
        import av

        self._scratch = scratch
        self._whole = (0, 0, width, height)
        self._planes = np.empty((height * 3 // 2, width), np.uint8)
        self._luma = self._planes[:height]
        self._chroma = self._planes[height:].reshape(2, height // 2, width // 2)
        # PyAV (17 to 19) takes the picture for less high than it is if a quarter of the height is no whole number.
        self._shared = None if height % 4 else av.VideoFrame.from_numpy_buffer(self._planes, format="yuv420p")

    def convert(self, frame: RgbFrame, box: Box) -> None:
        """Show what a frame shows in the box; around it nothing has changed since the frame before in this picture."""
        left, top, right, bottom = box
        if box == self._whole:
            _cv2.cvtColor(frame, _cv2.COLOR_RGB2YUV_I420, dst=self._planes)
        elif left < right:
            rows, columns = bottom - top, right - left
            planes = self._scratch[: rows * columns * 3 // 2].reshape(rows * 3 // 2, columns)
            _cv2.cvtColor(frame[top:bottom, left:right], _cv2.COLOR_RGB2YUV_I420, dst=planes)
            _copy(planes[:rows], self._luma[top:bottom, left:right])
            for new, old in zip(planes[rows:].reshape(2, rows // 2, columns // 2), self._chroma, strict=True):
                _copy(new, old[top // 2 : bottom // 2, left // 2 : right // 2])

    def video_frame(self) -> Any:
        if self._shared is not None:
            return self._shared
        import av

        return av.VideoFrame.from_ndarray(self._planes, format="yuv420p")


class _Changes:
    """Where a frame differs from those before it."""

    def __init__(self, width: int, height: int, count: int) -> None:
        self._whole = (0, 0, width, height)
        self._none = (width, height, 0, 0)
        # Several bytes of a row are compared at a time, as many as divide it.
        self._unit = math.gcd(3 * width, 8)
        self._differs = np.empty((height, 3 * width // self._unit), np.bool_)
        self._last: npt.NDArray[np.uint8] = np.empty((height, width, 3), np.uint8)
        self._last_words = self._words(self._last)
        self._boxes = collections.deque([self._whole] * count, maxlen=count)
        self._blind = BLIND_FRAMES

    def forget(self) -> None:
        """Take the next frames to be all new."""
        self._boxes.extend([self._whole] * len(self._boxes))
        self._blind = BLIND_FRAMES

    def box_of(self, frame: RgbFrame) -> Box:
        """Return where the frame differs from the one that is `count` frames older, or more than that."""
        self._boxes.append(self._look_at(frame))
        lefts, tops, rights, bottoms = zip(*self._boxes, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def _look_at(self, frame: RgbFrame) -> Box:
        """Return where the frame differs from the last one."""
        if self._blind:
            self._blind -= 1
            if not self._blind:
                _copy(frame, self._last)
            return self._whole
        np.not_equal(self._words(frame), self._last_words, out=self._differs)
        first, top, words, rows = _cv2.boundingRect(self._differs.view(np.uint8))
        if not rows:
            return self._none
        left, right = first * self._unit // 3 & ~1, -(-(first + words) * self._unit // 6) * 2
        top, bottom = top & ~1, -(-(top + rows) // 2) * 2
        _copy(frame[top:bottom, left:right], self._last[top:bottom, left:right])
        if (bottom - top) * (right - left) > _MOST_CHANGED * frame.shape[0] * frame.shape[1]:
            self._blind = BLIND_FRAMES
        return left, top, right, bottom

    def _words(self, frame: RgbFrame) -> npt.NDArray[Any]:
        return frame.reshape(len(frame), -1).view(f"u{self._unit}")


def _copy(new: npt.NDArray[np.uint8], old: npt.NDArray[np.uint8]) -> None:
    """Write one array over another of its shape, and not by NumPy.

    A renderer that ends with a NumPy copy of its own, as pygame's do, takes 5 to 8 % longer after each copy of ours by
    NumPy, whatever is copied: 40 to 60 microseconds on an AMD Zen 5, presumably because of branches predicted badly.
    """
    _cv2.copyTo(new, None, old)


def _by_swscale(frame: RgbFrame, width: int, height: int) -> Any:
    import av

    rgb: Any = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pad_to_even(frame)), format="rgb24")
    return rgb.reformat(width=width, height=height, format="yuv420p", **_one_thread())


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
