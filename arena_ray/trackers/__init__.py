"""Experiment trackers: a run's configuration, figures and videos of failures, told while it goes on.

One file per tracker; each imports its library inside.
"""

from arena_ray.trackers.base import FailureVideo as FailureVideo
from arena_ray.trackers.base import FinalResult as FinalResult
from arena_ray.trackers.base import Point as Point
from arena_ray.trackers.base import TrackedRun as TrackedRun
from arena_ray.trackers.base import Tracker as Tracker
from arena_ray.trackers.base import TrackerRun as TrackerRun
from arena_ray.trackers.tracking import Tracking as Tracking
from arena_ray.trackers.tracking import open_tracking as open_tracking

__all__ = [
    "FailureVideo",
    "FinalResult",
    "Point",
    "TrackedRun",
    "Tracker",
    "TrackerRun",
    "Tracking",
    "open_tracking",
]
