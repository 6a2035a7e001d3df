"""Two rates, two means, and how many episodes they need."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from arena_ray.statistics import (
    MeanDifference,
    PairedRates,
    UnpairedRates,
    holm,
    paired_episodes,
    pairs_to_decide,
    unpaired_episodes,
)
from arena_ray.statistics.two_rates import RateCounts, mcnemar_p_value, newcombe_interval, stratified_p_value
from tests.test_statistics import X, Y

COUNTS = st.integers(0, 40)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        # statsmodels 0.15.0, `mcnemar(exact=True)`.
        pytest.param(4, 26, 5.9476122260093696e-05, id="clear"),
        pytest.param(1, 7, 0.0703125, id="bentur-2009"),
        pytest.param(0, 5, 0.0625, id="five"),
        pytest.param(10, 10, 1.0, id="even"),
    ],
)
def test_mcnemar_matches_statsmodels(only_a: int, only_b: int, p_value: float) -> None:
    assert mcnemar_p_value(only_a, only_b) == pytest.approx(p_value, rel=1e-9)


def test_the_paired_interval_matches_statpsych() -> None:
    # Example of statpsych 1.7.0, `ci.prop.ps(.05, 12, 4, 26, 6)`, by the authors of the method.
    assert PairedRates(6, 4, 26, 12).interval(0.95) == pytest.approx((0.2548067, 0.6251933), abs=1e-6)


def test_the_paired_interval_covers() -> None:
    rng = np.random.default_rng(0)
    z = 1.959964
    for n, discordant, share in itertools.product((20, 50, 200), (0.02, 0.1, 0.4), (0.5, 0.7, 1.0)):
        true = discordant * (2 * share - 1)
        chances = [1 - discordant, discordant * (1 - share), discordant * share]
        covered = 0
        tables, counts = np.unique(rng.multinomial(n, chances, size=4000), axis=0, return_counts=True)
        for (same, only_a, only_b), count in zip(tables.tolist(), counts.tolist(), strict=True):
            interval = PairedRates(same, only_a, only_b, 0).interval(0.95)
            assert interval is not None
            covered += count * (interval[0] - 1e-12 <= true <= interval[1] + 1e-12)
        assert covered / 4000 > 0.92 - z * (0.05 * 0.95 / 4000) ** 0.5, (n, discordant, share)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # statsmodels 0.15.0, `confint_proportions_2indep(method="newcomb")`, B less A.
        pytest.param((56, 70, 48, 80), -0.33387265403690614, -0.05243147240236498, id="newcombe-a"),
        pytest.param((10, 10, 0, 20), -1.0, -0.6790860371419145, id="extreme"),
        pytest.param((5, 56, 0, 29), -0.19256001385511165, 0.038137147903536936, id="none"),
    ],
)
def test_the_unpaired_interval_matches_statsmodels(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    successes_a, n_a, successes_b, n_b = counts
    assert newcombe_interval(successes_a / n_a, n_a, successes_b / n_b, n_b, 0.95) == pytest.approx(
        (low, high), abs=1e-9
    )
    assert UnpairedRates([RateCounts(*counts)]).interval(0.95) == pytest.approx((low, high), abs=1e-9)


def test_the_unpaired_tests_are_scipys() -> None:
    # SciPy 1.17.1, `boschloo_exact` and, for many episodes, `fisher_exact`.
    small = UnpairedRates([RateCounts(56, 70, 48, 80)])
    assert small.test == "Boschloo"
    assert small.p_value == pytest.approx(0.008844461240896488, rel=1e-4)
    large = UnpairedRates([RateCounts(740, 1000, 690, 1000)])
    assert large.test == "Fisher"
    assert large.p_value == pytest.approx(0.015176245538695471, rel=1e-6)


def test_the_stratified_test_sums_over_all_tables() -> None:
    jobs = [RateCounts(7, 9, 2, 8), RateCounts(5, 6, 3, 7), RateCounts(1, 5, 1, 4)]
    supports = []
    for job in jobs:
        successes, n = job.successes_a + job.successes_b, job.n_a + job.n_b
        possible = range(max(0, successes - job.n_a), min(successes, job.n_b) + 1)
        supports.append([(k, float(stats.hypergeom.pmf(k, n, successes, job.n_b))) for k in possible])
    by_sum: dict[int, float] = {}
    for tables in itertools.product(*supports):
        total = sum(k for k, _ in tables)
        by_sum[total] = by_sum.get(total, 0.0) + float(np.prod([probability for _, probability in tables]))
    observed = by_sum[sum(job.successes_b for job in jobs)]
    expected = sum(probability for probability in by_sum.values() if probability <= observed * (1 + 1e-7))
    assert stratified_p_value(jobs) == pytest.approx(expected)
    assert stratified_p_value(jobs[:1]) == pytest.approx(stats.fisher_exact([[2, 7], [6, 2]]).pvalue)


def test_jobs_that_one_run_played_more_often_bias_nothing() -> None:
    """Pooled, B would look far worse: it played the hard job more often."""
    rates = UnpairedRates([RateCounts(90, 100, 9, 10), RateCounts(1, 10, 10, 100)])
    assert rates.difference == pytest.approx(0)
    assert rates.p_value == pytest.approx(1, abs=0.01)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_paired_rates_mirror_and_agree_with_their_test(both: int, only_a: int, only_b: int, neither: int) -> None:
    rates, mirrored = PairedRates(both, only_a, only_b, neither), PairedRates(both, only_b, only_a, neither)
    interval, other = rates.interval(0.95), mirrored.interval(0.95)
    if not rates.n:
        assert interval is None
        assert rates.a is rates.b is rates.difference is rates.p_value is None
        return
    assert interval is not None
    assert other is not None
    assert interval == pytest.approx((-other[1], -other[0]), abs=1e-12)
    assert rates.p_value is not None
    assert (interval[0] <= 0 <= interval[1]) == (rates.p_value > 0.05)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=40),
    st.lists(st.floats(-5, 5), min_size=2, max_size=40),
    st.booleans(),
)
def test_mean_differences_mirror(first: list[float], second: list[float], paired: bool) -> None:
    length = min(len(first), len(second)) if paired else None
    a, b = np.array(first[:length]), np.array(second[:length])
    assume(paired or not np.array_equal(a, b))  # What is its own mirror image differs from it by the resampling.
    one, other = MeanDifference([a], [b], paired=paired), MeanDifference([b], [a], paired=paired)
    there, back = one.interval(0.95), other.interval(0.95)
    assert there is not None
    assert back is not None
    assert there == pytest.approx((-back[1], -back[0]), abs=1e-9)
    assert one.p_value == pytest.approx(other.p_value)


def test_means_of_few_values_take_students_interval() -> None:
    # SciPy 1.17.1: ttest_rel(Y, X) and ttest_ind(Y, X, equal_var=False), of the first 12 values.
    paired, unpaired = (MeanDifference([X[:12]], [Y[:12]], paired=kind) for kind in (True, False))
    for found, test in (
        (paired, stats.ttest_rel(Y[:12], X[:12])),
        (unpaired, stats.ttest_ind(Y[:12], X[:12], equal_var=False)),
    ):
        assert found.method == "Student's t"
        assert found.p_value == pytest.approx(test.pvalue)
        interval = test.confidence_interval(0.95)
        assert found.interval(0.95) == pytest.approx((interval.low, interval.high))


def test_means_of_more_values_take_the_bootstrap() -> None:
    paired = MeanDifference([X], [Y], paired=True)
    # SciPy 1.17.1, ttest_rel(Y, X), which the bootstrap comes close to: p 0.347, interval [-1.107, 3.020].
    assert paired.test == "paired bootstrap"
    assert paired.p_value == pytest.approx(0.347, abs=0.05)
    assert paired.interval(0.95) == pytest.approx((-1.107, 3.020), abs=0.35)
    assert paired.interval(0.95) == MeanDifference([X], [Y], paired=True).interval(0.95)


@pytest.mark.parametrize(
    "n", [pytest.param(8, id="t"), pytest.param(25, id="bootstrap"), pytest.param(3000, id="many")]
)
def test_the_interval_of_a_mean_difference_covers(n: int) -> None:
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(150):
        scene = rng.normal(size=n)
        interval = MeanDifference([scene], [scene + rng.normal(0.5, 1, size=n)], paired=True).interval(0.95)
        assert interval is not None
        covered += interval[0] <= 0.5 <= interval[1]
    assert 0.89 <= covered / 150 <= 0.99


def test_few_pairs_never_exclude_zero() -> None:
    interval = MeanDifference([np.zeros(5)], [np.ones(5)], paired=True).interval(0.95)
    assert interval == (0.0, 1.0)
    assert MeanDifference([np.zeros(1)], [np.ones(1)], paired=True).interval(0.95) is None
    assert MeanDifference([np.zeros(0)], [np.ones(0)], paired=True).a is None


def test_holm_matches_statsmodels() -> None:
    # statsmodels 0.15.0, `multipletests([0.01, 0.04, 0.03, 0.005], method="holm")`.
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_planned_pairs_have_the_power() -> None:
    n = paired_episodes(0.6, 0.1, 0.2)
    assert n is not None
    differing = np.random.default_rng(0).binomial(n, 0.2, size=20_000)
    only_b = np.random.default_rng(1).binomial(differing, 0.75)
    p_values = stats.binom.cdf(np.minimum(only_b, differing - only_b), differing, 0.5) * 2
    assert np.mean(p_values <= 0.05) == pytest.approx(0.8, abs=0.02)


def test_planned_episodes_have_the_power() -> None:
    """Fisher's test, for which they are planned, has it; Boschloo's, which decides, has a little more."""
    n = unpaired_episodes(0.5, 0.3)
    assert n is not None
    rng = np.random.default_rng(2)
    tables, counts = np.unique(rng.binomial(n, (0.5, 0.8), size=(4000, 2)), axis=0, return_counts=True)
    rejected = [
        (stats.fisher_exact([[b, a], [n - b, n - a]]).pvalue <= 0.05, count)
        for (a, b), count in zip(tables.tolist(), counts.tolist(), strict=True)
    ]
    assert sum(count for found, count in rejected if found) / 4000 == pytest.approx(0.81, abs=0.025)


def test_pairing_pays_when_few_pairs_differ() -> None:
    paired, unpaired = paired_episodes(0.6, 0.1, 0.2), unpaired_episodes(0.6, 0.1)
    assert paired is not None
    assert unpaired is not None
    assert paired < unpaired / 2
    # statsmodels' and G*Power's unconditional figures for 0.6 against 0.7 lie between 356 and 376.
    assert 356 <= unpaired <= 380


@pytest.mark.parametrize(
    ("baseline", "difference", "discordant"),
    [
        pytest.param(0.95, 0.1, 0.2, id="above-one"),
        pytest.param(0.6, 0.0, 0.2, id="no-difference"),
        pytest.param(0.6, 0.1, 0.05, id="too-few-differ"),
        pytest.param(0.9, 0.05, 0.5, id="too-many-differ"),
    ],
)
def test_what_cannot_be_is_refused(baseline: float, difference: float, discordant: float) -> None:
    with pytest.raises(ValueError, match=r"between|difference of 0"):
        paired_episodes(baseline, difference, discordant)


def test_what_it_takes_to_decide() -> None:
    # (1.96 + 0.8416)^2 * 0.19 / 0.1^2, and for no difference (1.96 + 1.2816)^2 * 0.2 / 0.05^2.
    assert pairs_to_decide(0.1, 0.19, 0.05, 0.95) == 150
    assert pairs_to_decide(0.0, 0.2, 0.05, 0.95) == 841
    assert pairs_to_decide(0.0, 0.2, 0.0, 0.95) is None
