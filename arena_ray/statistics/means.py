"""Means and interquartile means with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from arena_ray.records import Metric

Values: TypeAlias = npt.NDArray[np.float64]

#: Resamples of a bootstrap; the Monte Carlo error of a 95 % percentile is then about 1 % of the interval's width.
BOOTSTRAP_RESAMPLES = 2000

#: Above this many values the bootstrap of a mean and the normal interval agree to less than the Monte Carlo error.
BOOTSTRAP_MAX_N = 5000

#: The same for the interquartile mean: it leaves out the tails, so that it is normal sooner; its resamples are sorted.
IQM_BOOTSTRAP_MAX_N = 1000

_RESAMPLE_BLOCK = 2_000_000


def mean(values: Values | Sequence[Values], confidence: float = 0.95) -> Metric:
    """Return the mean with its percentile bootstrap interval (Efron, 1979); above 5,000 values, the normal one.

    Of several jobs it is the mean over all their episodes, each of which weighs the same, and each job is resampled by
    itself (the stratified bootstrap of rliable: Agarwal et al., NeurIPS 2021; where all jobs have as many episodes, its
    `aggregate_mean`). The resampling is seeded, so the same values give the same interval. A single value has no
    interval.

    Args:
        values: ``float64[n]``, finite; or one such array for each job.
        confidence: Nominal coverage.
    """
    return _estimate(_strata(values), confidence, np.mean, _resampled_means, lambda all_values: all_values)


def interquartile_mean(values: Values | Sequence[Values], confidence: float = 0.95) -> Metric:
    """Return the mean of the middle half of the values (IQM), with its percentile bootstrap interval.

    The lowest and the highest ``floor(n / 4)`` values are left out: `scipy.stats.trim_mean(values, 0.25)`, as rliable
    1.2 has it (`aggregate_iqm`; Agarwal et al., NeurIPS 2021). Of several jobs it is that of all their episodes
    together, and each job is resampled by itself. Above 1,000 values the interval is the normal one with the standard
    error from Winsorized values (Tukey and McLaughlin, Sankhya A 25, 1963).

    Args:
        values: ``float64[n]``, finite; or one such array for each job.
        confidence: Nominal coverage.
    """
    return _estimate(_strata(values), confidence, _trimmed_mean, _resampled_iqms, _winsorized, IQM_BOOTSTRAP_MAX_N)


def _strata(values: Values | Sequence[Values]) -> list[Values]:
    strata = [values] if isinstance(values, np.ndarray) else list(values)
    return [stratum for stratum in strata if len(stratum)]


def _estimate(
    strata: list[Values],
    confidence: float,
    estimate: Callable[[Values], np.floating],
    resampled: Callable[[list[Values]], Values],
    influence: Callable[[Values], Values],
    bootstrap_max_n: int = BOOTSTRAP_MAX_N,
) -> Metric:
    """Return an estimate and its interval.

    Args:
        strata: The values of each job.
        confidence: Nominal coverage.
        estimate: What is estimated, given all values.
        resampled: Its resamples.
        influence: Values whose mean has the estimate's standard error.
        bootstrap_max_n: Most values for the bootstrap.
    """
    n = sum(map(len, strata))
    method = "bootstrap" if n <= bootstrap_max_n else "normal"
    if len(strata) > 1:
        method = f"stratified {method}"
    if n == 0:
        return Metric(value=None, low=None, high=None, n=0, confidence=confidence, method=method)
    everything = np.concatenate(strata)
    value = float(estimate(everything))
    low: float | None = None
    high: float | None = None
    if n > 1 and n <= bootstrap_max_n:
        low, high = map(float, np.quantile(resampled(strata), [(1 - confidence) / 2, (1 + confidence) / 2]))
    elif n > 1:
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * _standard_error(influence(everything), strata)
        low, high = value - half, value + half
    return Metric(value=value, low=low, high=high, n=n, confidence=confidence, method=method)


def _standard_error(values: Values, strata: list[Values]) -> float:
    """Return the standard error of the mean; a job with a single value is given the variance of all."""
    parts = np.split(values, np.cumsum([len(stratum) for stratum in strata])[:-1])
    variances = [np.var(part if len(part) > 1 else values, ddof=1) for part in parts]
    total = sum(len(part) * float(variance) for part, variance in zip(parts, variances, strict=True))
    return float(total**0.5 / len(values))


def _trimmed_mean(values: Values) -> np.floating:
    cut = len(values) // 4
    return np.mean(np.sort(values)[cut : len(values) - cut])


def _winsorized(values: Values) -> Values:
    """Return values whose mean has the standard error of the interquartile mean."""
    cut = len(values) // 4
    order = np.sort(values)
    kept = (len(values) - 2 * cut) / len(values)
    clipped: Values = np.clip(values, order[cut], order[len(values) - cut - 1]) / kept
    return clipped


def _resampled_means(strata: list[Values]) -> Values:
    values = np.concatenate(strata)
    return np.concatenate([values[rows].mean(axis=1) for rows in _draws(strata)])


def _resampled_iqms(strata: list[Values]) -> Values:
    values = np.concatenate(strata)
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values), dtype=np.int32)
    ranks[order] = np.arange(len(values), dtype=np.int32)
    ordered, cut = values[order], len(values) // 4
    kept = slice(cut, len(values) - cut)
    return np.concatenate([ordered[np.sort(ranks[rows], axis=1)[:, kept]].mean(axis=1) for rows in _draws(strata)])


def _draws(strata: list[Values]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield blocks of resamples: a row of indices into all values each, as many from each stratum as it has."""
    generator = np.random.default_rng(0)
    sizes = [len(stratum) for stratum in strata]
    rows = max(1, _RESAMPLE_BLOCK // sum(sizes))
    for start in range(0, BOOTSTRAP_RESAMPLES, rows):
        block = min(rows, BOOTSTRAP_RESAMPLES - start)
        begins = np.cumsum([0, *sizes[:-1]])
        parts = [begin + generator.integers(n, size=(block, n)) for begin, n in zip(begins, sizes, strict=True)]
        yield np.concatenate(parts, axis=1)
