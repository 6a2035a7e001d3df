"""How far the jobs of a run are, while it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from arena_ray import statistics
from arena_ray.records import EpisodeRecord
from arena_ray.specs import StopWhen


@dataclasses.dataclass
class RunningJob:
    """How far a job is.

    Attributes:
        name: The job's name.
        requested: Episodes asked for; ``None`` for `num_steps`.
        stop_when: When it is sure and stops; ``None``: after all episodes.
        done: Episodes with a record.
        failed: Of these, errors and timeouts.
        successes: Completed episodes that succeeded.
        judged: Completed episodes that said whether they succeeded.
        is_sure: Whether it has stopped; what was in flight then is not counted.
    """

    name: str
    requested: int | None
    stop_when: StopWhen | None = None
    done: int = 0
    failed: int = 0
    successes: int = 0
    judged: int = 0
    is_sure: bool = False

    def stop(self) -> None:
        """Be told that it has stopped because it is sure: nothing more is asked for."""
        self.requested, self.is_sure = self.done, True

    def add(self, record: EpisodeRecord) -> None:
        """Count a record."""
        if self.is_sure:
            return
        self.done += 1
        self.failed += record.status != "completed"
        if record.status == "completed" and record.success is not None:
            self.judged += 1
            self.successes += record.success

    def resumed(self, counts: Mapping[str, Any]) -> RunningJob:
        """Return the job with what the event ``run_resumed`` says of it."""
        return dataclasses.replace(self, **counts)

    @property
    def rate(self) -> float | None:
        """The success rate so far; ``None`` without data."""
        return self.successes / self.judged if self.judged else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The rate's Wilson interval, 95 %, or the sequence that may stop the job; ``None`` without data."""
        if self.stop_when is not None and self.judged:
            wanted = self.stop_when
            return statistics.confidence_sequence(self.successes, self.judged, wanted.half_width, wanted.confidence)
        return statistics.wilson_interval(self.successes, self.judged) if self.judged else None
