"""Intervals of a success rate that hold at every number of episodes at once, so that one may stop when they suit.

An interval for a number of episodes that was fixed beforehand (Wilson's, Clopper and Pearson's) misses the rate far
more often than it says when it is looked at after every episode: at some moment it is wrong. A confidence sequence
(Darling and Robbins, PNAS 58, 1967; Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 49, 2021) covers the
rate at all moments together with the stated confidence, and hence whenever one stops, for whatever reason.

This one is exact for coin flips, and the sharpest where it is meant to end, at a half-width of `w`. Each rate `m` is
tested against ``m + w`` and against ``m - w`` by Wald's likelihood ratio (Annals of Mathematical Statistics 16, 1945):

    ((m + w) / m) ** successes * ((1 - m - w) / (1 - m)) ** failures

If `m` is the rate, that is a martingale that begins at 1, and by Ville's inequality it ever reaches ``2 / alpha`` with
probability ``alpha / 2`` at most. The sequence is made of the rates for which neither ratio has reached it. As the
first ratio falls with `m` and the second grows, these are an interval, and it lies within `w` around the rate `r` that
was found as soon as

    n * KL(r, r - w) >= log(2 / alpha)  and  n * KL(r, r + w) >= log(2 / alpha)

with `KL` the Kullback-Leibler divergence of two coins. It is at least ``2 * w**2``, so that this is never later than
after Hoeffding's fixed number of episodes, ``log(2 / alpha) / (2 * w**2)``, and much sooner for rates near 0 or 1.
"""

from __future__ import annotations

import math

#: Halvings of [0, 1] until neighbouring numbers are reached.
_HALVINGS = 60


def is_within(successes: int, n: int, half_width: float, confidence: float) -> bool:
    """Return whether the sequence lies within the half-width around the rate that was found.

    Args:
        successes: Number of successes, 0 to `n`.
        n: Number of episodes; with 0 the answer is False.
        half_width: Above 0, below 0.5.
        confidence: With which the sequence covers the rate at all times together.
    """
    if n == 0:
        return False
    rate = successes / n
    needed = math.log(2 / (1 - confidence)) / n
    return all(
        not 0 < rate + side < 1 or _divergence(rate, rate + side) >= needed for side in (-half_width, half_width)
    )


def episodes_until_within(rate: float, half_width: float, confidence: float) -> int:
    """Return after how many episodes `is_within` is True if the rate stays what it is.

    Args:
        rate: 0 to 1.
        half_width: Above 0, below 0.5.
        confidence: Of the sequence.
    """
    others = [rate + side for side in (-half_width, half_width) if 0 < rate + side < 1]
    return math.ceil(math.log(2 / (1 - confidence)) / min(_divergence(rate, other) for other in others))


def confidence_sequence(successes: int, n: int, half_width: float, confidence: float) -> tuple[float, float]:
    """Return the interval after so many episodes.

    Args:
        successes: Number of successes, 0 to `n`.
        n: Number of episodes, at least 1.
        half_width: Where the sequence is the sharpest; it must not depend on the outcomes.
        confidence: With which all intervals together cover the rate.
    """
    limit = math.log(2 / (1 - confidence))
    low = _lowest(successes, n - successes, half_width, limit)
    return low, 1 - _lowest(n - successes, successes, half_width, limit)


def _lowest(successes: int, failures: int, half_width: float, limit: float) -> float:
    """Return the largest rate that is refuted as too low; 0 if none is."""
    if not successes:
        return 0.0
    low, high = 0.0, successes / (successes + failures)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = middle == 0 or _log_ratio(successes, failures, middle, min(1.0, middle + half_width)) >= limit
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _log_ratio(successes: int, failures: int, rate: float, other: float) -> float:
    """Return the logarithm of the likelihood of another rate over that of a rate, 0 < rate < 1."""
    if failures and other >= 1:
        return -math.inf
    against = failures * math.log((1 - other) / (1 - rate)) if failures else 0.0
    return successes * math.log(other / rate) + against


def _divergence(rate: float, other: float) -> float:
    """Return the Kullback-Leibler divergence of a coin from another, 0 < other < 1."""
    of_success = rate * math.log(rate / other) if rate else 0.0
    of_failure = (1 - rate) * math.log((1 - rate) / (1 - other)) if rate < 1 else 0.0
    return of_success + of_failure
