"""What stands in the picture when the overlay is on, and what an environment says of success."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from arena_ray.video.encoder import EncoderError, RgbFrame
from arena_ray.video.frames import to_numpy

#: Where success stands when nobody says; Gymnasium-Robotics and Stable-Baselines3 use the first.
SUCCESS_KEYS = ("is_success", "success")

#: Height of a picture in which the text is drawn at its natural size, pixels.
_NATURAL_HEIGHT = 720


@dataclasses.dataclass(slots=True)
class Caption:
    """What is told of an episode that runs."""

    episode: int
    step: int = 0
    reward: float | None = None
    episode_return: float = 0.0
    success: bool | None = None

    def add_step(self, reward: float, success: bool | None) -> None:
        """Take in one step."""
        self.step += 1
        self.reward = reward
        self.episode_return += reward
        self.success = success

    def lines(self) -> list[str]:
        """Return the text."""
        reward = "" if self.reward is None else f"  reward {self.reward:.3g}  return {self.episode_return:.4g}"
        success = "" if self.success is None else f"  success {'yes' if self.success else 'no'}"
        return [f"episode {self.episode}  step {self.step}", f"{reward}{success}".strip()]


def draw(frame: RgbFrame, lines: list[str]) -> RgbFrame:
    """Return a copy of a frame, ``uint8[H, W, 3]``, with text in its upper left corner."""
    import cv2

    picture = np.array(frame, order="C")
    scale = max(0.35, picture.shape[0] / _NATURAL_HEIGHT)
    height = round(30 * scale)
    for row, line in enumerate(lines, start=1):
        for colour, thickness in ((0, 3), (255, 1)):
            place, tint = (4, height * row), (colour, colour, colour)
            cv2.putText(
                picture,
                line,
                place,
                cv2.FONT_HERSHEY_SIMPLEX,
                scale,
                tint,
                max(1, round(thickness * scale)),
                cv2.LINE_AA,
            )
    return picture


def check_overlay() -> None:
    """Check that text can be drawn here.

    Raises:
        EncoderError: If not.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise EncoderError(
            f"the overlay needs OpenCV, which does not work here ({error}); run: pip install opencv-python-headless"
        ) from error


def success_in(info: Any, index: int, key: str | None, *, ended: bool) -> bool | None:
    """Return what the info of a step says of a slot's success; ``None`` if nothing.

    Args:
        info: Of one environment, or of a batch as Gymnasium's vector environments and Isaac Lab give it.
        index: Position of the slot in a batch.
        key: Where success stands; ``None``: ``is_success``, then ``success``.
        ended: Whether the slot's episode ended, so that ``final_info`` is about it.
    """
    if not isinstance(info, Mapping):
        return None
    final = info.get("final_info")
    source = final if ended and isinstance(final, Mapping) else info
    for name in SUCCESS_KEYS if key is None else (key,):
        if name in source and row_of(source.get(f"_{name}", True), index):
            value = row_of(source[name], index)
            return None if value is None else bool(value)
    return None


def row_of(values: Any, index: int) -> float | None:
    """Return a slot's number in a batch, or the number of a single environment; ``None`` if it is none."""
    try:
        numbers = to_numpy(values)
        return float(numbers.reshape(-1)[index] if numbers.ndim else numbers)
    except (TypeError, ValueError, IndexError):
        return None
