"""A run's results: tallied while it runs, loaded from its directory afterwards, shown as a table."""

from arena_ray.results.replay_result import ReplayResult as ReplayResult
from arena_ray.results.replay_result import named as named
from arena_ray.results.run_result import JobResult as JobResult
from arena_ray.results.run_result import RunResult as RunResult
from arena_ray.results.tally import JobTally as JobTally
from arena_ray.results.tally import tallies_for as tallies_for

__all__ = ["JobResult", "JobTally", "ReplayResult", "RunResult", "named", "tallies_for"]
