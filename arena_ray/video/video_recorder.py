"""What both recorders share: they follow an environment's episodes, and report what they wrote.

A recorder wraps a `gymnasium.Env` or a `VectorEnv`; its constructor picks the subclass with the right Gymnasium base.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium
from gymnasium.vector import AutoresetMode, VectorWrapper

from arena_ray.records import VideoFile
from arena_ray.specs import VideoRecordingCfg
from arena_ray.video.caption import Caption, check_overlay, draw, row_of, success_in
from arena_ray.video.encoder import EncoderBackend, RgbFrame, fragment_length, open_backend
from arena_ray.video.episode_video import EpisodeVideo, VideoSettings
from arena_ray.video.selection import RecordSelection
from arena_ray.video.slot_videos import SlotVideos
from arena_ray.video.slots import autoreset_mode, chosen_slots, declared_num_slots, done_flags, frames_per_second


class Once:
    """A function that is called when its value is asked for the first time, and not again."""

    __slots__ = ("_make", "_value")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make

    def __call__(self) -> Any:
        """Return the value."""
        if self._make is not None:
            self._value, self._make = self._make(), None
        return self._value


class VideoRecorder:
    """A wrapper of an environment that records videos; the part that `arena_ray` workers talk to.

    Subclasses say what an observation shows. Exceptions of the environment pass through: the running files are
    closed, keep their partial names, and are reported as partial.

    Args:
        env: The environment.
        video_folder: Where the files are written; created.
        cfg: How to record; what it says of viewport, cameras and folder is not looked at.
        slot: Number of the first slot.
        success_key: Where success stands in `info`.
        selection: Which episodes to record, instead of `cfg.record`.
        keep_cut_off: Whether a reset in mid-episode keeps the video.

    Attributes:
        recording_s: Wall time that recording has taken here: to take (`render()`), convert and encode frames, or to
            hand them to the process that encodes, and to finish files.
    """

    kind: ClassVar[Literal["viewport", "camera"]]
    env: Any

    def __init__(
        self,
        env: Any,
        video_folder: str | Path,
        cfg: VideoRecordingCfg,
        slot: int,
        success_key: str | None,
        selection: RecordSelection | None = None,
        keep_cut_off: bool = False,
    ) -> None:
        super().__init__(env)  # type: ignore[call-arg]  # the Gymnasium wrapper is next in line
        if cfg.overlay:
            check_overlay()
        self._folder = Path(video_folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._cfg = cfg
        self._save_partial = cfg.save_partial_episodes
        self._success_key = success_key
        self._first_slot = slot
        declared = declared_num_slots(env)
        self._num_slots, self._counts_frames = declared or 1, declared is None
        self._mode: AutoresetMode | None = None  # the first step tells
        self._backend = self._open_backend()
        self._settings = VideoSettings(
            folder=self._folder,
            kind=self.kind,
            fps=frames_per_second(env, cfg.fps),
            backend=self._backend,
            preset=cfg.preset,
            max_resolution=cfg.max_resolution,
            fragment_s=fragment_length(self._folder),
            max_frames=cfg.video_length + 1 if cfg.video_length else None,
        )
        self._videos = SlotVideos(
            self._new_video,
            selection or RecordSelection(cfg.record),
            cfg.outcome_in_name,
            keep_cut_off,
            # Arena's environments count their episodes themselves.
            getattr(env.unwrapped, "get_episode_index", None),
        )
        self._captions: dict[int, Caption] = {}
        self._awaits_reset: set[int] = set()
        self._closed = False
        self.recording_s = 0.0

    def _open_backend(self) -> EncoderBackend:
        return open_backend(self._cfg.encoder)

    def reset(self, *, seed: Any = None, options: Any = None, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment. Running videos of the slots that are reset are discarded, finished files stay."""
        chosen = chosen_slots(options, keywords)
        try:
            observation, info = self.env.reset(seed=seed, options=options, **keywords)
        except BaseException as error:
            self._keep_running(error)
            raise
        started = time.perf_counter()
        self._record_reset(chosen, observation)
        self.recording_s += time.perf_counter() - started
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environment and record the frames. The files of an episode that ended are complete on return."""
        try:
            result: tuple[Any, Any, Any, Any, dict[str, Any]] = self.env.step(action)
        except BaseException as error:
            self._keep_running(error)
            raise
        started = time.perf_counter()
        self._record_step(*result)
        self.recording_s += time.perf_counter() - started
        return result

    def close(self, **keywords: Any) -> None:
        """Remove (or save) the videos of episodes that have not ended, then close the environment; once.

        While an exception is on its way (a ``finally``, an ``except``) the close is not a clean one: the running
        videos are kept under their partial names.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if isinstance(sys.exc_info()[1], Exception):
                self.keep_running_videos()
            self.end_recording()
        finally:
            self._backend.close()
            self.env.close(**keywords)

    def assign_episodes(self, episodes: Mapping[int, int], attempt: int = 1) -> None:
        """Say which episode starts next in a slot; from then on only assigned episodes are recorded.

        Args:
            episodes: ``{slot: episode index}``. Where an environment resets itself: to be told before the step that
                ends the slot's running episode.
            attempt: 1 is the first; part of the partial file's name.
        """
        self._videos.assign(episodes, attempt)

    def take_videos(self, slot: int, success: bool | None = None) -> tuple[VideoFile, ...]:
        """Return what was finished for a slot since the last call, partial files included.

        Args:
            slot: The slot.
            success: The outcome of its last episode. Where episodes are assigned it decides what is kept
                (``record: failures``) and how the file is called (`outcome_in_name`).
        """
        started = time.perf_counter()
        videos = self._videos.take(slot, success)
        self.recording_s += time.perf_counter() - started
        return videos

    def discard_episode(self, slot: int) -> None:
        """Remove the running video of a slot; it is not reported."""
        self._videos.discard(slot)

    def abort_episode(self, slot: int) -> None:
        """Close the running video of a slot whose episode broke; it keeps its partial name and is reported."""
        self._videos.keep(slot)

    def begin_chunk(self, chunk_index: int) -> None:
        """Say which chunk begins; a video of all slots is then called after it."""

    def end_chunk(self) -> tuple[VideoFile, ...]:
        """Complete and return the videos of the chunk that belong to no single slot."""
        return ()

    def end_recording(self) -> None:
        """Remove the running videos, or with `save_partial_episodes` give them their final names. `close` does it."""
        for slot in self._videos.running_slots():
            if self._save_partial:
                self._videos.finish(slot, cut_off=True)
            else:
                self._videos.discard(slot)
        self._videos.discard_undecided()

    def keep_running_videos(self) -> None:
        """Close the running videos, leave them under their partial names, and report them as partial."""
        for slot in self._videos.running_slots():
            self._videos.keep(slot)

    def _keep_running(self, error: BaseException) -> None:
        self.keep_running_videos()

    def _record_reset(self, chosen: frozenset[int] | None, observation: Any) -> None:
        shown = self._glance(observation)
        if self._counts_frames:
            shown()
            self._counts_frames = False
        for index in range(self._num_slots) if chosen is None else sorted(chosen):
            self._awaits_reset.discard(index)
            self._begin(index)
            self._show(index, shown)

    def _record_step(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        mode = self._mode = self._mode or autoreset_mode(self.env, terminated)
        done = done_flags(terminated, truncated)
        shown = self._glance(observation)
        terminal = Once(lambda: self._look_terminal(info)) if mode is AutoresetMode.SAME_STEP else None
        for index in range(self._num_slots):
            slot, ended = self._first_slot + index, bool(done[min(index, len(done) - 1)])
            if index in self._awaits_reset:
                self._awaits_reset.discard(index)
                self._begin(index)
            else:
                if self._captions:
                    self._count_step(index, reward, info, ended)
                if ended and terminal is not None:
                    # What the step shows belongs to the next episode already.
                    if self._videos.takes_frames(slot):
                        self._record_terminal_frames(slot, index, terminal())
                    self._finish(index, info)
                    self._begin(index)
                    ended = False
            self._show(index, shown)
            if ended:
                self._finish(index, info)
                if mode is AutoresetMode.NEXT_STEP:
                    self._awaits_reset.add(index)

    def _begin(self, index: int) -> None:
        slot = self._first_slot + index
        self._videos.begin(slot)
        if self._cfg.overlay and self._videos.is_running(slot):
            self._captions[slot] = Caption(self._videos.episode_of(slot))

    def _finish(self, index: int, info: Any) -> None:
        success = None
        if self._videos.needs_outcome and not self._videos.is_assigned:
            success = success_in(info, index, self._success_key, ended=True)
        self._videos.finish(self._first_slot + index, success=success)

    def _count_step(self, index: int, reward: Any, info: Any, ended: bool) -> None:
        caption = self._captions.get(self._first_slot + index)
        if caption is not None:
            success = success_in(info, index, self._success_key, ended=ended)
            caption.add_step(row_of(reward, index) or 0.0, success)

    def _glance(self, observation: Any) -> Callable[[], Any]:
        """Return `_look`, put off until a slot that is being recorded asks: rendering and copying are expensive."""
        return Once(lambda: self._look(observation))

    def _look(self, observation: Any) -> Any:
        """Return what the environment shows now, for all slots."""
        raise NotImplementedError

    def _look_terminal(self, info: Any) -> Any:
        """Return what the environment showed, for all slots, before it reset some of them within the step."""

    def _show(self, index: int, shown: Callable[[], Any]) -> None:
        slot = self._first_slot + index
        if self._videos.takes_frames(slot):
            self._record_frames(slot, index, shown())

    def _record_frames(self, slot: int, index: int, shown: Any) -> None:
        """Record the frames at position `index` of what `_look` returned."""
        raise NotImplementedError

    def _record_terminal_frames(self, slot: int, index: int, terminal: Any) -> None:
        """Record the frames at position `index` of what `_look_terminal` returned."""

    def _add(self, slot: int, camera: str | None, frame: RgbFrame) -> None:
        caption = self._captions.get(slot)
        self._videos.add(slot, camera, frame if caption is None else draw(frame, caption.lines()))

    def _stem(self, slot: int, camera: str | None, episode: int) -> str:
        """Return the final file name of an episode's video, without ``.mp4``."""
        raise NotImplementedError

    def _new_video(self, slot: int, camera: str | None, episode: int, attempt: int) -> EpisodeVideo:
        return EpisodeVideo(self._settings, self._stem(slot, camera, episode), camera=camera, attempt=attempt)


def video_recorders(env: Any) -> list[VideoRecorder]:
    """Return the recorders among an environment's wrappers, innermost first."""
    found: list[VideoRecorder] = []
    while isinstance(env, (gymnasium.Wrapper, VectorWrapper)):
        if isinstance(env, VideoRecorder):
            found.append(env)
        env = env.env
    return found[::-1]
