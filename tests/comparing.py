"""What must be equal whatever ran beside an episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from arena_ray import RunResult
from arena_ray.records import EpisodeRecord

#: Fields that say when and where an episode ran, not what it came to.
WHERE_AND_WHEN = ("started_at", "duration_s", "chunk", "attempt", "slot", "worker", "videos")


def substance(record: EpisodeRecord) -> dict[str, Any]:
    """Return what an episode came to."""
    row = record.to_json()
    for key in WHERE_AND_WHEN:
        row.pop(key)
    if row["error"] is not None:
        row["error"].pop("traceback")
    return row


def outcome(result: RunResult) -> list[dict[str, Any]]:
    """Return what all episodes came to, in order."""
    return [substance(record) for record in result.records()]


def decode(path: Path) -> npt.NDArray[np.uint8]:
    """Return the frames of a video, ``uint8[n, h, w, 3]``."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def shown_steps(frames: npt.NDArray[np.uint8]) -> list[int]:
    """Return the step that each frame of `worlds.Walk` shows."""
    return [round(float(frame.mean()) / 4) for frame in frames]


def videos_by_episode(result: RunResult) -> dict[tuple[str, int, str, str | None], npt.NDArray[np.uint8]]:
    """Return the decoded videos by job, episode, kind and camera."""
    return {
        (record.job, record.episode, video.kind, video.camera): decode(result.run_dir / video.path)
        for record in result.records()
        for video in record.videos
    }
