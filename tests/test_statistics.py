from __future__ import annotations

import numpy as np
import pytest

from arena_ray import statistics


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # The last: Newcombe, Statistics in Medicine 17 (1998), table I; the others: SciPy's binomtest, method "wilson".
        pytest.param(0, 10, 0.0, 0.27753279, id="none"),
        pytest.param(10, 10, 0.72246721, 1.0, id="all"),
        pytest.param(5, 10, 0.23659309, 0.76340691, id="half"),
        pytest.param(81, 263, 0.2553, 0.3662, id="newcombe-1998"),
    ],
)
def test_wilson_matches_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert statistics.wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_no_data_is_null_never_zero() -> None:
    rate = statistics.success_rate(np.array([], dtype=np.bool_))
    mean = statistics.mean(np.array([], dtype=np.float64))
    for metric in (rate, mean):
        assert (metric.value, metric.low, metric.high, metric.n) == (None, None, None, 0)


def test_one_value_has_no_interval() -> None:
    metric = statistics.mean(np.array([3.0]))
    assert (metric.value, metric.low, metric.high, metric.n) == (3.0, None, None, 1)


def test_bootstrap_agrees_with_the_normal_interval_on_many_values() -> None:
    values = np.random.default_rng(1).exponential(size=2000)
    metric = statistics.mean(values)
    half = 1.96 * values.std(ddof=1) / 2000**0.5
    assert metric.method == "bootstrap"
    assert metric.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert metric.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert statistics.mean(values) == metric


def test_very_many_values_take_the_normal_interval() -> None:
    metric = statistics.mean(np.arange(10_000, dtype=np.float64))
    assert metric.method == "normal"
    assert metric.low is not None
    assert metric.low < 4999.5 < (metric.high or 0)


def test_bootstrap_coverage_is_near_nominal() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        metric = statistics.mean(rng.normal(size=40))
        covered += metric.low is not None and metric.high is not None and metric.low <= 0 <= metric.high
    assert 0.88 <= covered / 200 <= 0.99
