"""Divides the time of calls that serve several slots at once evenly over the slots that run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from arena_ray.envs.episode_tracker import EpisodeTracker
from arena_ray.video.video_recorder import VideoRecorder


class SharedTime:
    """The time of a batched environment, by slot.

    It adds up what one slot's share has been; an episode's time is what was added between its begin and its end. Used
    as a context, around each call that serves the running slots.

    Args:
        recorders: The environment's video recorders.
    """

    def __init__(self, recorders: Sequence[VideoRecorder]) -> None:
        self._recorders = recorders
        self._running: set[int] = set()
        self._begun_at: dict[int, tuple[float, float]] = {}
        self._busy_s = self._recording_s = 0.0
        self._started_at = self._recorded_before_s = 0.0

    def begin(self, slots: Iterable[int]) -> None:
        """Be told that an episode begins in each of these slots."""
        for slot in slots:
            self._running.add(slot)
            self._begun_at[slot] = (self._busy_s, self._recording_s)

    def end(self, slot: int, tracker: EpisodeTracker) -> None:
        """Tell the tracker of a slot whose episode ended what its time was."""
        self.forget(slot)
        busy_s, recording_s = self._begun_at[slot]
        tracker.busy_s = self._busy_s - busy_s
        # Recorders in child processes tell their time late, when some of the slots that it was for may have ended.
        tracker.recording_s = min(self._recording_s - recording_s, tracker.busy_s)

    def forget(self, slot: int) -> None:
        """Be told that the episode of a slot was given up."""
        self._running.discard(slot)

    def _recorders_s(self) -> float:
        return sum(recorder.recording_s for recorder in self._recorders)

    def __enter__(self) -> None:
        self._recorded_before_s = self._recorders_s()
        self._started_at = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        num_running = max(1, len(self._running))
        self._busy_s += (time.perf_counter() - self._started_at) / num_running
        self._recording_s += (self._recorders_s() - self._recorded_before_s) / num_running
