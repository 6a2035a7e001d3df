"""Turns what environments give for an image into ``uint8[H, W, 3]``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from arena_ray.video.encoder import RgbFrame

# A float image that counts to 255 and is nowhere above this is as good as black.
_UNIT_RANGE_LIMIT = 2.0


class NotRgbError(ValueError):
    """An array is not a colour image."""


class RgbStream:
    """Converts the frames of one camera. How floats are scaled is decided once, so brightness cannot jump.

    Args:
        high: Upper bound of the camera's space; ``None`` or not finite: floats are taken as [0, 1] if the first frame
            that is not black is nowhere above 1, else as [0, 255].
    """

    def __init__(self, high: float | None = None) -> None:
        self._scale: float | None = None
        if high is not None and np.isfinite(high) and high > 0:
            self._scale = 255.0 if high <= _UNIT_RANGE_LIMIT else 1.0

    def convert(self, frame: npt.NDArray[Any]) -> RgbFrame:
        """Return the frame as ``uint8[H, W, 3]``, C-contiguous; the same memory if it was that already.

        Args:
            frame: ``[H, W, 3]``, or ``[H, W, 4]`` whose alpha is dropped; uint8, other integers (clipped), bool or
                float (NaN becomes 0).

        Raises:
            NotRgbError: If the shape or dtype is another one.
        """
        if frame.ndim != 3 or frame.shape[2] not in (3, 4) or 0 in frame.shape:
            raise NotRgbError(f"{frame.dtype}{list(frame.shape)} is not RGB, which is [H, W, 3]")
        return np.ascontiguousarray(self._to_uint8(frame[:, :, :3]))

    def _to_uint8(self, frame: npt.NDArray[Any]) -> RgbFrame:
        if frame.dtype == np.uint8:
            return frame
        if frame.dtype == np.bool_:
            return frame.astype(np.uint8) * np.uint8(255)
        if np.issubdtype(frame.dtype, np.integer):
            return np.asarray(np.clip(frame, 0, 255).astype(np.uint8))
        if not np.issubdtype(frame.dtype, np.floating):
            raise NotRgbError(f"an image of dtype {frame.dtype} is not RGB; use uint8 or float")
        return self._float_to_uint8(np.nan_to_num(frame.astype(np.float32), posinf=255.0, neginf=0.0))

    def _float_to_uint8(self, frame: npt.NDArray[np.float32]) -> RgbFrame:
        scale = self._scale
        if scale is None:
            brightest = float(frame.max())
            if brightest <= 0.0:
                return np.zeros(frame.shape, np.uint8)  # black on either scale; a later frame decides
            scale = self._scale = 255.0 if brightest <= _UNIT_RANGE_LIMIT else 1.0
        return np.asarray(np.clip(np.rint(frame * scale), 0, 255).astype(np.uint8))


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
