"""Records what `env.render()` shows."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from arena_ray.records import VideoFile
from arena_ray.specs import EncoderName
from arena_ray.video.episode_video import EpisodeVideo, clip_stem, safe_name, viewport_stem
from arena_ray.video.frames import NotRgbError, RgbStream, to_numpy
from arena_ray.video.sub_env_recorders import ChildProcessRecorders, InProcessRecorders, SubEnvRecorders
from arena_ray.video.video_recorder import VideoRecorder

logger = logging.getLogger(__name__)


class ViewportVideoRecorder(VideoRecorder):
    """Writes ``<prefix>-env<N>-episode-<E>.mp4``, or ``<prefix>-chunk<C>.mp4`` if one frame shows all slots.

    An episode of T steps has T+1 frames. The recorder of a `SyncVectorEnv` sits in each sub-environment, that of an
    `AsyncVectorEnv` in each child process (whose processes are started again; do not reset before wrapping). Any other
    batched environment is rendered from outside: under same-step autoreset its terminal frame cannot be seen, and
    episodes have T frames. A clip of all slots runs from the first reset to `end_chunk` or `close`. Where `render()`
    gives a list, its last frame is taken.

    Args:
        env: A `gymnasium.Env` or `VectorEnv` with a ``render_mode`` of ``rgb_array`` or ``rgb_array_list``; the
            recorder is then a wrapper of the same kind.
        video_folder: Where the files are written; created.
        name_prefix: First part of the file names.
        fps: Frames per second of the files; ``None``: the environment's ``render_fps``, else 30.
        save_partial_episodes: Keep the video of an episode that a clean `close` cuts off, under its final name.
        slot: N of a single environment that sits in slot N; added to the index of each slot of a vector environment.
        chunk_index: C in the name of a clip.
        max_clip_steps: Steps after which a clip of all slots ends; ``None``: no limit.
        encoder: ``auto``, ``inline`` or ``imageio-ffmpeg``.

    Raises:
        ValueError: If the environment does not render to arrays.
        EncoderError: If no video can be encoded here.
    """

    kind = "viewport"

    def __new__(cls, env: Any = None, *args: Any, **keywords: Any) -> ViewportVideoRecorder:
        """Return a `gymnasium.Wrapper` for an `Env` and a `VectorWrapper` for a `VectorEnv`."""
        if cls is ViewportVideoRecorder:
            cls = _EnvViewportRecorder
            if isinstance(env, VectorEnv):
                composed = isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
                cls = _SubEnvViewportRecorder if composed else _BatchViewportRecorder
        return super().__new__(cls)

    def __init__(
        self,
        env: Any,
        video_folder: str | Path,
        name_prefix: str = "viewport",
        fps: float | None = None,
        save_partial_episodes: bool = False,
        *,
        slot: int = 0,
        chunk_index: int = 0,
        max_clip_steps: int | None = None,
        encoder: EncoderName = "auto",
    ) -> None:
        _check_render_mode(env)
        super().__init__(env, video_folder, fps, save_partial_episodes, slot, encoder)
        self._prefix = safe_name(name_prefix)
        self._chunk_index = chunk_index
        self._max_clip_steps = max_clip_steps
        self._attempt = 1
        self._stream = RgbStream()
        self._frame_per_slot: bool | None = None  # not known before the first frame
        self._clip: EpisodeVideo | None = None
        self._clips: list[VideoFile] = []
        self._clip_is_over = False
        self._given_up = False

    def assign_episodes(self, episodes: Mapping[int, int], attempt: int = 1) -> None:
        """Say which episode starts next in a slot; from then on only assigned episodes are recorded."""
        self._attempt = attempt
        super().assign_episodes(episodes, attempt)

    def begin_chunk(self, chunk_index: int) -> None:
        """Say which chunk begins; a clip of all slots is then called after it."""
        self._end_clip()
        self._chunk_index, self._clip_is_over = chunk_index, False

    def end_chunk(self) -> tuple[VideoFile, ...]:
        """Complete and return the chunk's clip of all slots, if there is one."""
        self._end_clip()
        clips, self._clips = tuple(self._clips), []
        return clips

    def end_recording(self) -> None:
        """End the running videos as `close` does; a clip of all slots is complete, and reported for the first slot."""
        super().end_recording()
        for clip in self.end_chunk():
            self._videos.report(self._first_slot, clip)

    def keep_running_videos(self) -> None:
        """Close the running videos, leave them under their partial names, and report them as partial."""
        super().keep_running_videos()
        self._end_clip(broken=True)

    def _glance(self, observation: Any) -> Callable[[], Any]:
        shown = super()._glance(observation)
        if not self._frame_per_slot:
            shown()  # a clip of all slots goes on whether or not an episode is being recorded
        return shown

    def _look(self, observation: Any) -> list[npt.NDArray[Any]]:
        """Return a frame per slot; a frame for all slots goes into the clip."""
        if self._given_up or (self._frame_per_slot is False and self._clip_is_over):
            return []
        try:
            frames = _frames_by_slot(self.env.render(), self._num_slots)
        except Exception as error:
            self._give_up(error)
            return []
        self._frame_per_slot = len(frames) > 1 or self._num_slots == 1
        if self._frame_per_slot:
            self._num_slots = max(self._num_slots, len(frames))
            return frames
        self._add_to_clip(frames[0])
        return []

    def _record_frames(self, slot: int, index: int, shown: list[npt.NDArray[Any]]) -> None:
        if index >= len(shown) or self._given_up:
            return
        try:
            self._videos.add(slot, None, self._stream.convert(shown[index]))
        except NotRgbError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        logger.warning("the viewport is not recorded any more: %s: %s", type(error).__name__, error)
        for slot in self._videos.running_slots():
            self._videos.fail(slot, None, error)
        self._end_clip()

    def _add_to_clip(self, frame: npt.NDArray[Any]) -> None:
        if self._clip is None:
            self._clip = self._open(clip_stem(self._prefix, self._chunk_index), None, self._attempt)
        try:
            self._clip.add(self._stream.convert(frame))
        except NotRgbError as error:
            self._give_up(error)
        if self._clip is not None and self._max_clip_steps is not None and self._clip.frames > self._max_clip_steps:
            self._end_clip()

    def _end_clip(self, *, broken: bool = False) -> None:
        clip, self._clip, self._clip_is_over = self._clip, None, True
        report = None if clip is None else clip.keep() if broken else clip.finish()
        if report is not None:
            self._clips.append(report)

    def _stem(self, slot: int, camera: str | None, episode: int) -> str:
        return viewport_stem(self._prefix, slot, episode)


class _EnvViewportRecorder(ViewportVideoRecorder, gymnasium.Wrapper[Any, Any, Any, Any]):
    pass


class _BatchViewportRecorder(ViewportVideoRecorder, VectorWrapper[Any, Any, Any, Any, Any]):
    pass


class _SubEnvViewportRecorder(ViewportVideoRecorder, VectorWrapper[Any, Any, Any, Any, Any]):
    """Collects from recorders that sit in the sub-environments."""

    def __init__(
        self,
        env: Any,
        video_folder: str | Path,
        name_prefix: str = "viewport",
        fps: float | None = None,
        save_partial_episodes: bool = False,
        *,
        slot: int = 0,
        encoder: EncoderName = "auto",
        **clip: Any,
    ) -> None:
        super().__init__(env, video_folder, name_prefix, fps, save_partial_episodes, slot=slot, encoder=encoder, **clip)
        wrap = functools.partial(
            _wrap_sub_env, slot, (str(self._folder), name_prefix, fps, save_partial_episodes), {"encoder": encoder}
        )
        base = env.unwrapped
        kind = InProcessRecorders if isinstance(base, SyncVectorEnv) else ChildProcessRecorders
        self._inside: SubEnvRecorders = kind(base, wrap)

    def assign_episodes(self, episodes: Mapping[int, int], attempt: int = 1) -> None:
        for index in range(self._num_slots):
            self._inside.call(index, "assign_episodes", dict(episodes), attempt)

    def take_videos(self, slot: int) -> tuple[VideoFile, ...]:
        if not self._closed:
            self._fetch(slot - self._first_slot)
        return super().take_videos(slot)

    def discard_episode(self, slot: int) -> None:
        self._inside.call(slot - self._first_slot, "discard_episode", slot)

    def abort_episode(self, slot: int) -> None:
        self._inside.call(slot - self._first_slot, "abort_episode", slot)

    def end_recording(self) -> None:
        for index in range(self._num_slots):
            self._inside.call(index, "end_recording")
            self._fetch(index)

    def keep_running_videos(self) -> None:
        for index in range(self._num_slots):
            self._inside.call(index, "keep_running_videos")
            self._fetch(index)

    def _keep_running(self, error: BaseException) -> None:
        for index, video in self._inside.left_behind(error):
            self._videos.report(self._first_slot + index, video)
        self.keep_running_videos()

    def _fetch(self, index: int) -> None:
        slot = self._first_slot + index
        for video in self._inside.call(index, "take_videos", slot) or ():
            self._videos.report(slot, video)

    def _record_reset(self, chosen: frozenset[int] | None, observation: Any) -> None:
        pass

    def _record_step(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        pass


def _wrap_sub_env(first_slot: int, arguments: tuple[Any, ...], keywords: dict[str, Any], env: Any, index: int) -> Any:
    return ViewportVideoRecorder(env, *arguments, slot=first_slot + index, **keywords)


def _check_render_mode(env: Any) -> None:
    render_mode = env.render_mode
    if not str(render_mode).startswith("rgb_array"):
        raise ValueError(
            f"the environment's render_mode is {render_mode!r}, and the viewport can only be recorded from one that "
            "renders to arrays; build it with render_mode='rgb_array' (VideoRecordingCfg.render_mode)"
        )


def _frames_by_slot(rendered: Any, num_slots: int) -> list[npt.NDArray[Any]]:
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
