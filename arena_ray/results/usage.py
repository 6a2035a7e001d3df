"""Where the wall time of a job's chunks went, summed over chunks and workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

#: What the time of a worker goes into, each with its key ``<part>_s``; ``other`` is our own machinery.
PARTS = ("environment", "policy", "recording", "waiting", "other")

_SECONDS = ("wall_s", *(f"{part}_s" for part in PARTS))
_COUNTS = ("steps", "policy_calls")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobUsage:
    """Where the wall time of a job's chunks went; what each key means is said at `records.ChunkUsage`.

    Attributes:
        chunks: Chunks that told; one that was lost with its worker did not.
        wall_s: Their wall time, seconds; of chunks that ran beside each other, the sum.
        environment_s: Sum.
        policy_s: Sum.
        recording_s: Sum.
        waiting_s: Sum.
        other_s: Sum.
        steps: Sum.
        policy_calls: Sum.
        slots: Most slots that a worker had.
        gpu_utilization: Mean, 0 to 1, by the wall time of the chunks that told; ``None`` if none did.
        gpu_mb: Largest; ``None`` if nobody told.
    """

    chunks: int
    wall_s: float
    environment_s: float
    policy_s: float
    recording_s: float
    waiting_s: float
    other_s: float
    steps: int
    policy_calls: int
    slots: int
    gpu_utilization: float | None = None
    gpu_mb: float | None = None

    @property
    def shares(self) -> dict[str, float | None]:
        """Each part's share of the wall time, 0 to 1, by its name in `PARTS`; ``None`` if there was no time."""
        return {part: getattr(self, f"{part}_s") / self.wall_s if self.wall_s else None for part in PARTS}

    @property
    def batch(self) -> float | None:
        """Observations of running episodes that a call of `act` answered, on average; ``None`` without a call."""
        return self.steps / self.policy_calls if self.policy_calls else None

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``summary.json``."""
        content = {**dataclasses.asdict(self), "shares": self.shares}
        return {key: _rounded(value) for key, value in content.items()}


class UsageTally:
    """Adds up what the events ``chunk_finished`` say under ``usage``."""

    def __init__(self) -> None:
        self._chunks = 0
        self._sums: dict[str, float] = dict.fromkeys((*_SECONDS, *_COUNTS), 0)
        self._slots = 0
        self._gpu_busy_s = self._gpu_wall_s = 0.0
        self._gpu_mb: float | None = None

    def add(self, content: Mapping[str, Any]) -> None:
        """Add a chunk.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is no number.
        """
        values = {key: content[key] + 0 for key in self._sums}
        slots = max(self._slots, content["slots"])
        busy, held = (None if content[key] is None else content[key] + 0 for key in ("gpu_utilization", "gpu_mb"))
        self._chunks += 1
        self._slots = slots
        for key, value in values.items():
            self._sums[key] += value
        if busy is not None:
            self._gpu_busy_s += busy * values["wall_s"]
            self._gpu_wall_s += values["wall_s"]
        if held is not None:
            self._gpu_mb = max(held, self._gpu_mb or 0.0)

    def total(self) -> JobUsage | None:
        """Return what was added up; ``None`` if nothing was."""
        if not self._chunks:
            return None
        seconds = {key: float(self._sums[key]) for key in _SECONDS}
        return JobUsage(
            chunks=self._chunks,
            **seconds,
            steps=int(self._sums["steps"]),
            policy_calls=int(self._sums["policy_calls"]),
            slots=self._slots,
            gpu_utilization=self._gpu_busy_s / self._gpu_wall_s if self._gpu_wall_s else None,
            gpu_mb=self._gpu_mb,
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
