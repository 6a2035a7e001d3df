"""Records what `env.render()` shows. Stands in for Gymnasium's `RecordVideo` (1.4.0)."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from arena_ray.records import VideoFile
from arena_ray.specs import VideoRecordingCfg
from arena_ray.video.episode_video import EpisodeVideo, clip_stem, plain_name, safe_name, viewport_stem
from arena_ray.video.frames import NotRgbError, RgbStream, frames_by_slot
from arena_ray.video.selection import RecordSelection, capped_cubic_schedule
from arena_ray.video.video_recorder import VideoRecorder

logger = logging.getLogger(__name__)

Trigger = Callable[[int], bool]


class ViewportVideoRecorder(VideoRecorder):
    """Records the viewport, with the arguments, triggers and attributes of Gymnasium's `RecordVideo`.

    Without `cfg` it does what `RecordVideo` does: ``<prefix>-episode-<E>.mp4`` of the episodes that `episode_trigger`
    asks for (by default episodes 0, 1, 8, 27 ... 1000, 2000 ...), ``<prefix>-step-<S>.mp4`` from the steps that
    `step_trigger` asks for. What differs is better: files appear when the episode ends, hold every frame, cost no
    memory and survive a crash. Slots of a vector environment write a video each, as if each had its own recorder:
    ``<prefix>-env<N>-episode-<E>.mp4``, ``<prefix>-env<N>-step-<S>.mp4``. If one frame shows all slots, episodes are
    those of the first.

    With `cfg` it follows a run: ``<prefix>-env<N>-episode-<E>.mp4`` of the episodes that `cfg.record` asks for, or
    ``<prefix>-chunk<C>.mp4``, from the first reset to `end_chunk` or `close`, if one frame shows all slots.

    An episode of T steps has T+1 frames. The recorder of a `SyncVectorEnv` sits in each sub-environment, that of an
    `AsyncVectorEnv` in each child process (whose processes are started again; do not reset before wrapping). Any other
    batched environment is rendered from outside: under same-step autoreset its terminal frame cannot be seen, and
    episodes have T frames. Where `render()` gives a list, its last frame is taken.

    Args:
        env: A `gymnasium.Env` or `VectorEnv` with a ``render_mode`` of ``rgb_array`` or ``rgb_array_list``; the
            recorder is then a wrapper of the same kind.
        video_folder: Where the files are written; created.
        episode_trigger: Whether to record the episode of this index.
        step_trigger: Whether to start a recording at the step of this index.
        video_length: Steps after which a recording ends, over resets; 0: it ends with the episode.
        name_prefix: First part of the file names.
        fps: Frames per second of the files; ``None``: the environment's ``render_fps``, else 30.
        disable_logger: Kept for those who pass it; there is no moviepy whose logger could be disabled.
        gc_trigger: Kept for those who pass it; frames are not held in memory.
        video_aspect_ratio: Kept for those who pass it; slots are not tiled into one picture.
        record_first_only: Record the first slot of a vector environment only.
        slot: N of a single environment that sits in slot N; added to the index of each slot of a vector environment.
        chunk_index: C in the name of a clip.
        max_clip_steps: Steps after which a clip of all slots ends; ``None``: no limit.
        cfg: Record as runs do; excludes triggers.
        success_key: Where success stands in `info`; ``None``: ``is_success``, then ``success``.

    Raises:
        ValueError: If the environment does not render to arrays, or both `cfg` and a trigger are given.
        EncoderError: If no video can be encoded here.
    """

    kind = "viewport"

    def __new__(cls, env: Any = None, *args: Any, **keywords: Any) -> ViewportVideoRecorder:
        """Return a `gymnasium.Wrapper` for an `Env` and a `VectorWrapper` for a `VectorEnv`."""
        if cls is ViewportVideoRecorder:
            cls = _EnvViewportRecorder
            if isinstance(env, VectorEnv):
                from arena_ray.video.sub_env_viewport_recorder import SubEnvViewportRecorder

                composed = isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
                cls = SubEnvViewportRecorder if composed else _BatchViewportRecorder
        return super().__new__(cls)

    def __init__(
        self,
        env: Any,
        video_folder: str | Path,
        episode_trigger: Trigger | None = None,
        step_trigger: Trigger | None = None,
        video_length: int = 0,
        name_prefix: str = "rl-video",
        fps: float | None = None,
        disable_logger: bool = True,
        gc_trigger: Trigger | None = None,
        *,
        video_aspect_ratio: tuple[int, int] = (1, 1),
        record_first_only: bool = False,
        slot: int = 0,
        chunk_index: int = 0,
        max_clip_steps: int | None = None,
        cfg: VideoRecordingCfg | None = None,
        success_key: str | None = None,
    ) -> None:
        _check_render_mode(env)
        self._follows_run = cfg is not None
        if self._follows_run and (episode_trigger is not None or step_trigger is not None):
            raise ValueError("both cfg and a trigger are given; cfg.record says which episodes are recorded")
        if not self._follows_run and episode_trigger is None and step_trigger is None:
            episode_trigger = capped_cubic_schedule
        self.episode_trigger, self.step_trigger = episode_trigger, step_trigger
        self.video_length = video_length or math.inf
        self.disable_logger, self.gc_trigger = disable_logger, gc_trigger
        self.video_aspect_ratio, self.record_first_only = video_aspect_ratio, record_first_only
        self.name_prefix = safe_name(name_prefix) if self._follows_run else plain_name(name_prefix)
        self.step_id = -1
        self.render_history: list[Any] = []
        cfg = cfg or VideoRecordingCfg(save_partial_episodes=True)
        super().__init__(
            env,
            video_folder,
            dataclasses.replace(cfg, fps=fps or cfg.fps),
            slot,
            success_key,
            None if self._follows_run else RecordSelection(trigger=self._wants_whole_episode),
            keep_cut_off=not self._follows_run,
        )
        self._is_vector_env = isinstance(env, VectorEnv)
        self._chunk_index = chunk_index
        self._max_clip_steps = max_clip_steps
        self._attempt = 1
        self._stream = RgbStream()
        self._frame_per_slot: bool | None = None if self._num_slots > 1 else True  # the first frame tells
        self._shown: Callable[[], list[npt.NDArray[Any]]] = list
        self._episode_ids: dict[int, int] = {}
        self._clip_names: dict[int, tuple[str, str]] = {}  # what stands before and behind the slot
        self._clips: dict[int, EpisodeVideo] = {}  # those that have a frame
        self._clips_take_over = False
        self._finished_clips: list[VideoFile] = []
        self._given_up = False

    def _wants_whole_episode(self, episode: int) -> bool:
        """Whether an episode becomes a file that ends with it; other recordings are clips."""
        if self.episode_trigger is None or self._clips_take_over or not self._records_whole_episodes:
            return False
        return bool(self.episode_trigger(episode))

    @property
    def _records_whole_episodes(self) -> bool:
        return bool(self._frame_per_slot) and math.isinf(self.video_length)

    @property
    def recording(self) -> bool:
        """Whether anything is being recorded."""
        return bool(self._clip_names) or bool(self._videos.running_slots())

    @property
    def recorded_frames(self) -> range:
        """Something as long as the recording is; the frames themselves are in the file."""
        clips = [clip.frames for clip in self._clips.values()]
        return range(max([*clips, self._videos.most_frames()], default=0))

    @property
    def episode_id(self) -> int:
        """Index of the episode that began last, in the first slot; -1 before the first."""
        return self._episode_ids.get(0, -1)

    @property
    def frames_per_sec(self) -> float:
        """Frames per second of the files."""
        return self._settings.fps

    @property
    def video_folder(self) -> str:
        """Where the files are written."""
        return str(self._folder)

    def start_recording(self, video_name: str, ending: str = "") -> None:
        """Start a recording ``<video_name><ending>.mp4``, or one per slot; what goes on is completed first."""
        if self.recording:
            self.stop_recording()
        self._start_clips(self._clip_indices(), f"{plain_name(video_name)}{ending}")

    def stop_recording(self) -> None:
        """Complete what is being recorded.

        Raises:
            RuntimeError: If nothing is.
        """
        if not self.recording:
            raise RuntimeError("stop_recording was called, but no recording was started; call start_recording first")
        self._complete_all()

    def _complete_all(self) -> None:
        for slot in self._videos.running_slots():
            self._videos.finish(slot, cut_off=True)
        self._end_clips()

    def recording_state(self) -> tuple[bool, int, int]:
        """Return `recording`, the length of `recorded_frames`, and `episode_id`, in one call to a child process."""
        return self.recording, len(self.recorded_frames), self.episode_id

    def render(self) -> Any:
        """Return what the environment renders; of a list, also the frames that recording took out of it."""
        rendered = self.env.render()
        if not isinstance(rendered, list) or not self.render_history:
            return rendered
        history, self.render_history = self.render_history, []
        return history + rendered

    def assign_episodes(self, episodes: Mapping[int, int], attempt: int = 1) -> None:
        """Say which episode starts next in a slot; from then on only assigned episodes are recorded."""
        self._attempt = attempt
        super().assign_episodes(episodes, attempt)

    def begin_chunk(self, chunk_index: int) -> None:
        """Say which chunk begins; a clip of all slots is then called after it."""
        self._end_clips()
        self._chunk_index = chunk_index
        if self._frame_per_slot is False:
            self._start_clips((0,), clip_stem(self.name_prefix, chunk_index))

    def end_chunk(self) -> tuple[VideoFile, ...]:
        """Complete and return the chunk's clip of all slots, if there is one."""
        self._end_clips()
        clips, self._finished_clips = tuple(self._finished_clips), []
        return clips

    def end_recording(self) -> None:
        """End the running videos as `close` does; a clip of all slots is complete, and reported for the first slot."""
        super().end_recording()
        self._videos.report(self._first_slot, self.end_chunk())

    def keep_running_videos(self) -> None:
        """Close the running videos, leave them under their partial names, and report them as partial."""
        super().keep_running_videos()
        self._end_clips(broken=True)

    def _record_reset(self, chosen: frozenset[int] | None, observation: Any) -> None:
        super()._record_reset(chosen, observation)
        self._show_all_slots()

    def _record_step(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        self.step_id += 1
        self._clips_take_over = self.step_trigger is not None and bool(self.step_trigger(self.step_id))
        if self._clips_take_over:
            self._complete_all()
            self._start_clips(self._clip_indices(), self.name_prefix, f"-step-{self.step_id}")
        super()._record_step(observation, reward, terminated, truncated, info)
        self._clips_take_over = False
        self._show_all_slots()

    def _begin(self, index: int) -> None:
        if index > 0 and self.record_first_only:
            return
        super()._begin(index)
        episode = self._episode_ids[index] = self._episode_ids.get(index, -1) + 1
        if self._follows_run or self._clips_take_over or (index > 0 and not self._frame_per_slot):
            return
        if math.isinf(self.video_length):
            self._end_clip(index)
        if self.episode_trigger is None or self._records_whole_episodes or not self.episode_trigger(episode):
            return
        self._start_clips((index,), self.name_prefix, f"-episode-{episode}")

    def _finish(self, index: int, info: Any) -> None:
        super()._finish(index, info)
        if self._records_whole_episodes and index in self._clips:
            self._end_clip(index)

    def _show(self, index: int, shown: Callable[[], Any]) -> None:
        super()._show(index, shown)
        if self._frame_per_slot:
            self._feed_clip(index)

    def _show_all_slots(self) -> None:
        if not self._frame_per_slot:
            self._feed_clip(0)

    def _glance(self, observation: Any) -> Callable[[], Any]:
        self._shown = super()._glance(observation)
        if self._frame_per_slot is None:
            self._learn_shape()
        return self._shown

    def _learn_shape(self) -> None:
        """Look at the first frame: if it shows all slots, what is recorded is a clip of them."""
        frames = self._shown()
        self._frame_per_slot = len(frames) != 1
        if not self._frame_per_slot and self._follows_run:
            self._start_clips((0,), clip_stem(self.name_prefix, self._chunk_index))
        elif not self._frame_per_slot:
            for index in range(1, self._num_slots):
                self._clip_names.pop(index, None)

    def _look(self, observation: Any) -> list[npt.NDArray[Any]]:
        """Return a frame per slot, or a frame that shows all."""
        if self._given_up:
            return []
        try:
            rendered = self.env.render()
            if isinstance(rendered, list) and self._num_slots == 1 and not self._follows_run:
                self.render_history += rendered
            frames = frames_by_slot(rendered, self._num_slots)
        except Exception as error:
            self._give_up(error)
            return []
        if len(frames) > 1:
            self._num_slots = max(self._num_slots, len(frames))
        return frames

    def _record_frames(self, slot: int, index: int, shown: list[npt.NDArray[Any]]) -> None:
        if index >= len(shown) or self._given_up or not self._frame_per_slot:
            return
        try:
            self._add(slot, None, self._stream.convert(shown[index]))
        except NotRgbError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        logger.warning("the viewport is not recorded any more: %s: %s", type(error).__name__, error)
        for slot in self._videos.running_slots():
            self._videos.fail(slot, None, error)
        self._end_clips()

    def _clip_indices(self) -> range:
        """Return the positions that a clip is made of: each slot, or the first for one that shows all."""
        return range(1 if self._frame_per_slot is False or self.record_first_only else self._num_slots)

    def _start_clips(self, indices: Iterable[int], name: str, ending: str = "") -> None:
        """Start clips ``<name>[-env<N>]<ending>.mp4``; each gets its first frame when one is shown."""
        for index in indices:
            self._end_clip(index)
            if not self._given_up:
                self._clip_names[index] = (name, ending)

    def _feed_clip(self, index: int) -> None:
        """Add what is shown to the clip at this position, if there is one."""
        if index not in self._clip_names:
            return
        frames = self._shown()
        if index >= len(frames):
            return
        if index not in self._clips:
            name, ending = self._clip_names[index]
            slot = f"-env{self._first_slot + index}" if self._frame_per_slot and self._is_batched else ""
            self._clips[index] = EpisodeVideo(self._settings, f"{name}{slot}{ending}", attempt=self._attempt)
        try:
            self._clips[index].add(self._stream.convert(frames[index]))
        except NotRgbError as error:
            self._give_up(error)
            return
        limit = self._max_clip_steps if self._follows_run else self.video_length
        if limit is not None and self._clips[index].frames > limit:
            self._end_clip(index)

    def _end_clip(self, index: int, *, broken: bool = False) -> None:
        self._clip_names.pop(index, None)
        clip = self._clips.pop(index, None)
        if clip is not None:
            self._finished_clips += clip.keep() if broken else clip.finish()

    def _end_clips(self, *, broken: bool = False) -> None:
        for index in list(self._clip_names):
            self._end_clip(index, broken=broken)

    @property
    def _is_batched(self) -> bool:
        return self._is_vector_env or self._num_slots > 1

    def _stem(self, slot: int, camera: str | None, episode: int) -> str:
        return viewport_stem(self.name_prefix, slot if self._follows_run or self._is_batched else None, episode)


class _EnvViewportRecorder(ViewportVideoRecorder, gymnasium.Wrapper[Any, Any, Any, Any]):
    pass


class _BatchViewportRecorder(ViewportVideoRecorder, VectorWrapper[Any, Any, Any, Any, Any]):
    pass


def _check_render_mode(env: Any) -> None:
    render_mode = env.render_mode
    if not str(render_mode).startswith("rgb_array"):
        raise ValueError(
            f"the environment's render_mode is {render_mode!r}, and the viewport can only be recorded from one that "
            "renders to arrays; build it with render_mode='rgb_array' (VideoRecordingCfg.render_mode)"
        )
