"""Which job gets the next new worker.

Between jobs whose workers have different shapes: the shape with the smallest share of what there is (dominant resource
fairness, Ghodsi et al., NSDI 2011), so that jobs on CPUs do not wait behind jobs on GPUs, nor these behind them.

Among jobs of one shape: first each that has no worker, those of which nothing is known yet before the longest; then the
one that would take longest with the workers that it has. So few workers are built for more than one job, the longest
jobs begin first, and what is long is spread over many workers at the end.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from arena_ray.ledger.job_ledger import JobLedger
from arena_ray.specs import EvalJob, Shape

#: The smallest comes first: has a worker, is known, minus what is left for each worker, place in the job file.
Rank: TypeAlias = tuple[bool, bool, float, int]

#: An episode may be so many times as long as the mean, before as long a one has been seen.
LONGEST_TO_MEAN = 4.0


class Turns:
    """One round of handing out: new workers, one after the other, as long as there is room.

    Args:
        jobs: All jobs of the run, in the order of the job file.
        num_workers: Returns how many workers of a job could run at a time if nothing else did.
        all_asked_for: Whether somebody said how many workers there are to be: then none is spared.
    """

    def __init__(
        self, jobs: Iterable[JobLedger], num_workers: Callable[[EvalJob], int], all_asked_for: bool = False
    ) -> None:
        everything = list(jobs)
        self._all_asked_for = all_asked_for
        self._num_workers = num_workers
        self._running: dict[Shape, float] = defaultdict(float)
        self._heaps: dict[Shape, list[tuple[Rank, JobLedger]]] = defaultdict(list)
        waiting = [(index, job) for index, job in enumerate(everything) if job.takes]
        self._one_at_a_time = all(num_workers(job.job) == 1 for _, job in waiting)
        self._step_s = _seconds_per_step(everything)
        for job in everything:
            self._running[job.shape] += len(job.running) / num_workers(job.job)
        for index, job in waiting:
            self._heaps[job.shape].append((self._rank(job, index), job))
        for heap in self._heaps.values():
            heapq.heapify(heap)

    def __iter__(self) -> Iterator[JobLedger]:
        """Yield the job whose turn it is; one that took nothing in its turn has no other, nor has its shape."""
        while self._heaps:
            shape = min(self._heaps, key=lambda shape: self._running[shape])
            rank, job = heapq.heappop(self._heaps[shape])
            num_running = len(job.running)
            if self._all_asked_for or is_worth_a_worker(job):
                yield job
                if len(job.running) == num_running:
                    del self._heaps[shape]
                    continue
                self._running[shape] += 1 / self._num_workers(job.job)
                if job.takes:
                    heapq.heappush(self._heaps[shape], (self._rank(job, rank[-1]), job))
            if not self._heaps[shape]:
                del self._heaps[shape]

    def _rank(self, job: JobLedger, index: int) -> Rank:
        if self._one_at_a_time:
            return (False, False, 0.0, index)  # Nothing is won by another order.
        work_s = job.work_left_s
        is_known, num_running = work_s is not None, len(job.running)
        left_s = ends_in_s(job, num_running + 1) if is_known else job.steps_left * self._step_s / (num_running + 1)
        return (num_running > 0, is_known and not num_running, -left_s, index)


def is_worth_a_worker(job: JobLedger) -> bool:
    """Return whether a further worker would begin before those that a job has are through with it."""
    if not job.running or job.episode_s is None:
        return True
    return job.waiting * job.episode_s[0] / job.job.num_slots / len(job.running) > job.start_s


def ends_in_s(job: JobLedger, num_workers: int) -> float:
    """Return how long a job, of which something is known, takes with so many workers, seconds.

    The last episode to begin may be as long as any: so what has long episodes is to begin its last one earlier. Of the
    first episodes only the short ones have ended, so the longest is taken for a multiple of the mean at least.
    """
    assert job.work_left_s is not None
    assert job.episode_s is not None
    mean_s, longest_s = job.episode_s
    return job.work_left_s / num_workers + max(longest_s, LONGEST_TO_MEAN * mean_s)


def _seconds_per_step(jobs: Iterable[JobLedger]) -> float:
    """Return how long a requested step takes, from the jobs of which something is known."""
    known = [(work_s, job.steps_left) for job in jobs if (work_s := job.work_left_s) is not None]
    steps = sum(steps for _, steps in known)
    return sum(work_s for work_s, _ in known) / steps if steps else 1.0
