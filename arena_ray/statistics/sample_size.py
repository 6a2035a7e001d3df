"""How many episodes a difference needs, and what many tests at once cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

#: More episodes than this are "too many".
MOST_EPISODES = 1_000_000

#: Above this the power of Fisher's test is approximated: summing it up would take minutes.
FISHER_MAX_N = 2000

#: Power of exact tests goes up and down a little from one number of episodes to the next; it must hold for so many.
_HOLDS_FOR = 10

_TINY = 1e-12


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that are corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def pairs_to_decide(
    difference: float, variance: float, margin: float, confidence: float, power: float = 0.8
) -> int | None:
    """Return with how many pairs in all an interval would decide, if what was found is so.

    It decides when it excludes 0 or lies within the margin; the easier of both counts. Normal approximations: the first
    ``(z_(1-alpha/2) + z_power)^2 * variance / difference^2`` (for rates of pairs: Miettinen, Biometrics 24, 1968), the
    second ``(z_(1-alpha/2) + z_((1+power)/2))^2 * variance / (margin - |difference|)^2`` (Chow, Shao and Wang, Sample
    Size Calculations in Clinical Research, equivalence). ``None`` if no number would do, or only more than a million.

    Args:
        difference: The difference that was found.
        variance: Variance of one pair's difference.
        margin: What counts as no difference.
        confidence: Of the interval.
        power: Probability with which it is to decide.
    """
    quantile = NormalDist().inv_cdf
    tail = quantile(0.5 + confidence / 2)
    effect = (tail + quantile(power)) / abs(difference) if difference else math.inf
    room = margin - abs(difference)
    equivalence = (tail + quantile((1 + power) / 2)) / room if room > 0 else math.inf
    pairs = variance * min(effect, equivalence) ** 2 if variance else 0.0
    return math.ceil(pairs) if pairs <= MOST_EPISODES else None


def paired_episodes(
    baseline: float, difference: float, discordant: float, power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """Return how many pairs McNemar's exact test needs to find a difference.

    The power is exact: summed over the number of pairs that differ, and over how many of these go one way. ``None`` if
    a million do not suffice.

    Args:
        baseline: Success rate of A, 0 to 1.
        difference: That of B less that of A, not 0.
        discordant: Share of pairs in which only one of both succeeds.
        power: Probability with which it is to be found.
        confidence: Of the test.

    Raises:
        ValueError: If no two policies could be so.
    """
    _check_rates(baseline, difference)
    least, most = abs(difference), min(2 * baseline + difference, 2 - 2 * baseline - difference)
    if not least - _TINY <= discordant <= most + _TINY:
        raise ValueError(
            f"with a baseline of {baseline:g} and a difference of {difference:g}, between {least:g} and {most:g} of "
            f"the pairs can differ, not {discordant:g}"
        )
    direction = (discordant + abs(difference)) / (2 * discordant)
    spread = discordant - difference**2
    guess = pairs_to_decide(difference, max(spread, _TINY), 0.0, confidence, power) or MOST_EPISODES
    return _smallest(lambda n: _mcnemar_power(n, discordant, direction, 1 - confidence), guess, power)


def unpaired_episodes(baseline: float, difference: float, power: float = 0.8, confidence: float = 0.95) -> int | None:
    """Return how many episodes each of two runs on other seeds needs for an exact test to find a difference.

    The power is that of Fisher's exact test, summed over all outcomes that are not next to impossible; Boschloo's test
    has at least as much. Above 2,000 it is Fleiss, Tytun and Ury's approximation of it (Biometrics 36, 1980). ``None``
    if a million do not suffice.

    Args:
        baseline: Success rate of A, 0 to 1.
        difference: That of B less that of A, not 0.
        power: Probability with which it is to be found.
        confidence: Of the test.

    Raises:
        ValueError: If no two policies could be so.
    """
    _check_rates(baseline, difference)
    other = baseline + difference
    spread = baseline * (1 - baseline) + other * (1 - other)
    guess = pairs_to_decide(difference, max(spread, _TINY), 0.0, confidence, power) or MOST_EPISODES
    if guess > FISHER_MAX_N:
        corrected = math.ceil(guess / 4 * (1 + math.sqrt(1 + 4 / (guess * abs(difference)))) ** 2)
        return corrected if corrected <= MOST_EPISODES else None
    return _smallest(lambda n: _fisher_power(n, baseline, other, 1 - confidence), guess, power)


def _check_rates(baseline: float, difference: float) -> None:
    if not 0 <= baseline <= 1 or not -_TINY <= baseline + difference <= 1 + _TINY:
        raise ValueError(f"rates lie between 0 and 1, not {baseline:g} and {baseline + difference:g}")
    if not difference:
        raise ValueError("no number of episodes finds a difference of 0")


def _smallest(power_of: Callable[[int], float], guess: int, power: float) -> int | None:
    """Return the smallest number from which on the power holds, by bisection from a guess."""

    def suffices(n: int) -> bool:
        return power_of(n) >= power

    low, high = 1, max(2, guess)
    while not suffices(high):
        low, high = high, math.ceil(high * 1.25)
        if high > MOST_EPISODES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    while not all(suffices(high + more) for more in range(_HOLDS_FOR)):
        high += 1
    return high


def _outcomes(n: int, rate: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the numbers of successes that are not next to impossible, and their probabilities."""
    from scipy.stats import binom

    spread = 8 * math.sqrt(n * rate * (1 - rate)) + 8
    counts = np.arange(max(0, math.floor(n * rate - spread)), min(n, math.ceil(n * rate + spread)) + 1)
    return counts, binom.pmf(counts, n, rate)


def _mcnemar_power(n: int, discordant: float, direction: float, alpha: float) -> float:
    from scipy.stats import binom

    differing, probability = _outcomes(n, discordant)
    critical = binom.ppf(alpha / 2, differing, 0.5)  # The smallest that is too many to be significant, or one before.
    critical -= binom.cdf(critical, differing, 0.5) > alpha / 2
    found = binom.cdf(critical, differing, direction) + binom.sf(differing - critical - 1, differing, direction)
    return float(probability @ np.where(critical >= 0, found, 0.0))


def _fisher_power(n: int, rate_a: float, rate_b: float, alpha: float) -> float:
    """Return the power of Fisher's test, whose two-sided p-value is taken as twice the smaller tail."""
    from scipy.stats import binom

    successes_a, probability = _outcomes(n, rate_a)
    fewer = _fewest(successes_a, n, alpha)
    more = n - _fewest(n - successes_a, n, alpha)
    found = binom.cdf(fewer, n, rate_b) + binom.sf(more - 1, n, rate_b)
    return float(probability @ found)


def _fewest(successes_a: npt.NDArray[np.int64], n: int, alpha: float) -> npt.NDArray[np.int64]:
    """Return for successes of A the most successes of B that are significantly fewer; -1 if none are."""
    from scipy.stats import hypergeom

    low: npt.NDArray[np.int64] = np.full(len(successes_a), -1)
    high = successes_a + 1
    while np.any(high - low > 1):
        middle = (low + high) // 2
        significant = hypergeom.cdf(middle, 2 * n, successes_a + np.maximum(middle, 0), n) <= alpha / 2
        low, high = np.where(significant, middle, low), np.where(significant, high, middle)
    return low
