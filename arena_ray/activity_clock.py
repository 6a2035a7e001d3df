"""Where the time of a rollout goes: one activity at a time, told when it changes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal, TypeAlias

from arena_ray.envs.base import Outcome
from arena_ray.worker_events import ChunkUsage

Activity: TypeAlias = Literal["environment", "policy", "waiting", "other"]


class ActivityClock:
    """Adds up the wall time of each activity; a change costs a fraction of a microsecond."""

    def __init__(self) -> None:
        self._spent: dict[Activity, float] = {"environment": 0.0, "policy": 0.0, "waiting": 0.0, "other": 0.0}
        self._activity: Activity = "other"
        self._since = time.perf_counter()
        self._calls = 0
        self._busy_s = self._recording_s = 0.0

    def start(self, activity: Activity) -> None:
        """Be told that from now on time goes into something else."""
        now = time.perf_counter()
        self._spent[self._activity] += now - self._since
        self._activity, self._since = activity, now

    def called(self) -> None:
        """Count a call of the policy."""
        self._calls += 1

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Take in what episodes that ended say of their time."""
        for outcome in outcomes:
            self._busy_s += outcome.busy_s
            self._recording_s += outcome.recording_s

    def usage(self, steps: int, num_slots: int) -> ChunkUsage:
        """Return the sums so far.

        Recorders work inside of the environment's calls, wherever these run, so theirs is the same share of the time
        in which the rollout waits for environments as it is of the time inside environments.
        """
        self.start(self._activity)
        environment_s = self._spent["environment"]
        recording_s = environment_s * min(1.0, self._recording_s / self._busy_s) if self._busy_s else 0.0
        return ChunkUsage(
            wall_s=sum(self._spent.values()),
            environment_s=environment_s - recording_s,
            policy_s=self._spent["policy"],
            recording_s=recording_s,
            waiting_s=self._spent["waiting"],
            steps=steps,
            policy_calls=self._calls,
            slots=num_slots,
        )
