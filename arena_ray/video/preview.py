"""A video as a small animated GIF, for what plays no MP4."""

from __future__ import annotations

import io
import math
from pathlib import Path

#: A preview has at most so many frames, and pixels on its longest side.
MOST_FRAMES, LONGEST_SIDE = 60, 320


def animated_gif(path: Path, frames: int, fps: float) -> tuple[bytes, int, int]:
    """Return a video as a GIF, its width and its height; it takes as long as the video, with fewer frames.

    Args:
        path: The video.
        frames: How many frames it has, at least 1.
        fps: Frames per second.

    Raises:
        ValueError: If no frame can be read.
    """
    import av
    from PIL import Image

    stride = math.ceil(frames / MOST_FRAMES)
    pictures = []
    with av.open(str(path)) as video:
        for index, frame in enumerate(video.decode(video=0)):
            if index % stride == 0 or index == frames - 1:
                scale = min(1.0, LONGEST_SIDE / max(frame.width, frame.height))
                size = {"width": max(1, round(frame.width * scale)), "height": max(1, round(frame.height * scale))}
                pictures.append(Image.fromarray(frame.reformat(**size, format="rgb24").to_ndarray()))
    if not pictures:
        raise ValueError(f"{path} has no frame that can be read")
    target = io.BytesIO()
    duration_ms = max(20, round(1000 * stride / fps))
    pictures[0].save(
        target, format="GIF", save_all=True, append_images=pictures[1:], duration=duration_ms, loop=0, optimize=False
    )
    return target.getvalue(), pictures[0].width, pictures[0].height
