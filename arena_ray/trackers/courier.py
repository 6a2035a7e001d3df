"""Takes what happens in a run to one tracker, in a thread of its own: a tracker never keeps the driver waiting."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from arena_ray.trackers.base import FailureVideo, FinalResult, Point, TrackedRun, Tracker

logger = logging.getLogger(__name__)

#: So much may wait for a tracker; what comes on top is left out, and counted.
MOST_WAITING = 20_000

#: What arrives within so long is handed over together, seconds.
BATCH_S = 0.5

Item: TypeAlias = Point | FailureVideo


class Courier:
    """A tracker's thread and what waits for it.

    Args:
        name: Name of the tracker.
        tracker: The tracker.
        report: Called, from the thread, with kind and fields of an event.
    """

    def __init__(self, name: str, tracker: Tracker, report: Callable[[str, dict[str, Any]], None]) -> None:
        self.name = name
        self._tracker = tracker
        self._report = report
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._final: FinalResult | None = None
        self._given_up = False
        self._left_out: Counter[type[Item]] = Counter()
        self._told: set[str] = set()
        self._thread: threading.Thread | None = None

    def start(self, run: TrackedRun) -> None:
        """Begin to deliver."""
        self._thread = threading.Thread(target=self._deliver, args=(run,), name=f"tracker-{self.name}", daemon=True)
        self._thread.start()

    def take(self, item: Item) -> None:
        """Deliver an item when the tracker is ready for it; returns at once."""
        with self._changed:
            if self._given_up:
                return
            if len(self._waiting) >= MOST_WAITING:
                self._left_out[type(item)] += 1
                return
            self._waiting.append(item)
            self._changed.notify()

    def conclude(self, final: FinalResult) -> None:
        """Deliver what waits, then what the run came to; returns at once."""
        with self._changed:
            self._final = final
            self._changed.notify()

    def give_up(self) -> None:
        """Deliver nothing more."""
        with self._changed:
            self._given_up = True
            self._waiting.clear()
            self._changed.notify()

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is delivered, at most so long; return whether it is."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _deliver(self, run: TrackedRun) -> None:
        try:
            begun = self._tracker.start(run)
            self._report("tracker_started", {"tracker": self.name, "id": begun.id, "where": begun.where})
            while batch := self._next_batch():
                self._hand_over(batch)
            if self._final is not None and not self._given_up:
                self._tell_what_was_left_out()
                self._tracker.finish(self._final)
        except Exception as error:
            logger.debug("tracker %s failed", self.name, exc_info=True)
            self._warn("failed", f"{_words(error)}; the run goes on without it")
            self.give_up()

    def _next_batch(self) -> list[Item]:
        """Wait for items and return all there are; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._final is not None or self._given_up)
            self._changed.wait_for(lambda: self._final is not None or self._given_up, BATCH_S)
            batch = [*self._waiting]
            self._waiting.clear()
        return [] if self._given_up else batch

    def _hand_over(self, batch: Sequence[Item]) -> None:
        """Hand items over in their order: points that follow each other together."""
        for _, group in itertools.groupby(batch, type):
            items = [*group]
            points = [item for item in items if isinstance(item, Point)]
            if points and not self._given_up:
                self._tracker.log(points)
            for video in items:
                if isinstance(video, FailureVideo) and not self._given_up:
                    self._hand_over_video(video)

    def _hand_over_video(self, video: FailureVideo) -> None:
        try:
            self._tracker.log_video(video)
        except Exception as error:
            logger.debug("tracker %s did not take %s", self.name, video.path, exc_info=True)
            self._warn("video", f"{video.path.name} of job {video.job} is not in it: {_words(error)}")

    def _tell_what_was_left_out(self) -> None:
        if self._left_out:
            points, videos = self._left_out[Point], self._left_out[FailureVideo]
            message = f"it was slower than the run: {points} episodes and {videos} videos are not in it"
            self._warn("slow", message)

    def _warn(self, what: str, message: str) -> None:
        """Report a warning; of each sort the first."""
        if what not in self._told:
            self._told.add(what)
            text = f"tracker {self.name}: {message}"
            self._report("warning", {"topic": f"tracker_{what}", "tracker": self.name, "message": text})


def wait_for(couriers: Sequence[Courier], timeout_s: float, in_a_hurry: Callable[[], bool]) -> list[Courier]:
    """Wait until all couriers have delivered everything; return those that have not.

    Args:
        couriers: Whom to wait for.
        timeout_s: How long, in all.
        in_a_hurry: Asked now and then; True gives up.
    """
    deadline = time.monotonic() + timeout_s
    late = [*couriers]
    while late and time.monotonic() < deadline and not in_a_hurry():
        late = [courier for courier in late if not courier.wait(0.05)]
    return late


def _words(error: Exception) -> str:
    """Return an error's type and the first lines of its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"
