"""What became of a run's episodes before this driver began, read from ``episodes.jsonl`` and ``events.jsonl``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from arena_ray.errors import RunDirError
from arena_ray.index_ranges import parse_ranges
from arena_ray.ledger import History, JobHistory
from arena_ray.records import EpisodeRecord, EpisodeStatus
from arena_ray.results import JobTally, tallies_for
from arena_ray.run_dir import RunDir, read_records
from arena_ray.specs import EvalJob, SlotChoice
from arena_ray.stopping import Stopped, StopRule

#: Events that say that the running chunk of a job will not reach its end by itself.
_BROKEN = frozenset({"build_failed", "worker_failed"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunHistory:
    """What became of a run's episodes.

    Attributes:
        ledger: For `Run`.
        tallies: What the records come to, by job.
        unmerged: Records that a rank of `torchrun` left in a file of its own; they count as recorded.
        partial_videos: Paths of partial videos that belong to a record.
        counts: What to show of each job before anything is run: episodes that are ``done``, of these ``failed``, and
            ``judged`` (the environment said whether it succeeded) and ``successes``.
        left: Episodes that are to be run; ``None`` if a `num_steps` budget is to be run, whose number nobody knows.
        failed: Episodes that count whose newest record is ``error`` or ``timeout``.
        stopped: Jobs that have stopped because they are sure, and where, though no event says so.
    """

    ledger: History
    tallies: Mapping[str, JobTally]
    unmerged: Sequence[EpisodeRecord]
    partial_videos: frozenset[str]
    counts: Mapping[str, Mapping[str, int]]
    left: int | None
    failed: int
    stopped: Mapping[str, Stopped]


def read_history(
    run_dir: RunDir, jobs: Sequence[EvalJob], *, retry_failed: bool = False, was_completed: bool = False
) -> RunHistory:
    """Read what became of a run's episodes.

    Args:
        run_dir: The run directory.
        jobs: Its jobs, which may have grown since.
        retry_failed: Whether episodes whose newest record is ``error`` or ``timeout`` are to be run again.
        was_completed: Whether ``run.json`` says so: for budgets of steps whose events do not tell.

    Raises:
        RunDirError: If a line cannot be read, or is of an episode that no job has.
    """
    tallies = tallies_for(jobs)
    pasts = {job.name: _JobPast(job, was_completed) for job in jobs}
    partial_videos: set[str] = set()
    for record in run_dir.records():
        _past_of(pasts, record, run_dir).add(record)
        tallies[record.job].add(record)
        partial_videos.update(video.path for video in record.videos if video.partial)
    counts = {name: past.counts(retry_failed=retry_failed) for name, past in pasts.items()}
    unmerged = list(_read_unmerged(run_dir, pasts))
    partial_videos.update(video.path for record in unmerged for video in record.videos if video.partial)
    failed = sum(past.num_failed for past in pasts.values())
    for past in pasts.values():
        past.begin_events(retry_failed=retry_failed, all_handed_out=bool(run_dir.rank_files()))
    _read_events(run_dir, pasts, tallies)
    budgets_left = any(past.job.num_episodes is None and not past.steps_done for past in pasts.values())
    return RunHistory(
        ledger={name: past.for_ledger() for name, past in pasts.items()},
        tallies=tallies,
        unmerged=unmerged,
        partial_videos=frozenset(partial_videos),
        counts=counts,
        left=None if budgets_left else sum(past.left for past in pasts.values()),
        failed=failed,
        stopped={name: stopped for name, past in pasts.items() if (stopped := past.untold_stop()) is not None},
    )


def _read_unmerged(run_dir: RunDir, pasts: Mapping[str, _JobPast]) -> Iterator[EpisodeRecord]:
    """Add and yield the records of ranks that ``episodes.jsonl`` has not."""
    for file in run_dir.rank_files():
        for record in read_records(file):
            past = _past_of(pasts, record, run_dir)
            if record.episode not in past.newest:
                past.add(record)
                yield record


def _past_of(pasts: Mapping[str, _JobPast], record: EpisodeRecord, run_dir: RunDir) -> _JobPast:
    past = pasts.get(record.job)
    most = None if past is None else past.job.num_episodes
    if past is None or record.episode < 0 or (most is not None and record.episode >= most):
        raise RunDirError(
            f"{run_dir.episodes_file} has a record of episode {record.episode} of job {record.job!r}, which is none of "
            "the run; take that line out, or put run.json back as it was"
        )
    return past


def _read_events(run_dir: RunDir, pasts: Mapping[str, _JobPast], tallies: Mapping[str, JobTally]) -> None:
    for number, line in enumerate(run_dir.events(), start=1):
        try:
            past = pasts.get(line.get("job", ""))
            if past is not None and line["kind"] == "stopped_early":
                past.told_stop = int(line["at"])
            elif past is not None and "chunk" in line:
                past.happened(line)
                if "usage" in line:
                    tallies[past.job.name].usage.add(line["usage"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunDirError(f"{run_dir.events_file}, line {number}, is not an event: {error!r}") from error


class _JobPast:
    """What became of one job's episodes: first its records are added, then its events."""

    def __init__(self, job: EvalJob, was_completed: bool) -> None:
        self.job = job
        self.newest: dict[int, EpisodeStatus] = {}
        self.failed: dict[int, int] = {}  # with the attempt that it was
        self.told_stop: int | None = None
        self._outcomes: dict[int, bool | None] = {}
        self._was_completed = was_completed
        self._budget_used = False
        self._retried = False
        self._handed_out: dict[int, int] = {}
        self._all_handed_out = False
        self._last_attempt = 0
        self._next_chunk = 0
        self._broken = False
        self._slots: SlotChoice | None = None
        self._judged = self._successes = 0

    def add(self, record: EpisodeRecord) -> None:
        """Count a record; the newest of an episode comes last."""
        self.newest[record.episode] = record.status
        if self.job.stop_when is not None:
            self._outcomes[record.episode] = record.success
        self.failed.pop(record.episode, None)
        if record.status != "completed":
            self.failed[record.episode] = record.attempt
        elif record.success is not None:
            self._judged += 1
            self._successes += record.success
        self._saw_chunk(record.chunk, record.attempt)

    def _saw_chunk(self, index: int | None, attempt: int) -> None:
        self._last_attempt = max(self._last_attempt, attempt)
        if index is not None:
            self._next_chunk = max(self._next_chunk, index + 1)

    def begin_events(self, *, retry_failed: bool, all_handed_out: bool) -> None:
        """Be told that all records are there.

        Args:
            retry_failed: Whether failed episodes are to be run again.
            all_handed_out: Whether all episodes had been handed out, though no event says so.
        """
        self._all_handed_out = all_handed_out
        self._retried = retry_failed and bool(self.failed)
        if self._retried:
            self._handed_out.update(self.failed)
            for episode in self.failed:
                del self.newest[episode]

    def happened(self, line: Mapping[str, Any]) -> None:
        """Take in an event of one of the job's chunks."""
        kind = line["kind"]
        if kind == "chunk_started":
            self._chunk_started(line)
        elif kind == "tuned":
            self._slots = SlotChoice(**{field.name: line[field.name] for field in dataclasses.fields(SlotChoice)})
        elif kind == "warning":
            self._broken = self._broken or line.get("topic") in _BROKEN
        elif kind == "chunk_finished":
            cut_short = line.get("cut_short", not self._was_completed)
            self._budget_used = not cut_short and not self._broken

    def _chunk_started(self, line: Mapping[str, Any]) -> None:
        attempt = int(line["attempt"])
        self._saw_chunk(int(line["chunk"]), attempt)
        self._budget_used = self._broken = False
        if "indices" not in line:
            self._all_handed_out = True  # Written by a version that did not say which.
            return
        for episode in parse_ranges(line["indices"]):
            if episode not in self.newest and episode < (self.job.num_episodes or 0):
                self._handed_out[episode] = max(attempt, self._handed_out.get(episode, 0))

    def counts(self, *, retry_failed: bool) -> dict[str, int]:
        """Return what to show before anything is run; see `RunHistory`."""
        again = len(self.failed) if retry_failed else 0
        return {
            "done": len(self.newest) - again,
            "failed": len(self.failed) - again,
            "judged": self._judged,
            "successes": self._successes,
        }

    @property
    def steps_done(self) -> bool:
        """Whether a budget of steps was used up, and nothing of it is to be run again."""
        return self._budget_used and not self._retried

    @property
    def left(self) -> int:
        """Episodes that are to be run, of a budget of episodes; at most, if the job stops when it is sure."""
        if self.job.num_episodes is None or self.stopped() is not None:
            return 0
        return self.job.num_episodes - len(self.newest)

    def stopped(self) -> Stopped | None:
        """Return where the job has stopped because it is sure, by the episodes that are not to be run again."""
        if self.job.stop_when is None:
            return None
        rule = StopRule(self.job.stop_when)
        for episode, status in self.newest.items():
            rule.add(episode, status, self._outcomes[episode])
        return rule.stopped()

    def untold_stop(self) -> Stopped | None:
        """Return where the job has stopped, if no event says so."""
        stopped = self.stopped()
        return None if stopped is None or stopped.at == self.told_stop else stopped

    @property
    def num_failed(self) -> int:
        """Episodes that count whose newest record is ``error`` or ``timeout``."""
        stopped = self.stopped()
        return sum(stopped is None or episode < stopped.at for episode in self.failed)

    def for_ledger(self) -> JobHistory:
        """Return all this in the words of the ledger."""
        return JobHistory(
            recorded=self.newest.items(),
            handed_out=self._attempts(),
            next_chunk=self._next_chunk,
            steps_done=self.steps_done,
            slots=self._slots,
            outcomes=self._outcomes,
        )

    def _attempts(self) -> Mapping[int, int]:
        if self.job.num_episodes is None:
            return {0: self._last_attempt} if self._last_attempt else {}
        if not self._all_handed_out:
            return self._handed_out
        missing: Iterable[int] = (e for e in range(self.job.num_episodes) if e not in self.newest)
        return dict.fromkeys(missing, max(self._last_attempt, 1))
