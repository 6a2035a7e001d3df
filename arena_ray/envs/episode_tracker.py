"""Adds up an episode while it is stepped: return, length, success and the job's metrics."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from typing import Any

from arena_ray.envs.base import Outcome, Ticket
from arena_ray.records import EpisodeError, VideoFile
from arena_ray.specs import MetricSpec, SuccessSpec
from arena_ray.video.caption import SUCCESS_KEYS


class EpisodeTracker:
    """What one episode comes to.

    Args:
        ticket: The episode.
        success: Where its success stands.
        metrics: The job's metrics.
        seeded: Whether the environment begins it with the ticket's seed.

    Attributes:
        success: The outcome so far; ``None`` when the environment says nothing.
        length: Steps so far.
        busy_s: Time in the environment so far; whoever steps it adds to this.
        recording_s: Of `busy_s`, time in the video recorders; to be set before the outcome is asked for.
    """

    def __init__(
        self, ticket: Ticket, success: SuccessSpec, metrics: tuple[MetricSpec, ...], seeded: bool = True
    ) -> None:
        self.ticket = ticket
        self._seeded = seeded
        self._success_keys = SUCCESS_KEYS if success.key is None else (success.key,)
        self._any_success = success.when == "any"
        self.success: bool | None = None
        self._metrics = {spec.key: _Reduction(spec.reduce) for spec in metrics}
        self._return = 0.0
        self.length = 0
        self.busy_s = self.recording_s = 0.0
        self._started_at = datetime.datetime.now(datetime.timezone.utc)
        self._start = time.perf_counter()

    def step(self, reward: float, info: Mapping[str, Any]) -> None:
        """Add one step.

        Args:
            reward: The step's reward.
            info: The step's info; of the terminal step where the episode ended.
        """
        self._return += reward
        self.length += 1
        if info:
            self._read(info)
        elif not self._any_success:
            self.success = None

    def _read(self, info: Mapping[str, Any]) -> None:
        success = self._read_success(info)
        if not self._any_success:
            self.success = success
        elif success is not None:
            self.success = bool(self.success) or success
        for key, reduction in self._metrics.items():
            if key in info:
                reduction.add(as_number(info[key]))

    def _read_success(self, info: Mapping[str, Any]) -> bool | None:
        for key in self._success_keys:
            if key in info:
                value = as_number(info[key])
                return None if value is None else bool(value)
        return None

    def outcome(self, terminated: bool, truncated: bool, videos: tuple[VideoFile, ...]) -> Outcome:
        """Return the outcome of an episode that ended."""
        return Outcome(
            ticket=self.ticket,
            seeded=self._seeded,
            success=self.success,
            episode_return=self._return,
            length=self.length,
            terminated=terminated,
            truncated=truncated,
            metrics={key: reduction.value() for key, reduction in self._metrics.items()},
            videos=videos,
            started_at=self._started_at,
            duration_s=time.perf_counter() - self._start,
            busy_s=self.busy_s,
            recording_s=self.recording_s,
        )

    def failure(self, error: EpisodeError, videos: tuple[VideoFile, ...]) -> Outcome:
        """Return the outcome of an episode that environment or policy broke."""
        return Outcome(
            ticket=self.ticket,
            seeded=self._seeded,
            length=self.length,
            metrics=dict.fromkeys(self._metrics),
            videos=videos,
            started_at=self._started_at,
            duration_s=time.perf_counter() - self._start,
            busy_s=self.busy_s,
            recording_s=self.recording_s,
            error=error,
        )


class _Reduction:
    """Many numbers to one: ``last``, ``sum``, ``mean`` or ``max``; ``None`` when there was none."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._n = 0
        self._value = 0.0

    def add(self, value: float | None) -> None:
        if value is None:
            return
        self._n += 1
        if self._kind == "last" or self._n == 1:
            self._value = value
        elif self._kind == "max":
            self._value = max(self._value, value)
        else:
            self._value += value

    def value(self) -> float | None:
        if self._n == 0:
            return None
        return self._value / self._n if self._kind == "mean" else self._value


def as_number(value: Any) -> float | None:
    """Return a bool, number, or array or tensor of one element as a float; ``None`` for anything else."""
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        return None
