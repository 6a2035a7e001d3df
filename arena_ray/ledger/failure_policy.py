"""What each kind of failure means: whose fault it is, what is tried again, and what the record says."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from arena_ray.records import EpisodeStatus

Culprit: TypeAlias = Literal["environment", "policy", "job", "worker", "machine", "disk"]

#: A back-off doubles with each failure in a row up to so many seconds.
LONGEST_BACK_OFF_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class FaultRule:
    """What one kind of failure means.

    Attributes:
        culprit: Whose fault it is.
        retried: Whether the episodes in flight are tried again.
        charged: Whether that uses up one of their attempts (or one of the attempts to start a worker). Episodes that
            only waited are never charged.
        status: What the record of an episode says that is not tried (again); ``None``: it gets no record.
        back_off_s: How long the job waits before a chunk is handed out again, seconds; doubles with each in a row.
        ends: What takes no further episode because of it.
    """

    culprit: Culprit
    retried: bool
    charged: bool
    status: EpisodeStatus | None
    back_off_s: float = 0.0
    ends: Literal["nothing", "run", "run unless continue_on_error"] = "nothing"


#: The failure policy. An exception is deterministic, so it is not retried; the loss of a worker may have any cause.
#: What charges nothing does so `job_ledger.FREE_LOSSES` times per episode.
FAULTS = {
    "environment_error": FaultRule("environment", False, False, "error", ends="run unless continue_on_error"),
    "policy_error": FaultRule("policy", False, False, "error", ends="run unless continue_on_error"),
    "build_error": FaultRule("job", False, False, None, ends="run unless continue_on_error"),
    "failed_start": FaultRule("worker", True, True, "error", back_off_s=1.0),
    "start_timeout": FaultRule("worker", True, True, "timeout"),
    "died": FaultRule("worker", True, True, "error"),
    "out_of_memory": FaultRule("worker", True, True, "error", back_off_s=2.0),
    "stalled": FaultRule("worker", True, True, "timeout"),
    "episode_timeout": FaultRule("worker", True, True, "timeout"),
    "preempted": FaultRule("machine", True, False, None, back_off_s=1.0),
    "node_lost": FaultRule("machine", True, False, None, back_off_s=1.0),
    "unreachable": FaultRule("machine", True, False, None, back_off_s=1.0),
    "unshared": FaultRule("machine", True, False, None),
    "unfit": FaultRule("machine", True, False, None),
    "storage_error": FaultRule("disk", False, False, None, ends="run"),
}


def back_off_s(cause: str, in_a_row: int) -> float:
    """Return how long to wait after the so-manieth failure of a kind in a row, seconds."""
    first = FAULTS[cause].back_off_s
    return min(first * 2.0 ** min(in_a_row - 1, 30), LONGEST_BACK_OFF_S) if first else 0.0
