"""Shows runs to people: in a terminal or a log while they go on, and as a page to look at."""

from arena_ray.report.progress import LiveProgress as LiveProgress
from arena_ray.report.progress import PlainProgress as PlainProgress
from arena_ray.report.progress import open_progress as open_progress

__all__ = ["LiveProgress", "PlainProgress", "open_progress"]
