"""Switches recording on for an environment. After IsaacLab-Arena's module of the same name (PR #801)."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from arena_ray.run_dir import create_timestamped_folder
from arena_ray.specs import VideoRecordingCfg
from arena_ray.video.camera_observation_video_recorder import CameraObsVideoRecorder
from arena_ray.video.viewport_video_recorder import ViewportVideoRecorder

EnvT = TypeVar("EnvT")

#: First part of the file names of viewport videos.
VIEWPORT_PREFIX = "viewport"


def timestamped_run_dir(base: str | Path, now: datetime | None = None) -> Path:
    """Create and return ``base/YYYY-MM-DD_HH-MM-SS``, a folder that no one else has.

    Call it once per run and share the result. Where the folder exists, ``_1``, ``_2`` ... is appended.

    Args:
        base: Parent folder; created.
        now: Local time; ``None``: the clock's.
    """
    return create_timestamped_folder(base, now or datetime.now())


def wrap_env_for_video(
    env: EnvT,
    cfg: VideoRecordingCfg,
    num_steps: int | None = None,
    num_episodes: int | None = None,
    *,
    slot: int = 0,
    chunk_index: int = 0,
    success_key: str | None = None,
) -> EnvT:
    """Return the environment in the recorders that `cfg` asks for: viewport inside, camera outside.

    Args:
        env: A `gymnasium.Env` or `VectorEnv`, not reset yet.
        cfg: What to record. If that is nothing, the same object is returned and nothing is created.
        num_steps: Steps of the rollout; the length of a clip that shows all slots. Episodes are recorded whole.
        num_episodes: Episodes of the rollout.
        slot: Number of a single environment in file names.
        chunk_index: Number of the chunk in file names.
        success_key: Where success stands in `info`; ``None``: ``is_success``, then ``success``.

    Raises:
        ValueError: If both `num_steps` and `num_episodes` are ``None``, or the viewport is to be recorded and the
            environment does not render to arrays.
        EncoderError: If no video can be encoded here.
    """
    if not cfg.enabled:
        return env
    if num_steps is None and num_episodes is None:
        raise ValueError(
            "num_steps and num_episodes are both None, so the length of the rollout is not known; give one of them"
        )
    folder, wrapped = Path(cfg.video_base_dir), cast(Any, env)
    folder.mkdir(parents=True, exist_ok=True)
    shared: dict[str, Any] = {"slot": slot, "cfg": cfg, "success_key": success_key}
    if cfg.record_viewport_video:
        clip: dict[str, Any] = {"chunk_index": chunk_index, "max_clip_steps": num_steps}
        wrapped = ViewportVideoRecorder(wrapped, folder, name_prefix=VIEWPORT_PREFIX, **clip, **shared)
    if cfg.record_camera_video:
        wrapped = CameraObsVideoRecorder(wrapped, folder, cfg.camera_name_prefix, **shared)
    return cast(EnvT, wrapped)
