from __future__ import annotations

import time

import numpy as np
import pytest

from arena_ray import statistics
from arena_ray.results.aggregate import JobSamples, metrics_of

#: Two "tasks" of 23 "runs" each.
X = np.array([3, -1, 4, 1, -5, 9, 2, -6, 5, 3, 5, 8, 9, -7, 9, 3, 2, 3, 8, 4, 6, 2, 6], dtype=np.float64)
Y = np.array([2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5, 2, 3, 5, 3, 6, 0, 2], dtype=np.float64)


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


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # statsmodels 0.15.0, `proportion_confint(method="beta")`.
        pytest.param(0, 10, 0.0, 0.30849710781876083, id="none"),
        pytest.param(7, 20, 0.15390920478454118, 0.5921885345328282, id="some"),
        pytest.param(20, 20, 0.8315665290169146, 1.0, id="all"),
        pytest.param(81, 263, 0.25273674558527126, 0.3676219226013514, id="many"),
    ],
)
def test_clopper_pearson_matches_statsmodels(successes: int, n: int, low: float, high: float) -> None:
    assert statistics.clopper_pearson_interval(successes, n) == pytest.approx((low, high), abs=1e-9)
    outcomes = np.arange(n) < successes
    metric = statistics.success_rate(outcomes, method="clopper-pearson")
    assert (metric.low, metric.high) == pytest.approx((low, high), abs=1e-9)
    assert metric.method == "clopper-pearson"


def test_interquartile_mean_matches_rliable() -> None:
    # rliable 1.2.0: aggregate_iqm, and get_interval_estimates with 50,000 resamples (unseeded, so not to the digit).
    one, both = statistics.interquartile_mean(X), statistics.interquartile_mean([X, Y])
    assert one.value == pytest.approx(3.6923076923076925)
    assert both.value == pytest.approx(3.7083333333333335)
    assert (one.low, one.high) == pytest.approx((1.84615385, 5.46153846), abs=0.2)
    assert (both.low, both.high) == pytest.approx((2.75, 5.0), abs=0.15)
    assert (one.method, both.method, both.n) == ("bootstrap", "stratified bootstrap", 46)


def test_stratified_mean_matches_rliable() -> None:
    # rliable 1.2.0: aggregate_mean, and get_interval_estimates with 50,000 resamples.
    both = statistics.mean([X, Y])
    assert both.value == pytest.approx(3.652173913043478)
    assert (both.low, both.high) == pytest.approx((2.56521739, 4.69565217), abs=0.1)


def test_strata_that_differ_in_level_only_make_no_interval_wider() -> None:
    rng = np.random.default_rng(5)
    low, high = rng.normal(size=200), rng.normal(size=200) + 100
    for metric in (statistics.mean([low, high]), statistics.mean([np.tile(low, 30), np.tile(high, 30)])):
        assert metric.value == pytest.approx(50, abs=0.2)
        assert metric.low is not None
        assert metric.high is not None
        assert metric.high - metric.low < 0.3


@pytest.mark.parametrize(
    "estimate", [pytest.param(statistics.mean, id="mean"), pytest.param(statistics.interquartile_mean, id="iqm")]
)
@pytest.mark.parametrize("n", [pytest.param(40, id="bootstrap"), pytest.param(6000, id="normal")])
def test_intervals_cover_as_often_as_they_say(estimate: object, n: int) -> None:
    assert callable(estimate)
    rng = np.random.default_rng(3)
    found = [estimate(rng.normal(size=n)) for _ in range(150)]
    covered = sum(metric.low <= 0 <= metric.high for metric in found)
    assert 0.88 <= covered / 150 <= 0.99


def test_a_single_job_among_jobs_without_data_is_that_job() -> None:
    empty = np.array([], dtype=np.float64)
    assert statistics.mean([empty, X]) == statistics.mean(X)
    assert statistics.interquartile_mean([empty, empty]).value is None


def test_a_million_episodes_stay_cheap() -> None:
    rng = np.random.default_rng(4)
    job = JobSamples(
        outcomes=rng.random(1_000_000) < 0.5, returns=rng.normal(size=1_000_000), lengths=np.ones(1_000_000)
    )
    started = time.monotonic()
    metrics = metrics_of([job])
    assert time.monotonic() - started < 5
    assert metrics["return_iqm"].value == pytest.approx(0, abs=0.01)
    assert (metrics["length_iqm"].low, metrics["length_iqm"].high) == (1.0, 1.0)
