"""What the episodes of one job, of jobs with one tag, or of all jobs come to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arena_ray import statistics
from arena_ray.records import Metric
from arena_ray.specs import EvalJob

#: The metrics that every job has; its own stand beside them.
COMMON_METRICS = ("success_rate", "return", "return_iqm", "length", "length_iqm")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobSamples:
    """What the completed episodes of a job came to.

    Attributes:
        outcomes: ``bool[n]``, of those that said whether they succeeded.
        returns: ``float64[n]``, finite.
        lengths: ``float64[n]``, finite.
        half_width: To within what its success rate is to be known before the job stops; ``None``: its number of
            episodes was fixed beforehand.
        confidence: Of the interval of the success rate.
    """

    outcomes: npt.NDArray[np.bool_]
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.float64]
    half_width: float | None = None
    confidence: float = 0.95


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """What several jobs came to together.

    Every completed episode weighs the same, so a job with more of them weighs more; intervals take each job as a
    stratum. Returns of different environments can be put together only where they are on one scale.

    Attributes:
        jobs: Names of the jobs.
        counts: Episodes by status: ``completed``, ``error``, ``timeout``.
        metrics: ``success_rate``, ``return``, ``return_iqm``, ``length`` and ``length_iqm``, over completed episodes.
    """

    jobs: tuple[str, ...]
    counts: Mapping[str, int]
    metrics: Mapping[str, Metric]

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``summary.json``."""
        metrics = {name: dataclasses.asdict(metric) for name, metric in self.metrics.items()}
        return {"jobs": [*self.jobs], "episodes": dict(self.counts), "metrics": metrics}


def metrics_of(jobs: Sequence[JobSamples]) -> dict[str, Metric]:
    """Return `COMMON_METRICS`: the success rate, and mean and interquartile mean of return and length.

    The intervals of means take the number of episodes as given, also where the outcomes decided about it.
    """
    returns, lengths = [job.returns for job in jobs], [job.lengths for job in jobs]
    return {
        "success_rate": _success_rate(jobs),
        "return": statistics.mean(returns),
        "return_iqm": statistics.interquartile_mean(returns),
        "length": statistics.mean(lengths),
        "length_iqm": statistics.interquartile_mean(lengths),
    }


def _success_rate(jobs: Sequence[JobSamples]) -> Metric:
    if any(job.half_width is not None for job in jobs):
        confidence = jobs[0].confidence if len(jobs) == 1 else 0.95
        return statistics.stopped_success_rate([(job.outcomes, job.half_width) for job in jobs], confidence)
    outcomes = np.concatenate([job.outcomes for job in jobs]) if jobs else np.array([], dtype=np.bool_)
    return statistics.success_rate(outcomes)


def group_of(
    jobs: Sequence[str], samples: Mapping[str, JobSamples], counts: Mapping[str, Mapping[str, int]]
) -> GroupResult:
    """Return what some jobs came to together."""
    total = {status: sum(counts[name][status] for name in jobs) for status in ("completed", "error", "timeout")}
    return GroupResult(jobs=tuple(jobs), counts=total, metrics=metrics_of([samples[name] for name in jobs]))


def jobs_by_tag(jobs: Iterable[EvalJob]) -> dict[str, dict[str, list[str]]]:
    """Return the names of jobs by tag and value; a value that is no text is written as in JSON."""
    groups: dict[str, dict[str, list[str]]] = {}
    for job in jobs:
        for tag, value in job.tags.items():
            text = value if isinstance(value, str) else json.dumps(value)
            groups.setdefault(tag, {}).setdefault(text, []).append(job.name)
    return groups
