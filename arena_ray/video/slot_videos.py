"""The videos of all slots: which episode each slot is in, its running files, and what was finished."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping

from arena_ray.records import VideoFile
from arena_ray.video.encoder import RgbFrame
from arena_ray.video.episode_video import EpisodeVideo, outcome_ending
from arena_ray.video.selection import RecordSelection

logger = logging.getLogger(__name__)


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
        new_video: Makes the video of ``(slot, camera, episode, attempt)``.
        selection: Which episodes are recorded and kept.
        outcome_in_name: Whether file names tell the outcome.
        keep_cut_off: Whether the video of an episode that a reset cuts off is kept, and the next one counts on.
        episode_index: The environment's own index of the episode that runs in a slot, if it has one.
    """

    def __init__(
        self,
        new_video: Callable[[int, str | None, int, int], EpisodeVideo],
        selection: RecordSelection | None = None,
        outcome_in_name: bool = False,
        keep_cut_off: bool = False,
        episode_index: Callable[[int], int] | None = None,
    ) -> None:
        self._new_video = new_video
        self._selection = selection or RecordSelection()
        self._outcome_in_name = outcome_in_name
        self._keep_cut_off = keep_cut_off
        self._episode_index = episode_index
        self._running: dict[int, _Episode] = {}
        self._undecided: defaultdict[int, list[EpisodeVideo]] = defaultdict(list)
        self._next: dict[int, tuple[int, int]] = {}
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._is_assigned = False
        self._finished: defaultdict[int, list[VideoFile]] = defaultdict(list)
        self._said_unknown = False

    @property
    def is_assigned(self) -> bool:
        """Whether someone assigns the episodes, who will also tell their outcome."""
        return self._is_assigned

    @property
    def needs_outcome(self) -> bool:
        """Whether the outcome of an episode decides what becomes of its video."""
        return self._selection.by_outcome or self._outcome_in_name

    def assign(self, episodes: Mapping[int, int], attempt: int) -> None:
        """Give the next episode that starts in a slot its index: ``{slot: index}``."""
        self._is_assigned = True
        self._next.update({slot: (index, attempt) for slot, index in episodes.items()})

    def is_running(self, slot: int) -> bool:
        """Whether an episode of the slot is being recorded."""
        return slot in self._running

    def takes_frames(self, slot: int) -> bool:
        """Whether an episode of the slot is being recorded that takes its next frames."""
        episode = self._running.get(slot)
        if episode is None:
            return False
        if len(episode.videos) == 1:  # Asked for each frame: most episodes have one video.
            (video,) = episode.videos.values()
            return video.takes_frames()
        taking = [video.takes_frames() for video in episode.videos.values()]
        return any(taking) or not taking

    def episode_of(self, slot: int) -> int:
        """Return the index of the episode that is being recorded in a slot."""
        return self._running[slot].index

    def most_frames(self) -> int:
        """Return the length of the longest running video, in frames."""
        running = [video.frames for episode in self._running.values() for video in episode.videos.values()]
        return max(running, default=0)

    def begin(self, slot: int) -> None:
        """Start an episode. One that still runs is discarded; its index is used again unless another is assigned."""
        aborted = self._running.get(slot)
        if aborted is not None and self._keep_cut_off:
            self.finish(slot, cut_off=True)
        elif aborted is not None:
            self.discard(slot)
            self._next.setdefault(slot, (aborted.index, aborted.attempt))
        index, attempt = self._next.pop(slot, (None, 1))
        if index is None:
            if self._is_assigned:
                return
            index = self._counts[slot] if self._episode_index is None else self._episode_index(slot)
        self._counts[slot] = index + 1
        if self._selection.wants(index):
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

    def finish(self, slot: int, *, success: bool | None = None, cut_off: bool = False) -> None:
        """Give the running episode's files their final names, or remove them, whatever its outcome asks for.

        Args:
            slot: The slot.
            success: The outcome. Where someone assigns the episodes, the outcome is what `take` is told.
            cut_off: Whether the episode had not ended.
        """
        videos = self._end(slot)
        if self._is_assigned and self.needs_outcome and not cut_off:
            for video in videos:
                video.close()
            self._undecided[slot] += videos
        else:
            self._decide(slot, videos, success, cut_off=cut_off)

    def _decide(self, slot: int, videos: list[EpisodeVideo], success: bool | None, *, cut_off: bool = False) -> None:
        if videos and success is None and self._selection.by_outcome and not cut_off:
            self._say_that_nothing_tells_success()
        ending = outcome_ending(success) if self._outcome_in_name else ""
        for video in videos:
            if cut_off or self._selection.keeps(success):
                self._finished[slot] += video.finish(cut_off=cut_off, ending=ending)
            else:
                video.drop()

    def _say_that_nothing_tells_success(self) -> None:
        if not self._said_unknown:
            self._said_unknown = True
            logger.warning(
                "an episode's outcome is not known, so its video is not kept; name success.key, or record all"
            )

    def keep(self, slot: int) -> None:
        """Close the files of an episode that broke, and leave them under their partial names."""
        for video in (*self._end(slot), *self._undecided.pop(slot, ())):
            if self._selection.keeps_broken:
                self._finished[slot] += video.keep()
            else:
                video.discard()

    def discard(self, slot: int) -> None:
        """Remove the running episode's files."""
        for video in self._end(slot):
            video.discard()

    def running_slots(self) -> tuple[int, ...]:
        """Return the slots whose episodes are being recorded."""
        return tuple(self._running)

    def report(self, slot: int, videos: tuple[VideoFile, ...]) -> None:
        """Add finished videos to what `take` returns."""
        self._finished[slot] += videos

    def take(self, slot: int, success: bool | None = None) -> tuple[VideoFile, ...]:
        """Return what was finished for the slot since the last call.

        Args:
            slot: The slot.
            success: The outcome of its last episode; decides whether that is kept.
        """
        self._decide(slot, self._undecided.pop(slot, []), success)
        return tuple(self._finished.pop(slot, ()))

    def discard_undecided(self) -> None:
        """Remove videos of episodes that ended and whose outcome nobody told."""
        for videos in self._undecided.values():
            for video in videos:
                video.discard()
        self._undecided.clear()

    def _end(self, slot: int) -> list[EpisodeVideo]:
        episode = self._running.pop(slot, None)
        return [] if episode is None else list(episode.videos.values())
