"""The videos of all slots: which episode each slot is in, its running files, and what was finished."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping

from arena_ray.records import VideoFile
from arena_ray.video.encoder import RgbFrame
from arena_ray.video.episode_video import EpisodeVideo


@dataclasses.dataclass
class _Episode:
    index: int
    attempt: int
    videos: dict[str | None, EpisodeVideo] = dataclasses.field(default_factory=dict)


class SlotVideos:
    """Running and finished videos by slot.

    Episodes count per slot from 0 until `assign` is called for the first time; from then on only assigned episodes
    are recorded, so that an environment that resets itself beyond its share writes nothing under a wrong name.

    Args:
        new_video: Makes the file of ``(slot, camera, episode, attempt)``.
        episode_index: The environment's own index of the episode that runs in a slot, if it has one.
    """

    def __init__(
        self,
        new_video: Callable[[int, str | None, int, int], EpisodeVideo],
        episode_index: Callable[[int], int] | None = None,
    ) -> None:
        self._new_video = new_video
        self._episode_index = episode_index
        self._running: dict[int, _Episode] = {}
        self._next: dict[int, tuple[int, int]] = {}
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._only_assigned = False
        self._finished: defaultdict[int, list[VideoFile]] = defaultdict(list)

    def assign(self, episodes: Mapping[int, int], attempt: int) -> None:
        """Give the next episode that starts in a slot its index: ``{slot: index}``."""
        self._only_assigned = True
        self._next.update({slot: (index, attempt) for slot, index in episodes.items()})

    def is_running(self, slot: int) -> bool:
        """Whether an episode of the slot is being recorded."""
        return slot in self._running

    def begin(self, slot: int) -> None:
        """Start an episode. One that still runs is discarded; its index is used again unless another is assigned."""
        aborted = self._running.get(slot)
        if aborted is not None:
            self.discard(slot)
            self._next.setdefault(slot, (aborted.index, aborted.attempt))
        index, attempt = self._next.pop(slot, (None, 1))
        if index is None:
            if self._only_assigned:
                return
            index = self._counts[slot] if self._episode_index is None else self._episode_index(slot)
        self._counts[slot] = index + 1
        self._running[slot] = _Episode(index, attempt)

    def add(self, slot: int, camera: str | None, frame: RgbFrame) -> None:
        """Append a frame, ``uint8[H, W, 3]``; nothing happens if no episode of the slot is being recorded."""
        episode = self._running.get(slot)
        if episode is None:
            return
        if camera not in episode.videos:
            episode.videos[camera] = self._new_video(slot, camera, episode.index, episode.attempt)
        episode.videos[camera].add(frame)

    def fail(self, slot: int, camera: str | None, error: Exception) -> None:
        """Let the running video of a camera take no more frames, because of `error`."""
        episode = self._running.get(slot)
        if episode is not None and camera in episode.videos:
            episode.videos[camera].fail(error)

    def finish(self, slot: int, *, cut_off: bool = False) -> None:
        """Give the running episode's files their final names; `cut_off` says that the episode had not ended."""
        for video in self._end(slot):
            self.report(slot, video.finish(cut_off=cut_off))

    def keep(self, slot: int) -> None:
        """Close the running episode's files and leave them under their partial names."""
        for video in self._end(slot):
            self.report(slot, video.keep())

    def discard(self, slot: int) -> None:
        """Remove the running episode's files."""
        for video in self._end(slot):
            video.discard()

    def running_slots(self) -> tuple[int, ...]:
        """Return the slots whose episodes are being recorded."""
        return tuple(self._running)

    def report(self, slot: int, video: VideoFile | None) -> None:
        """Add a finished video to what `take` returns."""
        if video is not None:
            self._finished[slot].append(video)

    def take(self, slot: int) -> tuple[VideoFile, ...]:
        """Return what was finished for the slot since the last call."""
        return tuple(self._finished.pop(slot, ()))

    def _end(self, slot: int) -> list[EpisodeVideo]:
        episode = self._running.pop(slot, None)
        return [] if episode is None else list(episode.videos.values())
