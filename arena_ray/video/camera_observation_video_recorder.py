"""Records the cameras of the observation. After IsaacLab-Arena's recorder of the same name (PR #792, #1000)."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv, VectorWrapper

from arena_ray.specs import VideoRecordingCfg
from arena_ray.video.episode_video import camera_stem, distinct_name, safe_name
from arena_ray.video.frames import NotRgbError, RgbStream, to_numpy
from arena_ray.video.video_recorder import VideoRecorder

logger = logging.getLogger(__name__)

CAMERA_OBS_GROUP_KEY = "camera_obs"


class CameraObsVideoRecorder(VideoRecorder):
    """Writes ``<prefix>-env<N>-<camera>-episode-<E>.mp4`` for every slot, camera and episode.

    The observation must be a dict with a ``camera_obs`` dict of ``uint8|float [H, W, 3]`` frames, or
    ``[N, H, W, 3]`` where there are N slots, NumPy or torch; see `frames.RgbStream` for what else is taken. A camera
    that does not give a picture is skipped. An episode of T steps has T+1 frames; under same-step autoreset the
    terminal one comes from ``info["final_obs"]`` and is left out where that is missing. A tensor on a GPU is copied
    once per camera and step, for all slots.

    Args:
        env: A `gymnasium.Env` or `VectorEnv`; the recorder is then a wrapper of the same kind.
        video_folder: Where the files are written; created.
        name_prefix: First part of the file names.
        fps: Frames per second of the files; ``None``: the environment's ``render_fps``, else 30.
        save_partial_episodes: Keep the video of an episode that a clean `close` cuts off, under its final name.
        slot: N of a single environment that sits in slot N; added to the index of each slot of a vector environment.
        cfg: What else to do: `record`, `cameras`, `max_resolution` and so on. `fps` and `save_partial_episodes` above
            are added to it.
        success_key: Where success stands in `info`; ``None``: ``is_success``, then ``success``.

    Raises:
        EncoderError: If no video can be encoded here.
    """

    kind = "camera"

    def __new__(cls, env: Any = None, *args: Any, **keywords: Any) -> CameraObsVideoRecorder:
        """Return a `gymnasium.Wrapper` for an `Env` and a `VectorWrapper` for a `VectorEnv`."""
        if cls is CameraObsVideoRecorder:
            cls = _VectorCameraRecorder if isinstance(env, VectorEnv) else _EnvCameraRecorder
        return super().__new__(cls)

    def __init__(
        self,
        env: Any,
        video_folder: str | Path,
        name_prefix: str = "robot-cam",
        fps: float | None = None,
        save_partial_episodes: bool = False,
        *,
        slot: int = 0,
        cfg: VideoRecordingCfg | None = None,
        success_key: str | None = None,
    ) -> None:
        cfg = cfg or VideoRecordingCfg()
        save_partial = save_partial_episodes or cfg.save_partial_episodes
        cfg = dataclasses.replace(cfg, fps=fps or cfg.fps, save_partial_episodes=save_partial)
        super().__init__(env, video_folder, cfg, slot, success_key)
        self._prefix = safe_name(name_prefix)
        self._streams: dict[str, RgbStream] = {}
        self._file_names: dict[str, str] = {}
        self._skipped: set[str] = set()
        self._said: set[str] = set()

    def _look(self, observation: Any) -> dict[str, npt.NDArray[Any]]:
        cameras = observation.get(CAMERA_OBS_GROUP_KEY) if isinstance(observation, Mapping) else None
        if not isinstance(cameras, Mapping):
            self._say_once(f"no camera video is recorded: {_found(observation)}")
            return {}
        self._say_what_is_missing(cameras)
        return {name: self._by_slot(pixels) for name, pixels in cameras.items() if self._is_wanted(name, pixels)}

    def _say_what_is_missing(self, cameras: Mapping[str, Any]) -> None:
        missing = [repr(name) for name in self._cfg.cameras or () if name not in cameras]
        if missing:
            there = ", ".join(repr(str(name)) for name in cameras) or "none"
            self._say_once(f"no camera is called {', '.join(missing)}, so it is not recorded; there are: {there}")

    def _is_wanted(self, name: str, pixels: Any) -> bool:
        if name in self._skipped or (self._cfg.cameras is not None and name not in self._cfg.cameras):
            return False
        if pixels is None:
            self._skip(name, NotRgbError("it gives nothing"))
        return pixels is not None

    def _by_slot(self, pixels: Any) -> npt.NDArray[Any]:
        """Return the frames of a camera, slots first; copied from the device in one piece."""
        frames = to_numpy(pixels)
        if frames.ndim == 4:
            self._num_slots = max(self._num_slots, len(frames))
        return frames if frames.ndim == 4 or self._num_slots > 1 else frames[np.newaxis]

    def _record_frames(self, slot: int, index: int, shown: dict[str, npt.NDArray[Any]]) -> None:
        for camera, frames in shown.items():
            if index < len(frames):
                self._convert_and_add(slot, camera, frames[index])

    def _look_terminal(self, info: Any) -> Callable[[int], dict[str, Any]]:
        """Return what gives a slot's terminal frames; batched ones are copied from the device in one piece."""
        final = info.get("final_obs", info.get("final_observation")) if isinstance(info, Mapping) else None
        if not isinstance(final, Mapping):
            return functools.partial(_terminal_of_slot, final)
        cameras = final.get(CAMERA_OBS_GROUP_KEY)
        cameras = cameras if isinstance(cameras, Mapping) else {}
        batches = {name: to_numpy(pixels) for name, pixels in cameras.items() if self._is_wanted(name, pixels)}
        return lambda index: {name: frames[index] for name, frames in batches.items() if index < len(frames)}

    def _record_terminal_frames(self, slot: int, index: int, terminal: Callable[[int], dict[str, Any]]) -> None:
        cameras = terminal(index)
        if not cameras:
            self._say_once('the terminal frames are not recorded: info["final_obs"] has no camera_obs of an ended slot')
        for camera, frame in cameras.items():
            if self._is_wanted(camera, frame):
                self._convert_and_add(slot, camera, to_numpy(frame))

    def _convert_and_add(self, slot: int, camera: str, frame: npt.NDArray[Any]) -> None:
        if camera in self._skipped:
            return
        try:
            self._add(slot, camera, self._stream(camera).convert(frame))
        except NotRgbError as error:
            self._skip(camera, error)

    def _skip(self, camera: str, error: NotRgbError) -> None:
        self._skipped.add(camera)
        logger.warning("camera %r is not recorded: %s", camera, error)
        for running in self._videos.running_slots():
            self._videos.fail(running, camera, error)

    def _stream(self, camera: str) -> RgbStream:
        if camera not in self._streams:
            data_type = _declared_data_type(self.env, camera)
            if data_type is not None and not data_type.startswith("rgb"):
                raise NotRgbError(f"its data_type is {data_type!r}, not rgb")
            self._streams[camera] = RgbStream(_space_high(self.env, camera))
        return self._streams[camera]

    def _stem(self, slot: int, camera: str | None, episode: int) -> str:
        name = str(camera)
        if name not in self._file_names:
            self._file_names[name] = distinct_name(name, self._file_names.values())
        return camera_stem(self._prefix, slot, self._file_names[name], episode)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)


class _EnvCameraRecorder(CameraObsVideoRecorder, gymnasium.Wrapper[Any, Any, Any, Any]):
    pass


class _VectorCameraRecorder(CameraObsVideoRecorder, VectorWrapper[Any, Any, Any, Any, Any]):
    pass


def _found(observation: Any) -> str:
    if not isinstance(observation, Mapping):
        return f"the observation is a {type(observation).__name__}, not a dict with {CAMERA_OBS_GROUP_KEY!r}"
    keys = ", ".join(repr(str(key)) for key in observation) or "none"
    return f"the observation has no dict under {CAMERA_OBS_GROUP_KEY!r}; its keys: {keys}"


def _terminal_of_slot(final: Any, index: int) -> dict[str, Any]:
    """Return the terminal frames of a slot from an observation per slot, as Gymnasium gives them."""
    try:
        return dict(final[index][CAMERA_OBS_GROUP_KEY])
    except (KeyError, IndexError, TypeError, ValueError):
        return {}


def _declared_data_type(env: Any, camera: str) -> str | None:
    """Return what an Isaac Lab environment says the camera gives, e.g. ``rgb`` or ``normals``; else ``None``."""
    try:
        term = getattr(env.unwrapped.cfg.observations.camera_obs, camera)
        return str(term.params["data_type"])
    except (AttributeError, KeyError, TypeError):
        return None


def _space_high(env: Any, camera: str) -> float | None:
    """Return the upper bound of the camera's space, if the observation space is nested like the observation."""
    try:
        space: Any = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
        return float(np.max(space[CAMERA_OBS_GROUP_KEY][camera].high))
    except (AttributeError, KeyError, TypeError):
        return None
