"""Two means compared: of the same episodes (paired), and of others (unpaired)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from arena_ray.statistics.two_rates import Interval, with_zero

Values = npt.NDArray[np.float64]

#: Resamples of the bootstrap of a difference: its p-value goes down to 2 / 10,001.
RESAMPLES = 10_000

#: With fewer values the percentile bootstrap covers too seldom (about 90 % of 95 % at 10): its resamples vary by
#: (n - 1) / n too little and its tails are the normal's, not Student's. Then Student's interval.
BOOTSTRAP_MIN_N = 20

#: With more values the bootstrap and Student's interval agree.
BOOTSTRAP_MAX_N = 2000

#: Resamples that must lie outside each end of an interval for the bootstrap to know where that end is.
TAIL_RESAMPLES = 10

_BLOCK = 2_000_000


class MeanDifference:
    """The mean of B less that of A, in the same jobs.

    Paired, it is the mean over all pairs of their differences, each job resampled by itself. Unpaired, it is the mean
    of the jobs' differences with the weights ``n_a * n_b / (n_a + n_b)``, each job and run resampled by itself.

    Interval and test: the percentile bootstrap (Efron, 1979), seeded; Student's t (Welch, 1947, where several variances
    add up) with less than 20 or more than 2,000 values, and where a confidence is too high for 10,000 resamples. A
    p-value is never smaller than that of a permutation test could be: ``2 ** (1 - n)`` for n pairs. So less than 6
    pairs never decide at 95 %.

    Args:
        a: Values of A, an array for each job.
        b: Values of B; paired: of the same episodes.
        paired: Whether they are of the same episodes.
    """

    def __init__(self, a: Sequence[Values], b: Sequence[Values], *, paired: bool) -> None:
        jobs = [(old, new) for old, new in zip(a, b, strict=True) if len(old) and len(new)]
        self._paired = paired
        self.n_a, self.n_b = sum(len(old) for old, _ in jobs), sum(len(new) for _, new in jobs)
        self.n = min(self.n_a, self.n_b)
        weights = [len(old) * len(new) / (len(old) + len(new)) for old, new in jobs]
        shares = [weight / sum(weights) for weight in weights]
        self.a = _weighted(shares, [old for old, _ in jobs])
        self.b = _weighted(shares, [new for _, new in jobs])
        if paired:
            self._terms = [(share, new - old) for share, (old, new) in zip(shares, jobs, strict=True)]
        else:
            self._terms = [
                term for share, (old, new) in zip(shares, jobs, strict=True) for term in ((share, new), (-share, old))
            ]
        self.difference = _weighted([share for share, _ in self._terms], [values for _, values in self._terms])

    @property
    def _bootstrapped(self) -> bool:
        sizes = [len(values) for _, values in self._terms]
        return min(sizes, default=0) >= BOOTSTRAP_MIN_N and sum(sizes) <= BOOTSTRAP_MAX_N

    @property
    def test(self) -> str:
        """What the p-value is of."""
        name = "bootstrap" if self._bootstrapped else "t-test"
        return f"{'paired' if self._paired else 'unpaired'} {name}"

    @property
    def method(self) -> str:
        """How the interval is made."""
        return "bootstrap" if self._bootstrapped else "Student's t"

    @property
    def smallest_p_value(self) -> float:
        """The smallest that a permutation test of so many values could give."""
        if self._paired:
            return min(1.0, 2.0 ** (1 - self.n))
        return min(1.0, 2 / math.comb(self.n_a + self.n_b, self.n_a)) if self.n < 30 else 0.0

    @functools.cached_property
    def p_value(self) -> float | None:
        """Two-sided; ``None`` without data."""
        if self.difference is None or self.n < 2:
            return None
        found = self._bootstrap_p_value() if self._bootstrapped else self._t_p_value()
        return max(found, self.smallest_p_value)

    def interval(self, confidence: float) -> Interval | None:
        """Return the interval of the difference; ``None`` with less than two values."""
        if self.difference is None or self.p_value is None:
            return None
        tail = (1 - confidence) / 2
        if self._bootstrapped and tail * RESAMPLES >= TAIL_RESAMPLES:
            low, high = np.quantile(self._resamples, [tail, 1 - tail])
            return with_zero((float(low), float(high)), self.p_value, confidence)
        from scipy.stats import t

        half = float(t.ppf(1 - tail, self._degrees_of_freedom)) * self.standard_error
        return with_zero((self.difference - half, self.difference + half), self.p_value, confidence)

    @property
    def standard_error(self) -> float:
        """That of the difference."""
        return math.sqrt(sum(self._variances))

    @functools.cached_property
    def _variances(self) -> list[float]:
        """Variance of each term's mean; a single value is given the mean variance of the others."""
        known = [float(np.var(values, ddof=1)) for _, values in self._terms if len(values) > 1]
        usual = sum(known) / len(known) if known else 0.0
        spreads = [float(np.var(values, ddof=1)) if len(values) > 1 else usual for _, values in self._terms]
        pairs = zip(self._terms, spreads, strict=True)
        return [weight**2 * spread / len(values) for (weight, values), spread in pairs]

    @property
    def _degrees_of_freedom(self) -> float:
        """Welch's and Satterthwaite's."""
        total = sum(self._variances)
        parts = zip(self._variances, self._terms, strict=True)
        spread = sum(variance**2 / max(1, len(values) - 1) for variance, (_, values) in parts)
        return total**2 / spread if spread else max(1, self.n - 1)

    def _t_p_value(self) -> float:
        if not self.difference:
            return 1.0
        if not self.standard_error:
            return 0.0
        from scipy.stats import t

        return 2 * float(t.sf(abs(self.difference) / self.standard_error, self._degrees_of_freedom))

    def _bootstrap_p_value(self) -> float:
        fewer = min(np.count_nonzero(self._resamples <= 0), np.count_nonzero(self._resamples >= 0))
        return min(1.0, 2 * (int(fewer) + 1) / (RESAMPLES + 1))

    @functools.cached_property
    def _resamples(self) -> Values:
        """Resampled differences. Terms are drawn in an order that is the same when A and B change places."""
        generator = np.random.default_rng(0)
        total = np.zeros(RESAMPLES)
        for index in sorted(range(len(self._terms)), key=self._drawing_order):
            weight, values = self._terms[index]
            rows = max(1, _BLOCK // len(values))
            for start in range(0, RESAMPLES, rows):
                block = min(rows, RESAMPLES - start)
                drawn = values[generator.integers(len(values), size=(block, len(values)))]
                total[start : start + block] += weight * drawn.mean(axis=1)
        return total

    def _drawing_order(self, index: int) -> tuple[int, int, bytes]:
        if self._paired:
            return index, 0, b""
        values = self._terms[index][1]
        return index // 2, len(values), values.tobytes()


def _weighted(weights: list[float], strata: list[Values]) -> float | None:
    """Return the weighted sum of means; ``None`` without data."""
    if not strata:
        return None
    return float(sum(weight * float(np.mean(values)) for weight, values in zip(weights, strata, strict=True)))
