"""Running the episodes that an undecided comparison lacks, in both runs, on the same seeds.

Either the runs lack records that were asked for, or one has been extended and the other not: these are run, and nothing
else. Or the verdict is undecided: both are extended by as many episodes as would probably decide, and judged again, on
the new episodes alone. How many there are was decided after looking at the others, and a test of all together would
then find differences that are not there more often than it says, up to more than twice as often (Proschan and
Hunsberger, Biometrics 51, 1995). What the new ones alone say holds with the stated confidence whatever was seen before,
because given that, their number is fixed (the principle of Bauer and Köhne, Biometrics 50, 1994). Each look, the first
one too, has its own chance to err.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arena_ray.comparison import UNDECIDED, Comparison, compare
from arena_ray.errors import ConfigError, ExtensionError
from arena_ray.narration import RunObserver
from arena_ray.results import RunResult
from arena_ray.resume_runner import Resumption
from arena_ray.run_dir import RunDir
from arena_ray.specs import EvalJob

#: A run is extended by at most so many episodes at a time, unless somebody asks for more.
MOST_EPISODES = 10_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """What running more episodes came to.

    Attributes:
        before: The comparison as it was.
        comparison: As it is now.
        done: What was run, in words; ``None``: nothing was to be run.
        problems: Why a run has not all of its episodes now.
        signal: The signal that ended it early, or ``None``.
    """

    before: Comparison
    comparison: Comparison
    done: str | None = None
    problems: tuple[str, ...] = ()
    signal: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    path: Path
    document: Mapping[str, Any]
    result: RunResult

    @property
    def jobs(self) -> list[EvalJob]:
        return [EvalJob.model_validate(job) for job in self.document["jobs"]]

    @property
    def lacks_records(self) -> bool:
        return any(_lacks_records(self.result, job.name) for job in self.jobs)


def extend(
    a: RunResult | str | os.PathLike[str],
    b: RunResult | str | os.PathLike[str],
    *,
    num_episodes: int | None = None,
    max_episodes: int = MOST_EPISODES,
    observer: Callable[[], RunObserver | None] = lambda: None,
    flags: Mapping[str, Any] | None = None,
    **how: Any,
) -> Extension:
    """Run the episodes that a comparison of two runs lacks, and compare again.

    Args:
        a: A run, or its directory.
        b: Another run.
        num_episodes: So many more in each run, over all jobs; ``None``: as many as would probably decide.
        max_episodes: At most so many more in each run.
        observer: Called for each run that is resumed; returns what watches it.
        flags: The flags of ``arena-ray resume``, e.g. ``{"inline": True}``.
        **how: What `compare` takes.

    Raises:
        ConfigError: If a number makes no sense, or the jobs of a run have changed; nothing has started then.
        ExtensionError: If no more episodes can decide; nothing has started then.
        RunDirError: If a directory is none of a run, or another driver writes there.
        NotEnoughResourcesError: If no node could ever run a worker of some job.
    """
    for name, value in (("num_episodes", num_episodes), ("max_episodes", max_episodes)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: found {value!r}; must be 1 or more")
    before = compare(a, b, **how)
    runs = [_read(path) for path in (before.run_a, before.run_b)]
    _check_pair(before, runs)
    lacking = _fill(runs) or _more(before, runs, num_episodes, max_episodes)
    if lacking is None:
        return Extension(before=before, comparison=before)
    steps, done = lacking
    _check_modules(runs, flags or {})
    problems, signal = _execute(runs, steps, observer, flags or {})
    return Extension(before=before, comparison=compare(a, b, **how), done=done, problems=problems, signal=signal)


def _read(path: Path) -> _Run:
    return _Run(path, RunDir.open(path).read_run(), RunResult.load(path))


def _lacks_records(result: RunResult, name: str) -> bool:
    job = result.jobs[name]
    if job.requested is None:
        return job.status == "incomplete"
    return job.stopped is None and sum(job.counts.values()) < job.requested


def _check_pair(before: Comparison, runs: Sequence[_Run]) -> None:
    """Refuse runs of which more episodes would not say more."""
    if os.path.samefile(runs[0].path, runs[1].path):
        raise ExtensionError(f"both are the run in {runs[0].path}; give two runs")
    decisive = [difference for difference in before.differences if difference.decisive]
    other = next((difference for difference in decisive if difference.key != "num_episodes"), None)
    if other is not None:
        raise ExtensionError(f"the runs are not comparable, and more episodes would not make them so: {other}")
    seeds = next((difference for difference in before.differences if difference.key == "seed"), None)
    if seeds is not None or (before.paired is False and not any(run.lacks_records for run in runs)):
        what = "their episodes are in no pairs" if seeds is None else str(seeds)
        raise ExtensionError(f"the runs are not on the same seeds ({what}); run one of them again on the other's")


#: Overrides of a run and the reason for them: what is to be resumed.
_Step = tuple[list[str], "str | None"]


def _fill(runs: Sequence[_Run]) -> tuple[list[_Step | None], str] | None:
    """Return how each run gets the records that it lacks; ``None`` if neither lacks any."""
    numbers = [{job.name: job.num_episodes for job in run.jobs} for run in runs]
    steps: list[_Step | None] = []
    for run, own, others in zip(runs, numbers, reversed(numbers), strict=True):
        grown = {name: most for name, most in others.items() if (most or 0) > (own[name] or 0)}
        overrides = [f"{name}:num_episodes={most}" for name, most in grown.items()]
        follows = bool(grown) and _was_extended(runs, run, grown, own)
        steps.append((overrides, UNDECIDED if follows else None) if grown or run.lacks_records else None)
    if not any(steps):
        return None
    names = [name for name, step in zip("AB", steps, strict=True) if step is not None]
    return steps, f"ran the episodes that {' and '.join(names)} lacked"


def _was_extended(
    runs: Sequence[_Run], shorter: _Run, grown: Mapping[str, int | None], own: Mapping[str, int | None]
) -> bool:
    """Return whether the longer run is so because a comparison was undecided, and the shorter one did not follow."""
    longer = next(run for run in runs if run is not shorter)
    starts = RunDir(longer.path).extended(UNDECIDED)
    return all(starts.get(name) == own[name] for name in grown)


def _more(
    before: Comparison, runs: Sequence[_Run], num_episodes: int | None, max_episodes: int
) -> tuple[list[_Step | None], str] | None:
    """Return how both runs get more episodes; ``None`` if the comparison has a verdict."""
    if before.verdict != "undecided":
        return None
    jobs = runs[0].jobs
    _check_budgets(runs)
    metric = before.overall[before.metric]
    wanted = num_episodes
    if wanted is None:
        if metric.episodes_needed is None:
            raise ExtensionError("how many episodes would decide cannot be said yet; give a number, e.g. --extend 100")
        wanted = metric.n + metric.episodes_needed  # The new ones alone are to decide.
    bounded = min(wanted, max_episodes)
    if bounded < len(jobs):
        raise ConfigError(f"{bounded} more episodes cannot be shared by {len(jobs)} jobs; give at least {len(jobs)}")
    sizes = {job.name: job.num_episodes or 0 for job in jobs}
    overrides = [f"{name}:num_episodes={sizes[name] + more}" for name, more in _shares(bounded, sizes).items()]
    reason = "would probably decide" if num_episodes is None else "were asked for"
    bound = "" if bounded == wanted else f" ({wanted:,} {reason}, but --max_episodes is {max_episodes:,})"
    steps: list[_Step | None] = [(overrides, UNDECIDED), (overrides, UNDECIDED)]
    return steps, f"ran {bounded:,} more episodes of each policy, to be judged by themselves{bound}"


def _shares(number: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return each job's part of so many episodes: one, and of the others as many as its size says."""
    total, others = sum(sizes.values()), number - len(sizes)
    shares = {name: 1 + others * size // total for name, size in sizes.items()}
    for name in list(sizes)[: number - sum(shares.values())]:
        shares[name] += 1
    return shares


def _check_budgets(runs: Sequence[_Run]) -> None:
    """Refuse jobs that cannot be given more episodes."""
    for label, run in zip("AB", runs, strict=True):
        for job in run.jobs:
            if job.num_episodes is None:
                raise ExtensionError(f"job {job.name!r} has a budget of steps, to which no episodes can be added")
            if job.num_rebuilds > 1:
                raise ExtensionError(f"job {job.name!r}: num_rebuilds splits its episodes, so none can be added")
            if run.result.jobs[job.name].stopped is not None:
                raise ExtensionError(
                    f"job {job.name!r} of {label} has stopped because its rate is known well enough (stop_when); "
                    f"arena-ray resume {run.path} {job.name}:stop_when.half_width=... goes on until it is known better"
                )


def _check_modules(runs: Sequence[_Run], flags: Mapping[str, Any]) -> None:
    """Refuse, before one run is longer than the other, what can no longer be imported on this machine."""
    for run in runs:
        if (flags.get("address") or run.document["settings"].get("address")) is not None:
            continue
        folders = [*run.document.get("python_path", ()), str(Path.cwd()), *sys.path]
        for entry_point in _entry_points(run.jobs):
            module = entry_point.partition(":")[0].split(".")[0]
            if importlib.machinery.PathFinder.find_spec(module, folders) is None:
                raise ExtensionError(f"{entry_point!r}, which {run.path} used, is no more: no module {module!r}")


def _entry_points(jobs: Sequence[EvalJob]) -> Iterator[str]:
    for job in jobs:
        named = (job.env.entry_point, job.env.seed_hook, job.policy.entry_point)
        yield from (entry_point for entry_point in named if entry_point is not None)


def _execute(
    runs: Sequence[_Run],
    steps: Sequence[_Step | None],
    observer: Callable[[], RunObserver | None],
    flags: Mapping[str, Any],
) -> tuple[tuple[str, ...], int | None]:
    """Resume both runs, one after the other; return why one is not complete, and the signal that ended it."""
    with contextlib.ExitStack() as held:
        # Both are opened before anything runs, so that what is wrong with one leaves the other as it is.
        resumptions = [
            held.enter_context(Resumption(run.path, step[0], flags=flags, reason=step[1]))
            for run, step in zip(runs, steps, strict=True)
            if step is not None
        ]
        for resumption in resumptions:
            result = resumption.execute(observer())
            if result.status != "completed":
                errors = [f"{name}: {job.error}" for name, job in result.jobs.items() if job.error is not None]
                return tuple(f"{result.run_dir}: {error}" for error in errors or [result.status]), resumption.signal
    return (), None
