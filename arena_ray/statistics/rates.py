"""Success rates with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from arena_ray.records import Metric
from arena_ray.statistics.sequences import confidence_sequence

RateMethod: TypeAlias = Literal["wilson", "clopper-pearson"]

#: How the interval of a rate is made whose number of episodes was not fixed beforehand.
SEQUENCE = "confidence-sequence"


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a rate (Wilson, JASA 22, 1927).

    Args:
        successes: Number of successes, 0 to `n`; a fraction where `n` is an effective number.
        n: Number of trials, above 0.
        confidence: Nominal coverage.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * ((rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def clopper_pearson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a rate (Clopper and Pearson, Biometrika 26, 1934).

    It covers at least as often as it says, whatever the rate, and is therefore wider than Wilson's.

    Args:
        successes: Number of successes, 0 to `n`.
        n: Number of trials, at least 1.
        confidence: Least coverage.
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def success_rate(outcomes: npt.NDArray[np.bool_], confidence: float = 0.95, method: RateMethod = "wilson") -> Metric:
    """Return the rate of successes with its interval; every field but `n` is ``None`` without data.

    Episodes of several jobs may be put together: every episode then weighs the same. As each job's number of episodes
    is fixed beforehand, the interval covers a little more often than it says.

    Args:
        outcomes: ``bool[n]``, one per completed episode that said whether it succeeded.
        confidence: Nominal coverage.
        method: ``wilson``, or the exact ``clopper-pearson``.
    """
    n = len(outcomes)
    if n == 0:
        return Metric(value=None, low=None, high=None, n=0, confidence=confidence, method=method)
    successes = int(np.count_nonzero(outcomes))
    interval = wilson_interval if method == "wilson" else clopper_pearson_interval
    low, high = interval(successes, n, confidence)
    return Metric(value=successes / n, low=low, high=high, n=n, confidence=confidence, method=method)


def stopped_success_rate(
    jobs: Sequence[tuple[npt.NDArray[np.bool_], float | None]], confidence: float = 0.95
) -> Metric:
    """Return the rate of successes where the outcomes themselves may have decided how many episodes there are.

    One job: its `confidence_sequence`. Several: each gets an interval at ``1 - alpha / m`` (Bonferroni; of a job whose
    number of episodes was fixed beforehand Clopper and Pearson's), so that all hold together, and hence the mean of
    their ends, weighted as the jobs are in the rate. That is wider than for numbers fixed beforehand.

    Args:
        jobs: Of each job the outcomes, ``bool[n]``, and the half-width at which it is to stop; ``None``: its number of
            episodes was fixed beforehand.
        confidence: Least coverage.
    """
    counted = [(int(np.count_nonzero(outcomes)), len(outcomes), half_width) for outcomes, half_width in jobs]
    counted = [one for one in counted if one[1]]
    n = sum(episodes for _, episodes, _ in counted)
    if not n:
        return Metric(value=None, low=None, high=None, n=0, confidence=confidence, method=SEQUENCE)
    each = 1 - (1 - confidence) / len(counted)
    ends = [
        clopper_pearson_interval(successes, episodes, each)
        if half_width is None
        else confidence_sequence(successes, episodes, half_width, each)
        for successes, episodes, half_width in counted
    ]
    low, high = (sum(end[side] * one[1] for end, one in zip(ends, counted, strict=True)) / n for side in (0, 1))
    value = sum(successes for successes, _, _ in counted) / n
    return Metric(value=value, low=low, high=high, n=n, confidence=confidence, method=SEQUENCE)
