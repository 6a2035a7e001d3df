"""Is B better than A? Two runs compared, episode by episode where they played the same seeds."""

from arena_ray.comparison.comparability import Difference as Difference
from arena_ray.comparison.comparison import UNDECIDED as UNDECIDED
from arena_ray.comparison.comparison import Comparison as Comparison
from arena_ray.comparison.comparison import Flip as Flip
from arena_ray.comparison.comparison import compare as compare
from arena_ray.comparison.verdicts import MetricComparison as MetricComparison

__all__ = ["UNDECIDED", "Comparison", "Difference", "Flip", "MetricComparison", "compare"]
