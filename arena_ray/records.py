"""What comes back: the events that a worker streams, the record of an episode, and metrics.

The events are plain data: exceptions never cross a process boundary, their text does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from arena_ray.specs import SlotChoice

SCHEMA_VERSION = 1

EpisodeStatus: TypeAlias = Literal["completed", "error", "timeout"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VideoFile:
    """One video that a recorder wrote.

    Attributes:
        kind: ``viewport`` (what `render()` shows) or ``camera`` (a camera of the observation).
        camera: Name of the camera; ``None`` for the viewport.
        path: The file. Inside a record: relative to the run directory, with ``/``.
        frames: Frames in the file; T+1 for a whole episode of T steps.
        fps: Frames per second.
        bytes: Size of the file; 0 if not even the first byte could be written, so that there is none.
        partial: Whether the file ends before the episode did.
        segment: Counts the files of one episode and camera, from 0: a new one begins where the frames change size.
        error: Why the file ends early; ``None`` unless encoder or disk failed.
    """

    kind: Literal["viewport", "camera"]
    camera: str | None
    path: str
    frames: int
    fps: float
    bytes: int
    partial: bool = False
    segment: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in files; `segment` and `error` only where they say something."""
        silent = {"segment": 0, "error": None}
        content = dataclasses.asdict(self)
        return {key: value for key, value in content.items() if key not in silent or value != silent[key]}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """Who ran an episode: host name, process id, and the ids of the GPUs that the process was given."""

    host: str
    pid: int
    gpus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeError:
    """Why an episode has no outcome: the exception's type, its message, and the traceback's text if there is one.

    Attributes:
        type: Name of the exception's class, or ``WorkerLost``.
        message: Its message.
        traceback: Its traceback.
        cause: A key of `ledger.FAULTS`, for the driver; it does not stand in files.
    """

    type: str
    message: str
    traceback: str | None = None
    cause: str = dataclasses.field(default="environment_error", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in files."""
        return {"type": self.type, "message": self.message, "traceback": self.traceback}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """The one committed result of an episode: a line of ``episodes.jsonl``.

    Attributes:
        job: Name of the job.
        episode: Index through the whole job, from 0.
        seed: What `env.reset(seed=...)` received; ``None`` where the environment started the episode by itself.
        status: ``completed``; ``error``: environment, policy or worker broke; ``timeout``: a deadline passed.
        success: ``None`` when the environment says nothing about it.
        episode_return: Sum of rewards; the key in files is ``return``. ``None`` without a completed episode.
        length: Environment steps; ``None`` when not known.
        metrics: The job's metrics; ``None`` where the environment gave no finite number.
        videos: What the recorders wrote.
        started_at: UTC, ISO 8601 with ``Z``.
        duration_s: Wall time from reset to the last step, seconds.
        chunk: Index of the chunk.
        attempt: 1 is the first.
        slot: Index of the slot.
        worker: Who ran it; ``None`` if it never ran.
        error: Set unless the status is ``completed``.
    """

    job: str
    episode: int
    seed: int | None
    status: EpisodeStatus
    success: bool | None = None
    episode_return: float | None = None
    length: int | None = None
    terminated: bool = False
    truncated: bool = False
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    videos: tuple[VideoFile, ...] = ()
    started_at: str | None = None
    duration_s: float | None = None
    chunk: int | None = None
    attempt: int = 1
    slot: int | None = None
    worker: WorkerInfo | None = None
    error: EpisodeError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``episodes.jsonl``; numbers that are not finite become ``None``."""
        return {
            "schema": SCHEMA_VERSION,
            "job": self.job,
            "episode": self.episode,
            "seed": self.seed,
            "status": self.status,
            "success": self.success,
            "return": finite(self.episode_return),
            "length": self.length,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "metrics": {name: finite(value) for name, value in self.metrics.items()},
            "videos": [video.to_json() for video in self.videos],
            "started_at": self.started_at,
            "duration_s": finite(self.duration_s),
            "chunk": self.chunk,
            "attempt": self.attempt,
            "slot": self.slot,
            "worker": None if self.worker is None else {**dataclasses.asdict(self.worker), "gpus": [*self.worker.gpus]},
            "error": None if self.error is None else self.error.to_json(),
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> EpisodeRecord:
        """Build the record from a parsed line of ``episodes.jsonl``; keys of later schema versions are passed over.

        Raises:
            KeyError: If a required key is missing.
        """
        worker, error = line.get("worker"), line.get("error")
        return cls(
            job=line["job"],
            episode=line["episode"],
            seed=line["seed"],
            status=line["status"],
            success=line["success"],
            episode_return=line["return"],
            length=line["length"],
            terminated=line["terminated"],
            truncated=line["truncated"],
            metrics=dict(line["metrics"]),
            videos=tuple(_known(VideoFile, video) for video in line["videos"]),
            started_at=line["started_at"],
            duration_s=line["duration_s"],
            chunk=line["chunk"],
            attempt=line["attempt"],
            slot=line["slot"],
            worker=None if worker is None else WorkerInfo(**{**worker, "gpus": tuple(worker["gpus"])}),
            error=None if error is None else _known(EpisodeError, error),
        )

    def non_finite(self) -> list[str]:
        """Return the names of the numbers that files cannot hold (NaN and infinities)."""
        named = {"return": self.episode_return, **self.metrics}
        return [name for name, value in named.items() if value is not None and not math.isfinite(value)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeReplay:
    """What running a recorded episode again came to: a line of ``replays.jsonl``.

    Attributes:
        job: Name of the job.
        episode: Index through the whole job.
        equal: Whether it came to the same; only then its videos are videos of the recorded episode.
        videos: What was recorded this time, paths relative to the run directory.
        differences: What is not equal: key of the record to ``(recorded, replayed)``.
    """

    job: str
    episode: int
    equal: bool
    videos: tuple[VideoFile, ...] = ()
    differences: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``replays.jsonl``; `differences` only where there are any."""
        line = {
            "job": self.job,
            "episode": self.episode,
            "equal": self.equal,
            "videos": [video.to_json() for video in self.videos],
        }
        pairs = {key: [*pair] for key, pair in self.differences.items()}
        return {**line, "differences": pairs} if pairs else line

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> EpisodeReplay:
        """Build it from a parsed line of ``replays.jsonl``.

        Raises:
            KeyError: If a required key is missing.
        """
        return cls(
            job=line["job"],
            episode=line["episode"],
            equal=line["equal"],
            videos=tuple(_known(VideoFile, video) for video in line["videos"]),
            differences={key: (old, new) for key, (old, new) in line.get("differences", {}).items()},
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number with its interval.

    Attributes:
        value: ``None`` without data.
        low: Lower end of the interval; ``None`` when the data do not allow one.
        high: Upper end.
        n: Episodes that the number rests on.
        confidence: Nominal coverage of the interval, e.g. 0.95.
        method: How the interval was made.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    confidence: float
    method: str


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
    | EpisodeRecord
    | Progress
    | MemorySample
    | ChunkUsage
    | Tuned
    | Retiring
    | Notice
    | Failure
)


def finite(value: float | None) -> float | None:
    """Return `value`, or ``None`` if JSON cannot hold it."""
    return None if value is None or not math.isfinite(value) else value


def _known(kind: type[Any], values: Mapping[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
