"""Numbers with honest intervals: pure functions of what the episodes gave.

Every estimate is a `records.Metric`: without data its value is ``None``, never 0. Whatever is random is seeded, so the
same values give the same interval. SciPy is imported only by what needs it.
"""

from arena_ray.statistics.means import interquartile_mean as interquartile_mean
from arena_ray.statistics.means import mean as mean
from arena_ray.statistics.rates import RateMethod as RateMethod
from arena_ray.statistics.rates import clopper_pearson_interval as clopper_pearson_interval
from arena_ray.statistics.rates import stopped_success_rate as stopped_success_rate
from arena_ray.statistics.rates import success_rate as success_rate
from arena_ray.statistics.rates import wilson_interval as wilson_interval
from arena_ray.statistics.sample_size import holm as holm
from arena_ray.statistics.sample_size import paired_episodes as paired_episodes
from arena_ray.statistics.sample_size import pairs_to_decide as pairs_to_decide
from arena_ray.statistics.sample_size import unpaired_episodes as unpaired_episodes
from arena_ray.statistics.sequences import confidence_sequence as confidence_sequence
from arena_ray.statistics.sequences import episodes_until_within as episodes_until_within
from arena_ray.statistics.sequences import is_within as is_within
from arena_ray.statistics.two_means import MeanDifference as MeanDifference
from arena_ray.statistics.two_rates import PairedRates as PairedRates
from arena_ray.statistics.two_rates import UnpairedRates as UnpairedRates

__all__ = [
    "MeanDifference",
    "PairedRates",
    "RateMethod",
    "UnpairedRates",
    "clopper_pearson_interval",
    "confidence_sequence",
    "episodes_until_within",
    "holm",
    "interquartile_mean",
    "is_within",
    "mean",
    "paired_episodes",
    "pairs_to_decide",
    "stopped_success_rate",
    "success_rate",
    "unpaired_episodes",
    "wilson_interval",
]
