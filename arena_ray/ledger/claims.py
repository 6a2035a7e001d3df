"""When a warm worker is not to go on with its own job: another has a better claim to its room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from arena_ray.ledger.job_ledger import JobLedger
from arena_ray.ledger.turns import ends_in_s
from arena_ray.specs import EvalJob, Shape

#: A job has a claim to a worker of another one of its shape if it ends later by this factor, and by a worker's start.
MUCH_LATER = 1.5


class Claims:
    """Keeps in mind which jobs have no worker, how much each shape has, and which job would end last.

    To ask for each chunk that ends costs no more with many jobs: which job ends last is looked up again only after as
    many ends of chunks as there are jobs.

    Args:
        jobs: All jobs by name.
        num_workers: Returns how many workers of a job could run at a time if nothing else did.
    """

    def __init__(self, jobs: Mapping[str, JobLedger], num_workers: Callable[[EvalJob], int]) -> None:
        self._jobs, self._num_workers = jobs, num_workers
        self._unserved = dict.fromkeys(jobs)
        self._running: Counter[Shape] = Counter()
        self._examples: dict[Shape, EvalJob] = {job.shape: job.job for job in jobs.values()}
        self._last: dict[Shape, JobLedger] = {}
        self._ended = 0

    def given(self, job: JobLedger) -> None:
        """Be told that a job has been given a worker."""
        self._running[job.shape] += 1
        self._unserved.pop(job.job.name, None)

    def ended(self, job: JobLedger) -> None:
        """Be told that a chunk of a job has ended, whatever way."""
        self._running[job.shape] -= 1
        self._ended += 1
        self.changed(job)

    def changed(self, job: JobLedger) -> None:
        """Be told that something of a job may wait again."""
        if job.waiting and not job.running:
            self._unserved[job.job.name] = None

    def against(self, holder: JobLedger) -> Iterator[JobLedger]:
        """Yield jobs that a worker, which has just ended a chunk, is to give way to if that makes room for them.

        That is a job without any worker; the job of its shape that ends much later; one of another shape, if then, too,
        that shape would not have more than its share. A job never gives its only worker: two would take it in turns.

        Args:
            holder: The job whose worker it is, the chunk that has ended not counted.
        """
        if not holder.running:
            return
        jobs = (self._jobs[name] for name in self._unserved)
        yield from (job for job in jobs if job.takes and not job.running and job is not holder)
        self._look()
        for shape, job in self._last.items():
            if job is holder or not job.takes:
                continue
            if (shape != holder.shape and self._has_less(shape, holder.shape)) or (
                shape == holder.shape and job.running and _ends_much_later(job, holder)
            ):
                yield job

    def _has_less(self, one: Shape, other: Shape) -> bool:
        return self._share(one, 1) <= self._share(other)

    def _share(self, shape: Shape, more: int = 0) -> float:
        return (self._running[shape] + more) / self._num_workers(self._examples[shape])

    def _look(self) -> None:
        """Find the job of each shape that ends last."""
        if self._last and self._ended < len(self._jobs):
            return
        self._ended, self._last = 0, {}
        latest: dict[Shape, float] = {}
        for job in self._jobs.values():
            if job.takes and job.work_left_s is not None:
                ends_s = ends_in_s(job, max(1, len(job.running)))
                if ends_s > latest.get(job.shape, 0.0):
                    latest[job.shape], self._last[job.shape] = ends_s, job


def _ends_much_later(job: JobLedger, holder: JobLedger) -> bool:
    if job.work_left_s is None or holder.work_left_s is None:
        return False
    own_s = ends_in_s(holder, len(holder.running))
    return ends_in_s(job, len(job.running)) > MUCH_LATER * own_s + job.start_s
