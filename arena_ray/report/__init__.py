"""Shows runs to people: while they go on, in a terminal or a log."""

from arena_ray.report.progress import LiveProgress as LiveProgress
from arena_ray.report.progress import PlainProgress as PlainProgress
from arena_ray.report.progress import open_progress as open_progress

__all__ = ["LiveProgress", "PlainProgress", "open_progress"]
