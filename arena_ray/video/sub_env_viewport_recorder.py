"""Records the viewport inside each sub-environment of a `SyncVectorEnv` or `AsyncVectorEnv`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium.vector import SyncVectorEnv, VectorWrapper

from arena_ray.records import VideoFile
from arena_ray.specs import VideoRecordingCfg
from arena_ray.video.encoder import EncoderBackend
from arena_ray.video.sub_env_recorders import ChildProcessRecorders, InProcessRecorders, NoBackend, SubEnvRecorders
from arena_ray.video.viewport_video_recorder import Trigger, ViewportVideoRecorder


class SubEnvViewportRecorder(ViewportVideoRecorder, VectorWrapper[Any, Any, Any, Any, Any]):
    """Collects from recorders that sit in the sub-environments."""

    def __init__(
        self,
        env: Any,
        video_folder: str | Path,
        episode_trigger: Trigger | None = None,
        step_trigger: Trigger | None = None,
        video_length: int = 0,
        name_prefix: str = "rl-video",
        fps: float | None = None,
        *ignored: Any,
        record_first_only: bool = False,
        slot: int = 0,
        cfg: VideoRecordingCfg | None = None,
        success_key: str | None = None,
        **more: Any,
    ) -> None:
        triggered = (episode_trigger, step_trigger, video_length, name_prefix, fps, *ignored)
        more["record_first_only"] = record_first_only
        super().__init__(env, video_folder, *triggered, slot=slot, cfg=cfg, success_key=success_key, **more)
        wrap = functools.partial(
            _wrap_sub_env,
            slot,
            (str(self._folder), *triggered),
            {"cfg": cfg, "success_key": success_key},
            record_first_only,
        )
        base = env.unwrapped
        kind = InProcessRecorders if isinstance(base, SyncVectorEnv) else ChildProcessRecorders
        self._inside: SubEnvRecorders = kind(base, wrap)
        self._counted_s = 0.0

    def _open_backend(self) -> EncoderBackend:
        return NoBackend()

    @property
    def recording(self) -> bool:
        """Whether any sub-environment is being recorded."""
        return any(recording for recording, _, _ in self._states())

    @property
    def recorded_frames(self) -> range:
        """Something as long as the longest recording is."""
        return range(max((frames for _, frames, _ in self._states()), default=0))

    @property
    def episode_id(self) -> int:
        """Index of the episode that began last, in the first slot; -1 before the first."""
        return next((episode for _, _, episode in self._states()), -1)

    def _states(self) -> list[tuple[bool, int, int]]:
        return [state for state in self._call_all("recording_state") if state is not None]

    def start_recording(self, video_name: str, ending: str = "") -> None:
        """Start a recording ``<video_name>-env<N><ending>.mp4`` in each sub-environment."""
        for index in self._clip_indices():
            slot = f"-env{self._first_slot + index}"
            self._inside.call(index, "start_recording", video_name, f"{slot}{ending}")

    def _complete_all(self) -> None:
        for index, state in enumerate(self._call_all("recording_state")):
            if state is not None and state[0]:
                self._inside.call(index, "stop_recording")

    def _call_all(self, name: str, *arguments: Any) -> list[Any]:
        return [self._inside.call(index, name, *arguments) for index in range(self._num_slots)]

    def assign_episodes(self, episodes: Mapping[int, int], attempt: int = 1) -> None:
        """Say which episode starts next in a slot; from then on only assigned episodes are recorded."""
        self._call_all("assign_episodes", dict(episodes), attempt)

    def begin_chunk(self, chunk_index: int) -> None:
        """Say which chunk begins; what was shown before is none of its time."""
        super().begin_chunk(chunk_index)
        self._count_time_inside()

    def take_videos(self, slot: int, success: bool | None = None) -> tuple[VideoFile, ...]:
        """Return what was finished for a slot since the last call, partial files included."""
        if not self._closed:
            self._fetch(slot - self._first_slot, success)
        return super().take_videos(slot)

    def discard_episode(self, slot: int) -> None:
        """Remove the running video of a slot; it is not reported."""
        self._inside.call(slot - self._first_slot, "discard_episode", slot)

    def abort_episode(self, slot: int) -> None:
        """Close the running video of a slot whose episode broke; it keeps its partial name and is reported."""
        self._inside.call(slot - self._first_slot, "abort_episode", slot)

    def end_recording(self) -> None:
        """End the running videos as `close` does."""
        for index in range(self._num_slots):
            self._inside.call(index, "end_recording")
            self._fetch(index)

    def keep_running_videos(self) -> None:
        """Close the running videos, leave them under their partial names, and report them as partial."""
        for index in range(self._num_slots):
            self._inside.call(index, "keep_running_videos")
            self._fetch(index)

    def _keep_running(self, error: BaseException) -> None:
        for index, video in self._inside.left_behind(error):
            self._videos.report(self._first_slot + index, (video,))
        self.keep_running_videos()

    def _fetch(self, index: int, success: bool | None = None) -> None:
        slot = self._first_slot + index
        self._videos.report(slot, tuple(self._inside.call(index, "take_videos", slot, success) or ()))
        self._count_time_inside()

    def _count_time_inside(self) -> None:
        inside_s = self._inside.recording_s()
        self.recording_s += inside_s - self._counted_s
        self._counted_s = inside_s

    def _record_reset(self, chosen: frozenset[int] | None, observation: Any) -> None:
        self._count_time_inside()

    def _record_step(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        self.step_id += 1
        self._count_time_inside()


def _wrap_sub_env(
    first_slot: int, arguments: tuple[Any, ...], keywords: dict[str, Any], first_only: bool, env: Any, index: int
) -> Any:
    """Return a sub-environment in its recorder, whose names tell its slot."""
    slot = first_slot + index
    if first_only and index > 0:
        arguments = (arguments[0], _never, None, *arguments[3:])
    recorder = ViewportVideoRecorder(env, *arguments, slot=slot, **keywords)
    if keywords["cfg"] is None:
        recorder.name_prefix += f"-env{slot}"
    return recorder


def _never(index: int) -> bool:
    return False
