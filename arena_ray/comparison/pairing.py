"""The episodes of both runs side by side: pairs of one seed, or two heaps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from arena_ray.comparison.verdicts import Contrast
from arena_ray.results import NO_SEED, JobColumns
from arena_ray.statistics import MeanDifference, PairedRates, UnpairedRates
from arena_ray.statistics.two_rates import RateCounts

_Rows = npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobEpisodes:
    """A job's episodes in both runs.

    Attributes:
        a: All episodes of A.
        b: All episodes of B.
        rows_a: Rows of `a` whose seed B has too.
        rows_b: Rows of `b`, in the same order.
    """

    a: JobColumns
    b: JobColumns
    rows_a: _Rows
    rows_b: _Rows

    @property
    def seeds_match(self) -> bool:
        """Whether the runs played the same seeds: of the shorter one, the other has at least half."""
        return 2 * len(self.rows_a) >= min(len(self.a.episode), len(self.b.episode))

    @property
    def both_completed(self) -> tuple[_Rows, _Rows]:
        """The pairs in which both episodes are completed."""
        kept = self.a.completed[self.rows_a] & self.b.completed[self.rows_b]
        return self.rows_a[kept], self.rows_b[kept]

    def excluded(self, *, paired: bool) -> dict[str, int]:
        """Return how many episodes do not count, and why.

        ``a_failed`` and ``b_failed``: recorded as ``error`` or ``timeout``; ``a_alone`` and ``b_alone``: the other run
        has no record with that seed.
        """
        alone = len(self.rows_a) if paired else None
        return {
            "a_failed": int(np.count_nonzero(~self.a.completed)),
            "b_failed": int(np.count_nonzero(~self.b.completed)),
            "a_alone": 0 if alone is None else len(self.a.episode) - alone,
            "b_alone": 0 if alone is None else len(self.b.episode) - alone,
        }

    def paired_rates(self) -> PairedRates:
        """Return the outcomes of the pairs in which both say whether they succeeded."""
        a, b = (columns.success[rows] for columns, rows in zip((self.a, self.b), self.both_completed, strict=True))
        known = (a >= 0) & (b >= 0)
        a, b = a[known] == 1, b[known] == 1
        counts = (np.count_nonzero(kind) for kind in (a & b, a & ~b, ~a & b, ~a & ~b))
        return PairedRates(*(int(count) for count in counts))

    def flipped(self) -> list[tuple[int, bool, bool]]:
        """Return episode (of A) and both outcomes of the pairs whose outcome differs, in episode order."""
        rows_a, rows_b = self.both_completed
        a, b = self.a.success[rows_a], self.b.success[rows_b]
        differing = np.flatnonzero((a >= 0) & (b >= 0) & (a != b))
        episodes = self.a.episode[rows_a[differing]].tolist()
        return sorted(zip(episodes, (a[differing] == 1).tolist(), (b[differing] == 1).tolist(), strict=True))

    def rate_counts(self) -> RateCounts:
        """Return successes and episodes of each run."""
        (successes_a, n_a), (successes_b, n_b) = (_successes(columns) for columns in (self.a, self.b))
        return RateCounts(successes_a, n_a, successes_b, n_b)

    def values(self, metric: str, *, paired: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the finite values of a metric in both runs; paired: of the same episodes."""
        if not paired:
            return _finite(self.a, metric), _finite(self.b, metric)
        rows_a, rows_b = self.both_completed
        a, b = self.a.values[metric][rows_a], self.b.values[metric][rows_b]
        known = np.isfinite(a) & np.isfinite(b)
        return a[known], b[known]


def align(a: JobColumns, b: JobColumns) -> JobEpisodes:
    """Put the episodes of one seed side by side; episodes whose seed nobody knows are in no pair.

    Seeds have 31 bits, so that two episodes of a large job may share one: these are told apart by their index.
    """
    keys_a, keys_b = _keys(a, b), _keys(b, a)
    row_of = {key: row for row, key in enumerate(keys_b) if key is not None}
    pairs = [(row, row_of[key]) for row, key in enumerate(keys_a) if key in row_of]
    rows = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return JobEpisodes(a=a, b=b, rows_a=rows[:, 0], rows_b=rows[:, 1])


def _keys(columns: JobColumns, other: JobColumns) -> list[tuple[int, int] | None]:
    times, times_other = Counter(columns.seed.tolist()), Counter(other.seed.tolist())
    rows = zip(columns.seed.tolist(), columns.episode.tolist(), strict=True)
    shared = {seed for seed, count in (times | times_other).items() if count > 1}
    return [None if seed == NO_SEED else (seed, episode if seed in shared else -1) for seed, episode in rows]


def contrasts(
    jobs: Mapping[str, JobEpisodes], metrics: Mapping[str, Iterable[str]], *, paired: bool
) -> tuple[dict[str, dict[str, Contrast]], dict[str, Contrast]]:
    """Return what is compared: for each job and metric, and for each metric that all jobs have over all jobs.

    Args:
        jobs: The episodes of each job.
        metrics: Names of each job's own metrics.
        paired: Whether by pairs.
    """

    def all_of(some: list[JobEpisodes], names: Iterable[str]) -> dict[str, Contrast]:
        means = {name: _means(some, name, paired=paired) for name in ("return", "length", *names)}
        return {"success_rate": _rates(some, paired=paired), **means}

    by_job = {name: all_of([episodes], metrics[name]) for name, episodes in jobs.items()}
    return by_job, all_of(list(jobs.values()), ())


def _rates(jobs: list[JobEpisodes], *, paired: bool) -> PairedRates | UnpairedRates:
    if paired:
        return sum((job.paired_rates() for job in jobs), PairedRates(0, 0, 0, 0))
    return UnpairedRates([job.rate_counts() for job in jobs])


def _means(jobs: list[JobEpisodes], metric: str, *, paired: bool) -> MeanDifference:
    both = [job.values(metric, paired=paired) for job in jobs]
    return MeanDifference([a for a, _ in both], [b for _, b in both], paired=paired)


def _successes(columns: JobColumns) -> tuple[int, int]:
    outcomes = columns.success[columns.completed & (columns.success >= 0)]
    return int(np.count_nonzero(outcomes)), len(outcomes)


def _finite(columns: JobColumns, metric: str) -> npt.NDArray[np.float64]:
    values = columns.values[metric][columns.completed]
    finite: npt.NDArray[np.float64] = values[np.isfinite(values)]
    return finite
