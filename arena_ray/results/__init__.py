"""A run's results: tallied while it runs, loaded from its directory afterwards, shown as a table."""

from arena_ray.results.aggregate import GroupResult as GroupResult
from arena_ray.results.replay_result import ReplayResult as ReplayResult
from arena_ray.results.replay_result import named as named
from arena_ray.results.run_result import JobResult as JobResult
from arena_ray.results.run_result import RunResult as RunResult
from arena_ray.results.run_result import read_verdicts as read_verdicts
from arena_ray.results.tally import NO_SEED as NO_SEED
from arena_ray.results.tally import JobColumns as JobColumns
from arena_ray.results.tally import JobTally as JobTally
from arena_ray.results.tally import tallies_for as tallies_for
from arena_ray.results.usage import JobUsage as JobUsage

__all__ = [
    "NO_SEED",
    "GroupResult",
    "JobColumns",
    "JobResult",
    "JobTally",
    "JobUsage",
    "ReplayResult",
    "RunResult",
    "named",
    "read_verdicts",
    "tallies_for",
]
