"""What a worker streams while it runs a chunk, beside records: that it is ready, gets on, noticed something, failed.

The events are plain data: exceptions never cross a process boundary, their text does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from arena_ray.records import EpisodeError, EpisodeRecord, WorkerInfo
from arena_ray.specs import SlotChoice


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady:
    """A worker has built environment and policy and begins its chunk.

    Attributes:
        worker: Who it is.
        build_s: How long building took, seconds.
        devices: What the worker's GPUs are to CUDA, EGL and others; ``None`` where there is nothing to say.
    """

    worker: WorkerInfo
    build_s: float
    devices: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what the event ``worker_started`` says; `devices` only where there is something to say."""
        said = {"worker": dataclasses.asdict(self.worker), "build_s": round(self.build_s, 3)}
        return said if self.devices is None else {**said, "devices": dict(self.devices)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeStarted:
    """An episode is about to be reset in a slot."""

    episode: int
    slot: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpisodesReturned:
    """Episodes that had begun wait again, to be run alone: something that served several of them broke."""

    episodes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """Episodes have ended, and their records come when their videos have arrived; without episodes: that goes on."""

    episodes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilePiece:
    """A part of a file that a worker wrote on its own disk; the parts of a file come in order.

    Attributes:
        path: The file, relative to the run directory, with ``/``.
        offset: Where in the file the part begins, bytes.
        data: The part.
        sha256: Of the whole file, with its last part; else ``None``.
    """

    path: str
    offset: int
    data: bytes = dataclasses.field(repr=False)
    sha256: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """About once a second while environments step: how many steps this chunk has made."""

    steps: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    """What a worker and everything that it started hold.

    Attributes:
        resident_mb: Resident memory, MB (10^6 bytes).
        gpu_mb: Memory on the GPUs, MB; ``None`` where nobody knows.
        amid: Whether it was taken in the middle of a chunk, and not at its beginning or end.
    """

    resident_mb: float
    gpu_mb: float | None = None
    amid: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChunkUsage:
    """Where the wall time of one chunk in one worker went, seconds; yielded at the chunk's end.

    Attributes:
        wall_s: From the first episode's begin to the end of the chunk.
        environment_s: In environments (`reset`, `step`, and waiting for those in child processes), without recorders.
        policy_s: In the policy (`act`, `reset`).
        recording_s: In the video recorders.
        waiting_s: The worker waited for the driver, or had nothing to do.
        steps: Environment steps, over all slots.
        policy_calls: Calls of `act`; each answered ``steps / policy_calls`` observations on average.
        slots: Slots of the worker.
        gpu_utilization: Mean share of the time, 0 to 1, in which some kernel ran on the worker's GPU (NVML), whoever's
            it was; ``None`` without GPU, without NVML, or where the chunk was too short to tell.
        gpu_mb: Most memory of GPUs that the worker was seen to hold, MB (10^6 bytes).
    """

    wall_s: float
    environment_s: float
    policy_s: float
    recording_s: float
    waiting_s: float
    steps: int
    policy_calls: int
    slots: int = 1
    gpu_utilization: float | None = None
    gpu_mb: float | None = None

    @property
    def other_s(self) -> float:
        """What is left of the wall time: our own machinery."""
        return max(0.0, self.wall_s - self.environment_s - self.policy_s - self.recording_s - self.waiting_s)

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in the event ``chunk_finished``."""
        content = {**dataclasses.asdict(self), "other_s": self.other_s}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in content.items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What the first worker of a job measured, and the slots that it chose for all workers of the job.

    Attributes:
        choice: The slots.
        environment_s: Mean wall time of a step of one environment, resets and recorders included, seconds; ``None``
            where the environment brings its own slots.
        policy_s: Rows of a batch to the wall time of the policy's answer, seconds.
        environment_mb: Resident memory of one environment, MB (10^6 bytes).
        expected_steps_per_s: Of one worker, by the model.
        cores: Of one worker.
        trial_s: How long measuring took, seconds.
    """

    choice: SlotChoice
    environment_s: float | None = None
    policy_s: Mapping[int, float] = dataclasses.field(default_factory=dict)
    environment_mb: float | None = None
    expected_steps_per_s: float | None = None
    cores: float | None = None
    trial_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``run.json`` and in the event ``tuned``.

        `environment_supply` is what one environment gives, in steps per second; `policy_supply` what the policy
        answers, in observations per second by size of batch.
        """
        supply = {str(rows): round(rows / seconds, 1) for rows, seconds in self.policy_s.items() if seconds}
        return {
            **dataclasses.asdict(self.choice),
            "environment_supply": None if not self.environment_s else round(1 / self.environment_s, 1),
            "policy_supply": supply,
            "environment_mb": None if self.environment_mb is None else round(self.environment_mb, 1),
            "expected_steps_per_s": None if self.expected_steps_per_s is None else round(self.expected_steps_per_s, 1),
            "cores": self.cores,
            "trial_s": round(self.trial_s, 3),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retiring:
    """The worker starts no further episode, and is to be replaced; `reason` is for people."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that people should know; `topic` is a stable word, and each topic is told once per job."""

    topic: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The chunk cannot go on.

    Attributes:
        kind: ``build``: a factory raised (the job fails at once); ``worker``: the worker is no longer usable.
        error: What was raised.
    """

    kind: Literal["build", "worker"]
    error: EpisodeError


Event: TypeAlias = (
    WorkerReady
    | EpisodeStarted
    | EpisodesReturned
    | Delivering
    | FilePiece
    | EpisodeRecord
    | Progress
    | MemorySample
    | ChunkUsage
    | Tuned
    | Retiring
    | Notice
    | Failure
)
