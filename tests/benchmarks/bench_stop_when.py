"""What `stop_when` saves, and what looking again and again at an ordinary interval would cost.

    python -m tests.benchmarks.bench_stop_when [--half_width 0.05] [--confidence 0.95] [--runs 2000] [--json FILE]

For each true rate, over seeded simulated runs: after how many episodes a job stops (mean, 5 % and 95 %), which share it
saves of two fixed budgets, Hoeffding's (never later than it) and the one planned for the worst rate with Wilson's
interval; how often the interval covers the rate where it stops, and at all times together; the mean stop with the usual
mixture over a uniform prior instead (Waudby-Smith and Ramdas 2020), for why it was not taken; and the same for Wilson's
interval when it is looked at after every episode from the tenth on.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, xlog1py, xlogy

from arena_ray.statistics import episodes_until_within

RATES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
FIRST_LOOK = 10

_Array = npt.NDArray[Any]


def log_likelihood(successes: _Array, failures: _Array, rate: _Array) -> _Array:
    """Return the log-likelihood of a rate, 0 to 1."""
    return np.asarray(xlogy(successes, rate) + xlog1py(failures, -rate))


def log_ratio(successes: _Array, failures: _Array, rate: _Array) -> _Array:
    """Return the log of the likelihood of the rate that was found over another; one that is none is refuted."""
    best = log_likelihood(successes, failures, successes / (successes + failures))
    inside = (rate > 0) & (rate < 1)
    return np.where(inside, best - log_likelihood(successes, failures, np.where(inside, rate, 0.5)), np.inf)


def first(narrow: _Array) -> _Array:
    assert narrow.any(axis=1).all(), "some run does not stop"
    return np.asarray(narrow.argmax(axis=1))


def measure(rate: float, half_width: float, confidence: float, runs: int) -> dict[str, float]:
    """Return what one true rate comes to."""
    limit = math.log(2 / (1 - confidence))
    hoeffding = math.ceil(limit / (2 * half_width**2))
    outcomes = np.random.default_rng(round(1000 * rate)).random((runs, 2 * hoeffding)) < rate
    successes = outcomes.cumsum(axis=1)
    n = np.arange(1, 2 * hoeffding + 1)
    failures, found = n - successes, successes / n
    sides = [found - half_width, found + half_width]
    ratios = [log_ratio(successes, failures, side) for side in sides]
    stop = first((ratios[0] >= limit) & (ratios[1] >= limit))
    truth = log_likelihood(successes, failures, np.full(found.shape, rate))
    refuted = np.zeros(found.shape, bool)
    for other in (max(0.0, rate - half_width), min(1.0, rate + half_width)):
        refuted |= log_likelihood(successes, failures, np.full(found.shape, other)) - truth >= limit
    best = log_likelihood(successes, failures, found)
    mixture = betaln(1 + successes, 1 + failures) - best  # Against the rate that was found.
    mixed = first(np.minimum(*(mixture + ratio for ratio in ratios)) >= -math.log(1 - confidence))
    planned = fixed_budget(half_width, confidence)
    rows = np.arange(runs)
    mean_stop = float(stop.mean() + 1)
    return {
        "rate": rate,
        "mean": mean_stop,
        "p5": float(np.percentile(stop + 1, 5)),
        "p95": float(np.percentile(stop + 1, 95)),
        "expected": episodes_until_within(rate, half_width, confidence),
        "saved_of_hoeffding": 1 - mean_stop / hoeffding,
        "saved_of_planned": 1 - mean_stop / planned,
        "covers_at_stop": float(np.mean(~refuted[rows, stop])),
        "covers_always": float(np.mean(~refuted[:, :hoeffding].any(axis=1))),
        "mixture_mean": float(mixed.mean() + 1),
        **wilson(found, n, rate, half_width, confidence, hoeffding),
    }


def wilson(
    found: _Array, n: _Array, rate: float, half_width: float, confidence: float, hoeffding: int
) -> dict[str, float]:
    """Return what stopping by Wilson's interval comes to."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = 1 + z * z / n
    centre = (found + z * z / (2 * n)) / spread
    half = z / spread * np.sqrt(found * (1 - found) / n + z * z / (4 * n * n))
    looked_at = n >= FIRST_LOOK
    stop = first((half <= half_width) & looked_at)
    covers = np.abs(centre - rate) <= half
    return {
        "wilson_mean": float(stop.mean() + 1),
        "wilson_covers_at_stop": float(np.mean(covers[np.arange(len(found)), stop])),
        "wilson_covers_always": float(np.mean(covers[:, FIRST_LOOK - 1 : hoeffding].all(axis=1))),
    }


def fixed_budget(half_width: float, confidence: float) -> int:
    """Return how many episodes Wilson's interval takes to be narrow enough at the worst rate, 0.5."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return math.ceil(z * z * (1 / (4 * half_width**2) - 1))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--half_width", type=float, default=0.05)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [measure(rate, given.half_width, given.confidence, given.runs) for rate in RATES]
    hoeffding = math.ceil(math.log(2 / (1 - given.confidence)) / (2 * given.half_width**2))
    print(
        f"fixed budgets: Hoeffding {hoeffding}, Wilson at rate 0.5 {fixed_budget(given.half_width, given.confidence)}"
    )
    print("rate   stop: mean [5 %, 95 %]   saved of both  covers: stop, always  mixture  Wilson: mean, stop, always")
    for row in rows:
        print(
            f"{row['rate']:<6} {row['mean']:>10.0f} [{row['p5']:>4.0f},{row['p95']:>5.0f}]"
            f"  {row['saved_of_hoeffding']:>7.0%} {row['saved_of_planned']:>6.0%}"
            f"  {row['covers_at_stop']:>9.1%} {row['covers_always']:>8.1%}  {row['mixture_mean']:>7.0f}"
            f"  {row['wilson_mean']:>7.0f} {row['wilson_covers_at_stop']:>7.1%} {row['wilson_covers_always']:>7.1%}"
        )
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
