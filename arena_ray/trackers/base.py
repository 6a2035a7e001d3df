"""What a tracker is told of a run, and the protocol of a tracker."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from arena_ray.errors import ConfigError

#: Name of the experiment (MLflow) or project (Weights & Biases) where the user's environment names none.
DEFAULT_PROJECT = "arena_ray"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A run at its beginning.

    Attributes:
        name: That of the run directory.
        run_dir: The run directory.
        config: Jobs, settings, versions and git, as they stand in ``run.json``; plain data.
        continues: The tracker's own id of this run, when it was begun by an earlier driver.
    """

    name: str
    run_dir: Path
    config: Mapping[str, Any]
    continues: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrackerRun:
    """What a tracker calls the run: its id, with which it can go on, and where people find it."""

    id: str
    where: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a job stands after an episode.

    Attributes:
        job: Name of the job.
        step: Episodes of the job with a record.
        run_step: Records of all jobs, of which an episode that was run again has several: it never goes back.
        time_s: When, seconds since 1970.
        values: Finite numbers by name.
    """

    job: str
    step: int
    run_step: int
    time_s: float
    values: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FailureVideo:
    """A video of an episode that failed.

    Attributes:
        job: Name of the job.
        view: Name of the camera, or ``viewport``; letters, digits, ``_``, ``-`` and ``.``.
        step: That of the episode's point.
        run_step: That of the episode's point.
        title: Episode, outcome and seed, in words.
        path: The MP4 file.
        frames: How many it has.
        fps: Frames per second.
    """

    job: str
    view: str
    step: int
    run_step: int
    title: str
    path: Path
    frames: int
    fps: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinalResult:
    """What a run came to.

    Attributes:
        status: ``completed``, ``failed`` or ``interrupted``.
        figures: By job: every metric, with the ends of its interval and its number of episodes.
        table: The table that ends a run, and where the run directory is.
        summary: The content of ``summary.json``.
    """

    status: str
    figures: Mapping[str, Mapping[str, float]]
    table: str
    summary: Mapping[str, Any]


class Tracker(Protocol):
    """One run in one experiment tracker. Everything is called from one thread, `start` first, `finish` last.

    Whatever a method raises ends the tracking, never the run; what `log_video` raises costs the video.
    """

    def start(self, run: TrackedRun) -> TrackerRun:
        """Begin, or go on with, the tracker's run, and hand it the configuration."""
        ...

    def log(self, points: Sequence[Point]) -> None:
        """Take in points, in the order in which they came."""
        ...

    def log_video(self, video: FailureVideo) -> None:
        """Take in a video."""
        ...

    def finish(self, final: FinalResult) -> None:
        """Take in what the run came to, and write or send everything that is left."""
        ...


def required(tracker: str, *modules: str) -> None:
    """Import what a tracker needs.

    Args:
        tracker: Name of the tracker, which is that of the optional extra too.
        *modules: Names of modules.

    Raises:
        ConfigError: If one is missing, or cannot be imported.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"trackers: {tracker!r} needs {error.name}, which is not installed; run: "
                f'pip install "arena-ray[{tracker}]", or leave the tracker out'
            ) from error
        except ImportError as error:
            raise ConfigError(
                f"trackers: {tracker!r} cannot be used, because {module} cannot be imported: {error}; install it anew "
                f'with pip install "arena-ray[{tracker}]", or leave the tracker out'
            ) from error
