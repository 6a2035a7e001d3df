"""`compare`: what two runs say about which policy is better."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena_ray.comparison import text
from arena_ray.comparison.comparability import Difference, find_differences
from arena_ray.comparison.pairing import JobEpisodes, align, contrasts
from arena_ray.comparison.verdicts import HIGHER_IS_BETTER, Judge, MetricComparison, Verdict
from arena_ray.errors import ConfigError, RunDirError
from arena_ray.results import JobColumns, RunResult, tallies_for
from arena_ray.run_dir import RunDir
from arena_ray.specs import EvalJob, MetricSpec
from arena_ray.stopping import Stopped
from arena_ray.storage import fetch_missing, local_copy

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Exit codes of ``arena-ray compare --gate``.
GATE_CODES = {"better": 0, "no_difference": 0, "worse": 1, "undecided": 4}
NOT_COMPARABLE_CODE = 5

#: Why ``compare --extend`` extends runs, as their events say.
UNDECIDED = "undecided comparison"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An episode whose outcome is another one in B: its job, its index, and success in A and in B."""

    job: str
    episode: int
    a: bool
    b: bool


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """What two runs say about which policy is better. `print` shows a table.

    Attributes:
        comparable: Whether both asked the same question; else there is nothing but `differences`.
        differences: How they differ, their policies aside.
        paired: Whether episodes of one seed are compared with each other; ``None`` if not comparable.
        jobs: By job and metric.
        overall: Over all jobs, by metric: every pair of episodes weighs the same.
        flipped: Pairs whose outcome differs.
        excluded: By job: episodes that do not count, see `pairing.JobEpisodes.excluded`.
        notes: What limits the comparison.
        margin: What counts as no difference.
        confidence: With which the verdicts hold.
        run_a: Run directory of A.
        run_b: Run directory of B.
        since: By job, the first episode that counts: earlier ones were looked at before both runs were extended, see
            `extension_runner`. Empty if they were not.
    """

    comparable: bool
    differences: tuple[Difference, ...]
    paired: bool | None
    jobs: Mapping[str, Mapping[str, MetricComparison]]
    overall: Mapping[str, MetricComparison]
    flipped: tuple[Flip, ...]
    excluded: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]
    margin: float
    confidence: float
    run_a: Path
    run_b: Path
    since: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What the verdict is about: ``success_rate``, or ``return`` where no episode says whether it succeeded."""
        return "return" if self.overall and not self.overall["success_rate"].n else "success_rate"

    @property
    def worse_jobs(self) -> tuple[str, ...]:
        """Jobs in which B is worse."""
        return tuple(name for name, metrics in self.jobs.items() if metrics[self.metric].verdict == "worse")

    @property
    def verdict(self) -> Verdict | None:
        """That over all jobs, but ``worse`` also where B is worse in any job; ``None`` if not comparable."""
        if not self.comparable:
            return None
        return "worse" if self.worse_jobs else self.overall[self.metric].verdict

    @property
    def gate_code(self) -> int:
        """Exit code of ``--gate``: 0 no regression, 1 worse, 4 undecided, 5 not comparable."""
        return NOT_COMPARABLE_CODE if self.verdict is None else GATE_CODES[self.verdict]

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return text.headline(self)

    def videos(self, flip: Flip) -> tuple[list[Path], list[Path]]:
        """Return the videos of an episode in A and in B, read from disk.

        Args:
            flip: Which; one of `flipped`.
        """
        seed = _seed_of(self.run_a, flip.job, flip.episode)
        return _videos(self.run_a, flip.job, seed), _videos(self.run_b, flip.job, seed)

    def to_json(self) -> dict[str, Any]:
        """Return what ``arena-ray compare --json`` writes."""
        return {
            "comparable": self.comparable,
            "verdict": self.verdict,
            "headline": self.headline,
            "differences": [dataclasses.asdict(difference) for difference in self.differences],
            "paired": self.paired,
            "jobs": {name: _metrics_json(metrics) for name, metrics in self.jobs.items()},
            "overall": _metrics_json(self.overall),
            "flipped": [dataclasses.asdict(flip) for flip in self.flipped],
            "excluded": {name: dict(counts) for name, counts in self.excluded.items()},
            "notes": [*self.notes],
            "since": dict(self.since),
            "margin": self.margin,
            "confidence": self.confidence,
            "run_a": str(self.run_a),
            "run_b": str(self.run_b),
        }

    def __rich__(self) -> RenderableType:
        return text.render(self)

    def __str__(self) -> str:
        return text.plain(self)

    __repr__ = __str__


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    path: Path
    document: Mapping[str, Any]
    columns: Mapping[str, JobColumns]
    metrics: Mapping[str, tuple[MetricSpec, ...]]
    stopped: Mapping[str, Stopped | None]
    extended: Mapping[str, int]


def compare(
    a: RunResult | str | os.PathLike[str],
    b: RunResult | str | os.PathLike[str],
    *,
    margin: float = 0.05,
    confidence: float = 0.95,
    higher_is_better: Iterable[str] = (),
    lower_is_better: Iterable[str] = (),
) -> Comparison:
    """Compare two runs of the same jobs: is B better than A?

    Episodes are paired by job and seed; where the seeds do not match, the runs are compared unpaired. Success:
    McNemar's exact test with Bonett and Price's interval; unpaired Boschloo's test with Newcombe's. Other metrics: the
    bootstrap. What each is, and where it comes from, stands at `arena_ray.statistics`. Episodes recorded as ``error``
    or ``timeout`` count for no run; they are in `excluded`. Runs that were both extended because a comparison of them
    was undecided are judged on the episodes that were added; they are told in `since`.

    Args:
        a: A run, or its directory; it may have been interrupted.
        b: Another run.
        margin: Differences of rates up to this are none; of other metrics, up to this share of A's mean.
        confidence: Of intervals and verdicts; of several jobs, with which all verdicts on one metric hold together.
        higher_is_better: Further metrics of which more is better; of returns and success it is.
        lower_is_better: Metrics of which less is better, e.g. ``length``.

    Raises:
        ConfigError: If margin or confidence make no sense.
        RunDirError: If one is no run directory, or cannot be read.
    """
    if not 0 <= margin < 1:
        raise ConfigError(f"margin: found {margin!r}; must be 0 or more and below 1, e.g. 0.05 for 5 points")
    if not 0.5 <= confidence < 1:
        raise ConfigError(f"confidence: found {confidence!r}; must be at least 0.5 and below 1, e.g. 0.95")
    lower = frozenset(lower_is_better)
    judge = Judge(
        margin=margin,
        confidence=confidence,
        higher=(HIGHER_IS_BETTER | frozenset(higher_is_better)) - lower,
        lower=lower,
    )
    run_a, run_b = _read(a), _read(b)
    differences = find_differences(run_a.document, run_b.document)
    if any(difference.decisive for difference in differences):
        return _comparison(run_a, run_b, differences, judge)
    return _compared(run_a, run_b, differences, judge)


def _compared(run_a: _Run, run_b: _Run, differences: list[Difference], judge: Judge) -> Comparison:
    since = {name: start for name, start in run_a.extended.items() if run_b.extended.get(name) == start}
    episodes = {
        name: align(*(columns[name].since(since.get(name, 0)) for columns in (run_a.columns, run_b.columns)))
        for name in run_a.columns
    }
    paired = all(job.seeds_match for job in episodes.values())
    own = {name: [m.key for m in run_a.metrics[name] if m in run_b.metrics[name]] for name in episodes}
    by_job, everything = contrasts(episodes, own, paired=paired)
    families = {
        metric: judge.family(metric, {name: found[metric] for name, found in by_job.items() if metric in found})
        for metric in dict.fromkeys(metric for found in by_job.values() for metric in found)
    }
    return _comparison(
        run_a,
        run_b,
        differences,
        judge,
        paired=paired,
        jobs={name: {metric: families[metric][name] for metric in found} for name, found in by_job.items()},
        overall={metric: judge.single(metric, contrast) for metric, contrast in everything.items()},
        flipped=_flips(episodes) if paired else (),
        excluded={name: job.excluded(paired=paired) for name, job in episodes.items()},
        since=since,
    )


def _comparison(run_a: _Run, run_b: _Run, differences: list[Difference], judge: Judge, **found: Any) -> Comparison:
    """Return a comparison; without findings, that of runs that are not comparable."""
    nothing: dict[str, Any] = {"paired": None, "jobs": {}, "overall": {}, "flipped": (), "excluded": {}}
    notes = [f"{name}: {note}" for name, run in (("A", run_a), ("B", run_b)) for note in _notes(run)]
    return Comparison(
        comparable=bool(found),
        differences=tuple(differences),
        notes=tuple(notes),
        margin=judge.margin,
        confidence=judge.confidence,
        run_a=run_a.path,
        run_b=run_b.path,
        **{**nothing, **found},
    )


def _notes(run: _Run) -> list[str]:
    status = run.document.get("status")
    ended = [] if status == "completed" else [f"the run is {status}; what it has recorded so far counts"]
    stopped = [
        f"job {name!r} stopped by its rule after {stop.at} episodes; tests and intervals take that number as given"
        for name, stop in run.stopped.items()
        if stop is not None
    ]
    return [*ended, *stopped, *run.document.get("notes", [])]


def _flips(episodes: Mapping[str, JobEpisodes]) -> tuple[Flip, ...]:
    return tuple(
        Flip(job=name, episode=episode, a=a, b=b) for name, job in episodes.items() for episode, a, b in job.flipped()
    )


def _read(run: RunResult | str | os.PathLike[str]) -> _Run:
    """Read a run into a few numbers per episode.

    Raises:
        RunDirError: If it is no run directory, or cannot be read.
    """
    folder = RunDir.open(run.run_dir if isinstance(run, RunResult) else local_copy(run))
    document = folder.read_run()
    try:
        jobs = [EvalJob.model_validate(job) for job in document["jobs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirError(f"{folder.run_file} does not say what was run: {error}") from error
    tallies = tallies_for(jobs)
    for record in folder.records():
        if record.job in tallies:
            tallies[record.job].add(record)
    columns = {name: tally.columns() for name, tally in tallies.items()}
    stopped = {name: tally.stopped() for name, tally in tallies.items()}
    metrics = {job.name: job.metrics for job in jobs}
    return _Run(folder.path, document, columns, metrics, stopped, folder.extended(UNDECIDED))


def _seed_of(run_dir: Path, job: str, episode: int) -> int | None:
    """Return the seed of an episode."""
    seeds = [record.seed for record in RunDir(run_dir).records() if record.job == job and record.episode == episode]
    return seeds[-1] if seeds else None


def _videos(run_dir: Path, job: str, seed: int | None) -> list[Path]:
    newest = {
        record.episode: record for record in RunDir(run_dir).records() if record.job == job and record.seed == seed
    }
    paths = [video.path for record in newest.values() for video in record.videos if video.bytes]
    return fetch_missing(run_dir, RunDir(run_dir).read_run().get("storage"), paths)


def _metrics_json(metrics: Mapping[str, MetricComparison]) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}
