"""Records videos of environments: one exact, crash-safe MP4 per slot, camera and episode.

>>> from arena_ray.video import VideoRecordingCfg, timestamped_run_dir, wrap_env_for_video
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arena_ray.specs import VideoRecordingCfg as VideoRecordingCfg
    from arena_ray.video.camera_observation_video_recorder import CameraObsVideoRecorder as CameraObsVideoRecorder
    from arena_ray.video.remux import remux_leftovers as remux_leftovers
    from arena_ray.video.video_recorder import VideoRecorder as VideoRecorder
    from arena_ray.video.video_recorder import video_recorders as video_recorders
    from arena_ray.video.video_recording import timestamped_run_dir as timestamped_run_dir
    from arena_ray.video.video_recording import wrap_env_for_video as wrap_env_for_video
    from arena_ray.video.viewport_video_recorder import ViewportVideoRecorder as ViewportVideoRecorder

# Imported when asked for: the process that encodes needs neither Gymnasium nor pydantic.
_HOMES = {
    "VideoRecordingCfg": "arena_ray.specs",
    "timestamped_run_dir": "arena_ray.video.video_recording",
    "wrap_env_for_video": "arena_ray.video.video_recording",
    "CameraObsVideoRecorder": "arena_ray.video.camera_observation_video_recorder",
    "ViewportVideoRecorder": "arena_ray.video.viewport_video_recorder",
    "VideoRecorder": "arena_ray.video.video_recorder",
    "video_recorders": "arena_ray.video.video_recorder",
    "remux_leftovers": "arena_ray.video.remux",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
