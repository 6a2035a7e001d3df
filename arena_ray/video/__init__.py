"""Records videos of environments: one exact, crash-safe MP4 per slot, camera and episode.

>>> from arena_ray.video import VideoRecordingCfg, timestamped_run_dir, wrap_env_for_video
"""

from arena_ray.specs import VideoRecordingCfg as VideoRecordingCfg
from arena_ray.video.camera_observation_video_recorder import CameraObsVideoRecorder as CameraObsVideoRecorder
from arena_ray.video.video_recorder import VideoRecorder as VideoRecorder
from arena_ray.video.video_recorder import video_recorders as video_recorders
from arena_ray.video.video_recording import timestamped_run_dir as timestamped_run_dir
from arena_ray.video.video_recording import wrap_env_for_video as wrap_env_for_video
from arena_ray.video.viewport_video_recorder import ViewportVideoRecorder as ViewportVideoRecorder

__all__ = [
    "VideoRecordingCfg",
    "timestamped_run_dir",
    "wrap_env_for_video",
    "CameraObsVideoRecorder",
    "ViewportVideoRecorder",
    "VideoRecorder",
    "video_recorders",
]
