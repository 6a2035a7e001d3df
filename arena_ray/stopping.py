"""After which episode a job that stops when it is sure has stopped: the same however its episodes were run.

The decision looks at the job's first k episodes, 0 to k - 1, for k = 1, 2, ... in turn. It stops at the first k whose
success rate is known to within the half-width (`statistics.confidence_sequence`). A record that arrives earlier than
one before it waits, so the decision depends on what the episodes came to, and not on which ended first: were it made
on those that have ended, short episodes would be favoured. An episode that is recorded as ``error`` or ``timeout``, or
whose environment does not say whether it succeeded, is among the k and says nothing of the rate.

What ended beyond k keeps its record, and counts for nothing that is reported. (Before the job has stopped nobody knows
where k lies: an error ends a run without `continue_on_error` wherever it is, and then `resume` goes on to k.)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from arena_ray.records import EpisodeStatus
from arena_ray.specs import StopWhen
from arena_ray.statistics import confidence_sequence, episodes_until_within, is_within


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Where a job stopped because its rule said so.

    Attributes:
        at: The number of its first episodes that count, those with an index below it.
        metric: What is known well enough.
        half_width: To within what it is known: the larger of both distances from the value to its interval's ends.
        confidence: With which.
        beyond: Episodes with a record that do not count, because they were in flight when it stopped.
    """

    at: int
    metric: str
    half_width: float
    confidence: float
    beyond: int

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in files."""
        return dataclasses.asdict(self)

    def words(self, requested: int | None) -> str:
        """Return it for people.

        Args:
            requested: The most episodes that would have been run.
        """
        return (
            f"stopped after {self.at} of {requested} episodes: its success rate is known to within "
            f"{100 * self.half_width:.3g} points ({100 * self.confidence:g} %)"
        )


class StopRule:
    """Is told what a job's episodes came to, in any order, and says where the job stops.

    Args:
        wanted: What is to be known.

    Attributes:
        at: The number of first episodes after which the job stops; ``None``: not yet.
        errors: Of the first episodes that it has looked at, those recorded as ``error`` or ``timeout``.
        total: Episodes that it was told.
    """

    def __init__(self, wanted: StopWhen) -> None:
        self._wanted = wanted
        self._early: dict[int, tuple[EpisodeStatus, bool | None]] = {}
        self._next = self._successes = self._outcomes = 0
        self.at: int | None = None
        self.errors = 0
        self.total = 0

    def add(self, episode: int, status: EpisodeStatus, success: bool | None) -> bool:
        """Be told what an episode came to, once; return whether the job stops now.

        Args:
            episode: Its index.
            status: What its record says.
            success: Whether it succeeded; ``None`` where nobody said.
        """
        self.total += 1
        if self.at is not None:
            return False
        self._early[episode] = (status, success)
        while self.at is None and self._next in self._early:
            self._look_at(*self._early.pop(self._next))
        return self.at is not None

    def _look_at(self, status: EpisodeStatus, success: bool | None) -> None:
        self._next += 1
        self.errors += status != "completed"
        if status != "completed" or success is None:
            return
        self._outcomes += 1
        self._successes += success
        if is_within(self._successes, self._outcomes, self._wanted.half_width, self._wanted.confidence):
            self.at = self._next

    def likely_end(self) -> int:
        """Return after how many of the first episodes the job stops if its rate stays what it is.

        Without any outcome: after how many it could at the earliest.
        """
        rate = self._successes / self._outcomes if self._outcomes else 1.0
        needed = episodes_until_within(rate, self._wanted.half_width, self._wanted.confidence)
        return self._next + max(0, needed - self._outcomes)

    def stopped(self) -> Stopped | None:
        """Return where the job stopped; ``None`` if it has not."""
        if self.at is None:
            return None
        wanted, rate = self._wanted, self._successes / self._outcomes
        low, high = confidence_sequence(self._successes, self._outcomes, wanted.half_width, wanted.confidence)
        return Stopped(
            at=self.at,
            metric=wanted.metric,
            half_width=max(rate - low, high - rate),
            confidence=wanted.confidence,
            beyond=self.total - self.at,
        )
