"""Numbers with honest intervals: pure functions of what the episodes gave."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from arena_ray.records import Metric

#: Resamples of a bootstrap; the Monte Carlo error of a 95 % percentile is then about 1 % of the interval's width.
BOOTSTRAP_RESAMPLES = 2000

#: Above this many values the bootstrap of a mean and the normal interval agree to less than the Monte Carlo error.
BOOTSTRAP_MAX_N = 5000

_RESAMPLE_BLOCK = 2_000_000


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a rate (Wilson, JASA 22, 1927).

    Args:
        successes: Number of successes, 0 to `n`.
        n: Number of trials, at least 1.
        confidence: Nominal coverage.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * ((rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def success_rate(outcomes: npt.NDArray[np.bool_], confidence: float = 0.95) -> Metric:
    """Return the rate of successes with its Wilson interval; every field but `n` is ``None`` without data.

    Args:
        outcomes: ``bool[n]``, one per completed episode that said whether it succeeded.
        confidence: Nominal coverage.
    """
    n = len(outcomes)
    if n == 0:
        return Metric(value=None, low=None, high=None, n=0, confidence=confidence, method="wilson")
    successes = int(np.count_nonzero(outcomes))
    low, high = wilson_interval(successes, n, confidence)
    return Metric(value=successes / n, low=low, high=high, n=n, confidence=confidence, method="wilson")


def mean(values: npt.NDArray[np.float64], confidence: float = 0.95) -> Metric:
    """Return the mean with its percentile bootstrap interval (Efron, 1979); above 5,000 values, the normal one.

    The resampling is seeded, so the same values give the same interval. A single value has no interval.

    Args:
        values: ``float64[n]``, finite.
        confidence: Nominal coverage.
    """
    n = len(values)
    method = "bootstrap" if n <= BOOTSTRAP_MAX_N else "normal"
    if n == 0:
        return Metric(value=None, low=None, high=None, n=0, confidence=confidence, method=method)
    value = float(np.mean(values))
    low, high = _mean_interval(values, value, confidence, method)
    return Metric(value=value, low=low, high=high, n=n, confidence=confidence, method=method)


def _mean_interval(
    values: npt.NDArray[np.float64], value: float, confidence: float, method: str
) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    if method == "normal":
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * float(np.std(values, ddof=1)) / len(values) ** 0.5
        return value - half, value + half
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(_resampled_means(values), tails)
    return float(low), float(high)


def _resampled_means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(0)
    rows = max(1, _RESAMPLE_BLOCK // len(values))
    blocks = [min(rows, BOOTSTRAP_RESAMPLES - start) for start in range(0, BOOTSTRAP_RESAMPLES, rows)]
    return np.concatenate(
        [values[generator.integers(len(values), size=(block, len(values)))].mean(axis=1) for block in blocks]
    )
