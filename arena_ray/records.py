"""What comes back: the record of an episode, what it names (videos, worker, error), and metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

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


def finite(value: float | None) -> float | None:
    """Return `value`, or ``None`` if JSON cannot hold it."""
    return None if value is None or not math.isfinite(value) else value


def _known(kind: type[Any], values: Mapping[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
