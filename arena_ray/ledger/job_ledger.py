"""One job's part of the ledger."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from arena_ray.dispatch import Chunk
from arena_ray.ledger.facts import Exhausted, JobHistory, Loss
from arena_ray.ledger.failure_policy import FaultRule, back_off_s
from arena_ray.records import EpisodeStatus
from arena_ray.specs import EvalJob, SlotChoice
from arena_ray.stopping import StopRule

JobStatus: TypeAlias = Literal["completed", "failed", "incomplete"]


#: So often an episode may be in flight when a machine is lost before it is charged for it.
FREE_LOSSES = 5


@dataclasses.dataclass(slots=True)
class Counts:
    """Committed records of a job by status."""

    completed: int = 0
    error: int = 0
    timeout: int = 0

    @property
    def total(self) -> int:
        """All records."""
        return self.completed + self.error + self.timeout


@dataclasses.dataclass(slots=True)
class _Running:
    chunk: Chunk
    unrecorded: dict[int, None]
    started: set[int]
    ready: bool = False
    alone: bool = False
    returned: set[int] = dataclasses.field(default_factory=set)
    ended: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    episodes: tuple[int, ...]
    attempt: int
    rebuild: int


class _Episodes:
    """The set of recorded episodes of a job, in one byte each where their number is known."""

    def __init__(self, num_episodes: int | None) -> None:
        self._flags = bytearray(num_episodes or 0)
        self._others: set[int] = set()

    def add(self, episode: int) -> bool:
        """Add an episode; return whether it is new."""
        if episode in self:
            return False
        if episode < len(self._flags):
            self._flags[episode] = 1
        else:
            self._others.add(episode)
        return True

    def __contains__(self, episode: int) -> bool:
        return bool(self._flags[episode]) if episode < len(self._flags) else episode in self._others


class JobLedger:
    """One job's part of the ledger. The driver reads it; only `Ledger` changes it."""

    def __init__(self, job: EvalJob, bounds: list[tuple[int, int]]) -> None:
        self.job = job
        self.shape = job.resources.shape
        self.counts = Counts()
        self.failed: str | None = None
        self._mean_episode_s = self._longest_episode_s = 0.0
        self._num_durations = 0
        self._mean_start_s = 0.0
        self._num_starts = 0
        self.running: dict[int, _Running] = {}
        self.rule = None if job.stop_when is None else StopRule(job.stop_when)
        self._recorded = _Episodes(job.num_episodes)
        self._bounds = bounds
        self._rebuild = 0
        self._cursor = 0
        self._fresh = job.num_episodes or 0
        self._pieces: deque[_Piece] = deque()
        self._in_pieces = 0
        self._next_attempts: dict[int, int] = {}
        self._charges: dict[int, int] = {}
        self._next_index = 0
        self._failed_starts: dict[int, int] = {}
        self.held = False
        self._losses_in_a_row = 0
        self._free_losses: dict[int, int] = {}
        self._was_ready = False
        self._probe = True
        self._steps_done = False
        self._steps_attempts = 0
        self._steps_charges = 0

    @property
    def is_sure(self) -> bool:
        """Whether the job has stopped because it is sure: nothing more is handed out or tried again."""
        return self.rule is not None and self.rule.at is not None

    @property
    def done(self) -> bool:
        """Whether every requested episode (or step) has been run, or the job is sure."""
        if self.job.num_episodes is None:
            return self._steps_done
        return self.is_sure or self.counts.total >= self.job.num_episodes

    @property
    def waiting(self) -> int:
        """Episodes that no worker has; 1 for a waiting `num_steps` budget, 0 once the job is sure."""
        if self.job.num_episodes is None:
            return 0 if self._steps_done or self.running else 1
        if self.is_sure:
            return 0
        return self._fresh + self._in_pieces

    @property
    def takes(self) -> bool:
        """Whether a chunk could be taken now."""
        if self.failed or self.held or not self.waiting:
            return False
        return not (self.job.needs_tuning and self.running)

    @property
    def work_left_s(self) -> float | None:
        """What one worker would need for all episodes without a record, seconds; ``None``: nothing was measured yet."""
        if not self._num_durations or self.job.num_episodes is None:
            return None
        return (self.job.num_episodes - self.counts.total) * self._mean_episode_s / self.job.num_slots

    @property
    def steps_left(self) -> float:
        """Environment steps asked for by the episodes that wait, as far as the job tells, for each slot of a worker."""
        share = 1.0 if self.job.num_episodes is None else self.waiting / self.job.num_episodes
        return share * self.job.requested_steps / self.job.num_slots

    @property
    def start_s(self) -> float:
        """How long starting a worker has taken on average, seconds; 0 as long as none has started."""
        return self._mean_start_s

    @property
    def episode_s(self) -> tuple[float, float] | None:
        """Mean and largest wall time of the completed episodes, seconds; ``None`` before the first."""
        return (self._mean_episode_s, self._longest_episode_s) if self._num_durations else None

    @property
    def status(self) -> JobStatus:
        """``completed``: every requested episode has a completed record; ``failed``: some cannot; ``incomplete``.

        Once the job is sure, only the episodes that made it so are asked for.
        """
        if self.rule is not None and self.is_sure:
            return "failed" if self.rule.errors else "completed"
        if self.failed or self.counts.error or self.counts.timeout:
            return "failed"
        return "completed" if self.done else "incomplete"

    @property
    def failure(self) -> str | None:
        """Why the job failed, if it did: what became of episodes that do not count is no reason."""
        return None if self.is_sure else self.failed

    def mark_recorded(self, episode: int, status: EpisodeStatus, success: bool | None = None) -> bool:
        """Count a record; return False, changing nothing, if the episode has one already."""
        if not self._recorded.add(episode):
            return False
        if self.rule is not None:
            self.rule.add(episode, status, success)
        setattr(self.counts, status, getattr(self.counts, status) + 1)
        return True

    def take_over(self, history: JobHistory) -> None:
        """Count what stood in the run directory before this driver began."""
        if history.slots is not None:
            self.tuned(history.slots)
        for episode, status in history.recorded:
            if self.mark_recorded(episode, status, history.outcomes.get(episode)) and self.job.num_episodes is not None:
                self._fresh -= 1
                self._probe = False
        self._next_index = history.next_chunk
        self._steps_done = history.steps_done
        if self.job.num_episodes is None:
            self._steps_attempts = max(history.handed_out.values(), default=0)
            return
        self._next_attempts = {episode: tried + 1 for episode, tried in history.handed_out.items()}

    def observe_duration(self, duration_s: float) -> None:
        """Take in the wall time of a completed episode."""
        self._num_durations += 1
        self._mean_episode_s += (duration_s - self._mean_episode_s) / self._num_durations
        self._longest_episode_s = max(self._longest_episode_s, duration_s)

    def observe_start(self, seconds: float) -> None:
        """Take in how long a new worker took to be ready."""
        self._num_starts += 1
        self._mean_start_s += (seconds - self._mean_start_s) / self._num_starts

    def tuned(self, choice: SlotChoice) -> None:
        """Take over the slots that the job's first worker chose; until then no other worker runs the job."""
        self.job = self.job.with_slots(choice) if self.job.needs_tuning else self.job

    def take(self, length: Callable[[int], int], stop_on_error: bool, most_slots: int = 1) -> Chunk | None:
        """Return the next chunk: suspects and returned episodes first, then fresh ones."""
        if not self.takes:
            return None
        if self.job.num_episodes is None:
            self._steps_attempts += 1
            piece = _Piece((), self._steps_attempts, 0)
        else:
            piece = self._returned_piece() or self._cut(max(1, length(self._worth_starting)))
        chunk = Chunk(
            job=self.job,
            index=self._next_index,
            episodes=piece.episodes,
            attempt=piece.attempt,
            num_steps=self.job.num_steps,
            rebuild=piece.rebuild,
            probe_seeding=self._probe,
            stop_on_error=stop_on_error,
            most_slots=most_slots,
        )
        self._next_index += 1
        self._probe = False
        self.running[chunk.index] = _Running(chunk, dict.fromkeys(piece.episodes), set())
        return chunk

    @property
    def _worth_starting(self) -> int:
        """Fresh episodes that a chunk may be taken from.

        Where the job stops when it is sure, half of those that it probably still needs: while they run, more becomes
        known of the rest. When it should have stopped already, one for each slot of a worker.
        """
        if self.rule is None:
            return self._fresh
        needed = sum(episode not in self._recorded for episode in range(self._cursor, self.rule.likely_end()))
        return min(self._fresh, max(math.ceil(needed / 2), self.job.num_slots))

    def _returned_piece(self) -> _Piece | None:
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._in_pieces -= len(piece.episodes)
        return piece

    def _cut(self, length: int) -> _Piece:
        """Return the next fresh episodes, all of one rebuild and one attempt."""
        episodes: list[int] = []
        rebuild, attempt = self._rebuild, 1
        while not episodes:
            rebuild, (_, stop) = self._rebuild, self._bounds[self._rebuild]
            while len(episodes) < length and self._cursor < stop:
                if self._cursor not in self._recorded:
                    its_attempt = self._next_attempts.get(self._cursor, 1)
                    if episodes and its_attempt != attempt:
                        break
                    attempt = its_attempt
                    episodes.append(self._cursor)
                self._cursor += 1
            self._rebuild += self._cursor >= stop
        self._fresh -= len(episodes)
        return _Piece(tuple(episodes), attempt, rebuild)

    def ready(self, index: int) -> None:
        """Note that the worker of a chunk has built its environment and policy."""
        self.running[index].ready = True
        self._losses_in_a_row = 0
        self._was_ready = True

    def started(self, index: int, episode: int) -> None:
        """Note that an episode began."""
        self.running[index].started.add(episode)

    def returned(self, index: int, episodes: Iterable[int]) -> None:
        """Note that episodes which had begun wait again; from now on the chunk runs them one at a time."""
        self.running[index].started -= set(episodes)
        self.running[index].returned |= set(episodes)
        self.running[index].alone = True

    def ended(self, index: int, episodes: Iterable[int]) -> None:
        """Note that episodes have ended though their records are not there: what happens now is not their fault."""
        self.running[index].started -= set(episodes)
        self.running[index].ended |= set(episodes)

    def recorded(self, index: int, episode: int) -> None:
        """Note that a running chunk has delivered an episode."""
        running = self.running.get(index)
        if running is not None:
            running.unrecorded.pop(episode, None)
            running.started.discard(episode)

    def finished(self, index: int, *, cut_short: bool) -> None:
        """Take a chunk off; what it did not deliver waits again, uncharged."""
        running = self.running.pop(index)
        if self.job.num_episodes is None:
            self._steps_done = not cut_short and not self.failed
        together = tuple(episode for episode in running.unrecorded if episode not in running.returned)
        self._return(running, together, running.chunk.attempt)
        for episode in running.returned & running.unrecorded.keys():
            self._return(running, (episode,), running.chunk.attempt)  # Else they would break each other for ever.

    def lost(self, index: int, cause: str, rule: FaultRule, max_attempts: int, reason: str) -> Loss:
        """Attribute the loss of a worker and decide what is tried again.

        Args:
            index: The chunk.
            cause: A key of `FAULTS`.
            rule: What that means.
            max_attempts: Tries of an episode, or of starting a worker, before it is given up.
            reason: What happened, for people.
        """
        running = self.running.pop(index)
        if self.is_sure:
            return Loss()  # What was in flight does not count, so nobody waits for it.
        self._probe = self._probe or running.chunk.probe_seeding
        self._losses_in_a_row += not self.held  # Workers that are lost at one moment are one incident.
        at_start = not running.ready and (rule.charged or self._is_one_too_many(min(running.unrecorded, default=0)))
        if at_start:
            cause = cause if cause == "start_timeout" else "failed_start"
            loss = self._lost_at_start(running, max_attempts, reason)
        elif self.job.num_episodes is None:
            loss = self._lost_steps(rule, max_attempts, reason)
        else:
            loss = self._lost_episodes(running, rule, max_attempts)
        pointless = self.failed or self.held or not self.waiting
        wait_s = 0.0 if pointless else back_off_s(cause, self._losses_in_a_row)
        self.held = self.held or wait_s > 0
        return dataclasses.replace(loss, job_failed=self.failed, back_off_s=wait_s, at_start=at_start)

    def _lost_at_start(self, running: _Running, max_attempts: int, reason: str) -> Loss:
        first = min(running.chunk.episodes, default=0)
        self._return(running, tuple(running.unrecorded), running.chunk.attempt)
        if self.job.needs_tuning:  # What ends a worker in its trial ends it in an episode, too, and is blamed there.
            slots = self.job.untuned_slots
            self.tuned(slots)
            return Loss(requeued=tuple(running.unrecorded), slots=slots)
        tries = self._failed_starts[first] = self._failed_starts.get(first, 0) + 1
        # Where workers of this job have started, it may be the place, which is quarantined first.
        if tries >= max_attempts * (2 if self._was_ready else 1) and self.failed is None:
            self.failed = f"the worker did not start in {tries} attempts: {reason}"
        return Loss(requeued=tuple(running.unrecorded))

    def _lost_steps(self, rule: FaultRule, max_attempts: int, reason: str) -> Loss:
        self._steps_charges += rule.charged
        if self._steps_charges >= max_attempts:
            self.failed = f"the worker was lost in {self._steps_charges} attempts: {reason}"
        return Loss()

    def _lost_episodes(self, running: _Running, rule: FaultRule, max_attempts: int) -> Loss:
        in_flight = self._in_flight(running)
        waited = tuple(episode for episode in running.unrecorded if episode not in in_flight)
        attempt = running.chunk.attempt
        # A worker that is only out of reach may go on: what it writes and what the next one writes must differ.
        self._return(running, waited, attempt if rule.charged else attempt + 1)
        charged = in_flight if rule.charged else {episode for episode in in_flight if self._is_one_too_many(episode)}
        free = tuple(sorted(in_flight - charged))
        self._return(running, free, attempt + 1)
        suspects, exhausted = [*free], []
        for episode in sorted(charged, reverse=True):
            self._charges[episode] = self._charges.get(episode, 0) + 1
            if self._charges[episode] >= max_attempts:
                exhausted.append(Exhausted(episode=episode, attempt=attempt, status=rule.status or "error"))
            else:
                suspects.append(episode)
                self._return(running, (episode,), attempt + 1)
        return Loss(suspects=tuple(sorted(suspects)), requeued=waited, exhausted=tuple(exhausted[::-1]))

    def _is_one_too_many(self, episode: int) -> bool:
        """Count a loss that charges nothing; an episode that is there each time may be what brings machines down."""
        self._free_losses[episode] = self._free_losses.get(episode, 0) + 1
        return self._free_losses[episode] > FREE_LOSSES

    def _in_flight(self, running: _Running) -> set[int]:
        """Return the episodes that were begun; at least one per slot, because slots pull in order.

        What a worker yields in its last microseconds may be lost with it, so the facts told are a lower bound.
        """
        in_flight = running.started & running.unrecorded.keys()
        if running.alone and in_flight:
            return in_flight
        unended = (episode for episode in running.unrecorded if episode not in running.ended)
        return in_flight | set(itertools.islice(unended, self.job.num_slots))

    def _return(self, running: _Running, episodes: tuple[int, ...], attempt: int) -> None:
        if episodes:
            self._pieces.appendleft(_Piece(episodes, attempt, running.chunk.rebuild))
            self._in_pieces += len(episodes)
