"""A rate's interval that holds at all times: against simulation, and against exact probabilities."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from arena_ray import statistics
from arena_ray.statistics import clopper_pearson_interval, confidence_sequence, episodes_until_within, is_within
from arena_ray.statistics.rates import wilson_interval

RUNS, HALF_WIDTH, CONFIDENCE = 2000, 0.05, 0.95
LIMIT = math.log(2 / (1 - CONFIDENCE))
HOEFFDING = math.ceil(LIMIT / (2 * HALF_WIDTH**2))
RATES = (0.01, 0.05, 0.2, 0.5, 0.7, 0.9, 0.96)

_Floats = npt.NDArray[np.float64]


def tosses(rate: float, episodes: int = HOEFFDING) -> _Floats:
    """Return the successes so far, ``float64[runs, episodes]``."""
    outcomes = np.random.default_rng(round(1000 * rate)).random((RUNS, episodes)) < rate
    return np.asarray(outcomes.cumsum(axis=1), dtype=np.float64)


def divergence(rate: _Floats, other: _Floats) -> _Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        heads = np.where(rate > 0, rate * np.log(rate / other), 0.0)
        tails = np.where(rate < 1, (1 - rate) * np.log((1 - rate) / (1 - other)), 0.0)
    return np.asarray(heads + tails)


def stops(successes: _Floats) -> npt.NDArray[np.int64]:
    """Return after how many episodes each run stops."""
    n = np.arange(1, successes.shape[1] + 1)
    rate = successes / n
    low, high = rate - HALF_WIDTH, rate + HALF_WIDTH
    narrow = ((low <= 0) | (n * divergence(rate, low) >= LIMIT)) & ((high >= 1) | (n * divergence(rate, high) >= LIMIT))
    assert narrow.any(axis=1).all()
    return np.asarray(narrow.argmax(axis=1) + 1)


def ever_refuted(successes: _Floats, rate: float) -> npt.NDArray[np.bool_]:
    """Return for each run whether at any time the sequence leaves out the rate."""
    failures = np.arange(1, successes.shape[1] + 1) - successes
    ratios = []
    for other in (min(1.0, rate + HALF_WIDTH), max(0.0, rate - HALF_WIDTH)):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(successes > 0, successes * np.log(other / rate), 0.0)
            ratio = ratio + np.where(failures > 0, failures * np.log((1 - other) / (1 - rate)), 0.0)
        ratios.append((ratio >= LIMIT).any(axis=1))
    return np.asarray(ratios[0] | ratios[1])


@pytest.mark.parametrize("rate", [pytest.param(rate, id=str(rate)) for rate in RATES])
def test_it_covers_at_all_times_together_and_when_one_stops(rate: float) -> None:
    successes = tosses(rate)
    assert np.mean(~ever_refuted(successes, rate)) >= CONFIDENCE
    ends = stops(successes)
    counts = successes[np.arange(RUNS), ends - 1].astype(int).tolist()
    intervals = [confidence_sequence(k, n, HALF_WIDTH, CONFIDENCE) for k, n in zip(counts, ends.tolist(), strict=True)]
    assert np.mean([low <= rate <= high for low, high in intervals]) >= CONFIDENCE
    for (low, high), k, n in zip(intervals, counts, ends.tolist(), strict=True):
        assert is_within(k, n, HALF_WIDTH, CONFIDENCE)
        assert max(k / n - low, high - k / n) <= HALF_WIDTH + 1e-12
    assert ends.max() <= HOEFFDING


@pytest.mark.parametrize("rate", [pytest.param(rate, id=str(rate)) for rate in (0.02, 0.3, 0.5, 0.85)])
def test_the_probability_to_be_ever_wrong_is_bounded(rate: float) -> None:
    """The exact one, by recursion over the number of successes."""
    half_width, confidence = 0.2, 0.9
    alive, wrong = {0: 1.0}, 0.0
    for n in range(1, 61):
        following: dict[int, float] = {}
        for successes, mass in alive.items():
            following[successes + 1] = following.get(successes + 1, 0.0) + mass * rate
            following[successes] = following.get(successes, 0.0) + mass * (1 - rate)
        for successes in list(following):
            low, high = confidence_sequence(successes, n, half_width, confidence)
            if not low <= rate <= high:
                wrong += following.pop(successes)
        alive = following
    assert 0 < wrong <= 1 - confidence


def test_wilsons_interval_looked_at_after_every_episode_is_wrong_too_often() -> None:
    """Why there is a sequence: at rate 0.5 it would have left the rate out at some time in a third of the runs."""
    successes, n = tosses(0.5), np.arange(1, HOEFFDING + 1)
    z = 1.959964
    rate, spread = successes / n, 1 + z * z / n
    half = z / spread * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low, high = (rate + z * z / (2 * n)) / spread - half, (rate + z * z / (2 * n)) / spread + half
    assert (low[0, 99], high[0, 99]) == pytest.approx(wilson_interval(successes[0, 99], 100), abs=1e-5)
    assert np.mean(((low <= 0.5) & (high >= 0.5))[:, 9:].all(axis=1)) < 0.7


@pytest.mark.parametrize(("half_width", "confidence"), [pytest.param(0.05, 0.95, id="95"), (0.2, 0.99), (0.4, 0.5)])
def test_narrow_enough_means_that_the_interval_is(half_width: float, confidence: float) -> None:
    for n in (1, 2, 7, 30, 72, 73, 150, 400, 738):
        for k in range(0, n + 1, max(1, n // 60)):
            low, high = confidence_sequence(k, n, half_width, confidence)
            assert 0 <= low <= k / n <= high <= 1
            far = max(k / n - low, high - k / n)
            if abs(far - half_width) > 1e-9:
                assert is_within(k, n, half_width, confidence) == (far < half_width), (k, n)
            mirrored = confidence_sequence(n - k, n, half_width, confidence)
            assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_it_says_how_many_episodes_a_rate_takes() -> None:
    assert not is_within(0, 0, 0.05, 0.95)
    assert [episodes_until_within(rate, 0.05, 0.95) for rate in (0.5, 0.0, 1.0)] == [735, 72, 72]
    assert is_within(72, 72, 0.05, 0.95)
    assert not is_within(71, 71, 0.05, 0.95)
    assert episodes_until_within(0.9, 0.05, 0.95) == 339


def test_jobs_together_cover_with_less_than_each_may_miss() -> None:
    first, second = np.arange(80) < 60, np.arange(20) < 5
    alone = statistics.stopped_success_rate([(first, 0.1)])
    assert (alone.low, alone.high) == pytest.approx(confidence_sequence(60, 80, 0.1, 0.95))
    assert (alone.value, alone.n, alone.method) == (0.75, 80, "confidence-sequence")
    both = statistics.stopped_success_rate([(first, 0.1), (second, None), (np.array([], dtype=np.bool_), 0.1)])
    one, other = confidence_sequence(60, 80, 0.1, 0.975), clopper_pearson_interval(5, 20, 0.975)
    assert both.value == pytest.approx(0.65)
    assert both.low == pytest.approx(0.8 * one[0] + 0.2 * other[0])
    assert both.high == pytest.approx(0.8 * one[1] + 0.2 * other[1])
    assert statistics.stopped_success_rate([]).value is None
