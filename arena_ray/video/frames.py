"""Turns what environments give for an image into ``uint8[H, W, 3]``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from arena_ray.video.encoder import RgbFrame

_UINT16_HIGH = 65535.0

# A float image that counts to 255 and is nowhere above this is as good as black.
_UNIT_RANGE_LIMIT = 2.0


class NotRgbError(ValueError):
    """An array is not an image."""


class RgbStream:
    """Converts the frames of one camera. Layout and scale are decided once, so that neither can jump.

    Args:
        high: Upper bound of the camera's space; ``None`` or not finite: float and uint16 are taken as [0, 1] and
            [0, 65535], or as [0, 255], by the first frame that is not black.
    """

    def __init__(self, high: float | None = None) -> None:
        self._layout: str | None = None
        self._scale: float | None = None
        self._high = high if high is not None and np.isfinite(high) and high > 0 else None

    def convert(self, frame: npt.NDArray[Any]) -> RgbFrame:
        """Return the frame as ``uint8[H, W, 3]``, strided as it may be; the same memory where that is possible.

        Args:
            frame: ``[H, W, 3]``, ``[H, W, 4]`` (alpha is dropped), ``[3, H, W]``, ``[4, H, W]``, or gray as ``[H, W]``,
                ``[H, W, 1]`` or ``[1, H, W]``; uint8, uint16, other integers (clipped to 255), bool or float (NaN
                becomes 0).

        Raises:
            NotRgbError: If the shape or dtype is another one, or one channel of numbers that look like a depth.
        """
        if frame.dtype == np.uint8 and frame.shape[2:] == (3,) and self._layout == "HWC" and frame.size:
            return frame  # What most frames are.
        layout = _layout_of(frame)
        if self._layout is None and layout is not None:
            self._layout = layout
        if layout is None or layout != self._layout:
            before = f" after frames in the layout {self._layout}" if self._layout is not None else ""
            raise NotRgbError(f"{frame.dtype}{list(frame.shape)} is not RGB, which is [H, W, 3]{before}")
        if layout.startswith("gray"):
            self._check_gray(frame)
        return _to_hwc(self._to_uint8(frame), layout)

    def _check_gray(self, frame: npt.NDArray[Any]) -> None:
        """Tell gray from depth and labels: one channel is a picture if it is uint8 or bool, or bounded like one."""
        if frame.dtype not in (np.uint8, np.bool_) and self._high not in (1.0, 255.0):
            raise NotRgbError(f"{frame.dtype}{list(frame.shape)} has one channel and looks like a depth, not like RGB")

    def _to_uint8(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        if frame.dtype == np.uint8:
            return frame
        if frame.dtype == np.bool_:
            return frame.astype(np.uint8) * np.uint8(255)
        if frame.dtype == np.uint16:
            return self._rescale(frame.astype(np.float32), _UINT16_HIGH, 255.0)
        if np.issubdtype(frame.dtype, np.integer):
            return np.asarray(np.clip(frame, 0, 255).astype(np.uint8))
        if not np.issubdtype(frame.dtype, np.floating):
            raise NotRgbError(f"an image of dtype {frame.dtype} is not RGB; use uint8 or float")
        numbers = np.nan_to_num(frame.astype(np.float32), posinf=255.0, neginf=0.0)
        return self._rescale(numbers, 1.0, _UNIT_RANGE_LIMIT)

    def _rescale(self, frame: npt.NDArray[np.float32], full: float, limit: float) -> npt.NDArray[np.uint8]:
        """Return the frame as uint8: its range is [0, `full`] or [0, 255], and `limit` tells which."""
        scale = self._scale
        if scale is None:
            brightest = self._high or float(frame.max())
            if brightest <= 0.0:
                return np.zeros(frame.shape, np.uint8)  # black on either scale; a later frame decides
            low, high = sorted((full, 255.0))
            scale = self._scale = 255.0 / (low if brightest <= limit else high)
        return np.asarray(np.clip(np.rint(frame * scale), 0, 255).astype(np.uint8))


def _layout_of(frame: npt.NDArray[Any]) -> str | None:
    """Return ``HWC``, ``CHW``, ``gray``, ``gray HW1`` or ``gray 1HW``; ``None`` for anything else."""
    if 0 in frame.shape:
        return None
    if frame.ndim == 2:
        return "gray"
    if frame.ndim != 3:
        return None
    first, last = frame.shape[0], frame.shape[2]
    if last in (3, 4):
        return "HWC"
    if last == 1:
        return "gray HW1"
    if first in (3, 4) and min(frame.shape[1:]) > 4:
        return "CHW"
    return "gray 1HW" if first == 1 else None


def _to_hwc(frame: npt.NDArray[np.uint8], layout: str) -> RgbFrame:
    if layout == "HWC":
        return frame[:, :, :3]
    if layout == "CHW":
        return frame[:3].transpose(1, 2, 0)
    plane = frame[:, :, 0] if layout == "gray HW1" else frame.reshape(frame.shape[-2:])
    return np.repeat(plane[:, :, np.newaxis], 3, axis=2)


def to_numpy(array: Any) -> npt.NDArray[Any]:
    """Return an array or tensor as a NumPy array in host memory, without a copy where that is possible."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        # NumPy has no bfloat16.
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        return np.asarray(array.numpy())
    return np.asarray(array)


def pad_to_even(frame: RgbFrame) -> RgbFrame:
    """Return the frame with its last row and column repeated where a size is odd; yuv420p halves both sizes."""
    height, width = frame.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return frame
    padded = np.empty((height + height % 2, width + width % 2, 3), np.uint8)
    padded[:height, :width] = frame
    padded[:height, width:] = frame[:, -1:]
    padded[height:] = padded[height - 1 : height]
    return padded


def frames_by_slot(rendered: Any, num_slots: int) -> list[npt.NDArray[Any]]:
    """Return a frame per slot, or one frame that shows all.

    Raises:
        NotRgbError: If it is no image.
    """
    if isinstance(rendered, (list, tuple)) and num_slots > 1 and len(rendered) == num_slots:
        return [to_numpy(_latest(frames)) for frames in rendered]
    pixels = to_numpy(_latest(rendered))
    if pixels.ndim == 4 and len(pixels) > 0:
        return list(pixels)
    if pixels.ndim != 3:
        raise NotRgbError(f"render() gave {type(rendered).__name__}, which is not an image")
    return [pixels]


def _latest(frames: Any) -> Any:
    while isinstance(frames, (list, tuple)) and frames:
        frames = frames[-1]
    return frames
