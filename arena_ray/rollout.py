"""Rolls episodes out: slots pull tickets, the policy answers, outcomes become records.

An episode that environment or policy breaks is recorded as ``error``. When a call that serves several slots raises,
the episodes in flight are run again, each alone, so that only the one that breaks by itself is blamed: what an episode
comes to must not depend on which others ran beside it.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from arena_ray.chunking import episode_seed
from arena_ray.envs.base import Outcome, Slots, Ticket, describe_error
from arena_ray.policies.base import Policy
from arena_ray.records import (
    EpisodeRecord,
    EpisodesReturned,
    EpisodeStarted,
    Event,
    Notice,
    Progress,
    VideoFile,
    WorkerInfo,
)
from arena_ray.run_dir import utc_text
from arena_ray.specs import Chunk

#: Events are yielded in batches: behind Ray a batch costs about 0.2 ms.
Events: TypeAlias = tuple[Event, ...]

PROGRESS_PERIOD_S = 1.0


class Rollout:
    """Runs the episodes of one chunk.

    Args:
        chunk: What to run.
        slots: Where to run it; `slots` afterwards is what to go on with, because slots that broke are replaced.
        reopen: Builds new slots.
        policy: Answers observations.
        worker: Who runs this.
        run_dir: Root of the paths in records.
        allowance: Asked before episodes start: how many may. 0 lets those in flight finish and starts no other.
    """

    def __init__(
        self,
        chunk: Chunk,
        slots: Slots,
        reopen: Callable[[], Slots],
        policy: Policy,
        worker: WorkerInfo,
        run_dir: Path,
        allowance: Callable[[], float],
    ) -> None:
        self.slots = slots
        self._chunk, self._reopen, self._policy = chunk, reopen, policy
        self._worker, self._run_dir = worker, run_dir
        self._allowance = allowance
        self._queue = _TicketQueue(chunk, slots)
        self._in_flight: dict[int, Ticket] = {}
        self._resting: set[int] = set(range(slots.num_slots))
        self._returned: list[int] = []
        self._stopping = False
        self._steps = 0
        self._progress_at = time.monotonic() + PROGRESS_PERIOD_S

    def run(self) -> Iterator[Events]:
        """Yield what happens until the chunk is done."""
        if self._chunk.probe_seeding and not self.slots.probe_seeding(episode_seed(self._chunk.job.seed, 0)):
            yield (_seeding_notice(self._chunk),)
        self.slots.begin_chunk(self._chunk.index, self._queue.quotas())
        ended: dict[int, Outcome] = {}
        while True:
            records = [self._record(slot, outcome) for slot, outcome in sorted(ended.items())]
            self._stopping = self._stopping or (self._chunk.stop_on_error and any(record.error for record in records))
            tickets = self._pull()
            if records or tickets or self._returned or time.monotonic() >= self._progress_at:
                yield (*records, *self._returns(), *_starts(tickets), self._progress())
            if not self._in_flight and not tickets:
                break
            ended = self._advance(tickets)
        clips = self.slots.end_chunk()
        if clips:
            yield tuple(Notice(topic="chunk_video", message=self._relative(clip).path) for clip in clips)

    def _pull(self) -> dict[int, Ticket]:
        """Return the tickets that resting slots take now."""
        if self._stopping or not self._resting or self._queue.empty or self._budget_spent():
            return {}
        allowed = self._allowance()
        if allowed <= 0:
            self._stopping = True
            return {}
        resting = sorted(self._resting)
        return self._queue.pull(resting[: int(min(allowed, len(resting)))], busy=bool(self._in_flight))

    def _advance(self, tickets: dict[int, Ticket]) -> dict[int, Outcome]:
        """Begin these tickets and step once; return the outcomes of the episodes that ended."""
        self._in_flight.update(tickets)
        self._resting -= tickets.keys()
        try:
            if tickets:
                self._reset_policy(tickets)
        except Exception as error:
            return self._policy_broke(error)
        try:
            ended = self.slots.begin(tickets)
        except Exception as error:
            return self._slots_broke(error)
        if not ended:
            ended = self._step()
        self._rest(ended)
        if self._budget_spent():
            self._give_up(self._in_flight)
        return ended

    def _reset_policy(self, tickets: dict[int, Ticket]) -> None:
        slots = sorted(tickets)
        self._policy.reset(np.array(slots, dtype=np.int64), [tickets[slot].seed for slot in slots])

    def _step(self) -> dict[int, Outcome]:
        live = self._within_budget()
        try:
            actions = self._policy.act(self.slots.observe(live), live) if len(live) else ()
        except Exception as error:
            return self._policy_broke(error)
        try:
            ended = self.slots.step(live, actions)
        except Exception as error:
            return self._slots_broke(error)
        self._steps += len(live)
        return ended

    def _within_budget(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the slots to step; the last steps of a `num_steps` budget may not suffice for all of them."""
        live = self.slots.live()
        if self._chunk.num_steps is None:
            return live
        left = self._chunk.num_steps - self._steps
        self._give_up(live[left:].tolist())
        return live[:left]

    def _budget_spent(self) -> bool:
        return self._chunk.num_steps is not None and self._steps >= self._chunk.num_steps

    def _rest(self, slots: Iterable[int]) -> None:
        for slot in list(slots):
            self._in_flight.pop(slot, None)
            self._resting.add(slot)

    def _give_up(self, slots: Iterable[int]) -> None:
        """End episodes without a record: the budget is spent."""
        for slot in list(slots):
            self.slots.discard(slot)
            self._rest([slot])

    def _policy_broke(self, error: Exception) -> dict[int, Outcome]:
        in_flight = self._end_all()
        failure = dataclasses.replace(describe_error(error), cause="policy_error")
        if len(in_flight) > 1 and not self.slots.self_resetting:
            for slot in in_flight:
                self.slots.discard(slot)
            self._retry_alone(in_flight)
            return {}
        outcomes = {
            slot: Outcome(ticket=ticket, error=failure, videos=self.slots.abort(slot))
            for slot, ticket in in_flight.items()
        }
        if self.slots.self_resetting:  # Its next episodes must not begin in the middle of those that broke.
            self.slots.begin_chunk(self._chunk.index, self._queue.quotas())
        return outcomes

    def _slots_broke(self, error: Exception) -> dict[int, Outcome]:
        in_flight = self._end_all()
        failure = describe_error(error)
        alone = len(in_flight) == 1 or self.slots.self_resetting
        videos = {slot: self.slots.abort(slot) for slot in in_flight} if alone else {}
        self.slots.close()
        self.slots = self._reopen()
        self.slots.begin_chunk(self._chunk.index, self._queue.quotas())
        if alone:
            return {
                slot: Outcome(ticket=ticket, error=failure, videos=videos[slot]) for slot, ticket in in_flight.items()
            }
        self._retry_alone(in_flight)
        return {}

    def _retry_alone(self, in_flight: dict[int, Ticket]) -> None:
        self._queue.retry_alone(in_flight.values())
        self._returned += sorted(ticket.episode for ticket in in_flight.values())

    def _end_all(self) -> dict[int, Ticket]:
        in_flight = dict(self._in_flight)
        self._rest(in_flight)
        return in_flight

    def _returns(self) -> list[EpisodesReturned]:
        """Return what to say of episodes that wait again, once."""
        returned, self._returned = self._returned, []
        return [EpisodesReturned(episodes=tuple(returned))] if returned else []

    def _progress(self) -> Progress:
        self._progress_at = time.monotonic() + PROGRESS_PERIOD_S
        return Progress(steps=self._steps)

    def _record(self, slot: int, outcome: Outcome) -> EpisodeRecord:
        ticket = outcome.ticket
        return EpisodeRecord(
            job=self._chunk.job.name,
            episode=ticket.episode,
            seed=ticket.seed if outcome.seeded else None,
            status="completed" if outcome.error is None else "error",
            success=outcome.success,
            episode_return=outcome.episode_return,
            length=outcome.length,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            metrics=outcome.metrics or {metric.key: None for metric in self._chunk.job.metrics},
            videos=tuple(self._relative(video) for video in outcome.videos),
            started_at=None if outcome.started_at is None else utc_text(outcome.started_at),
            duration_s=outcome.duration_s,
            chunk=self._chunk.index,
            attempt=ticket.attempt,
            slot=slot,
            worker=self._worker,
            error=outcome.error,
        )

    def _relative(self, video: VideoFile) -> VideoFile:
        return dataclasses.replace(video, path=Path(video.path).relative_to(self._run_dir).as_posix())


class _TicketQueue:
    """The episodes of a chunk that wait: in order, or, where slots reset themselves, a fixed quota for each slot."""

    def __init__(self, chunk: Chunk, slots: Slots) -> None:
        seed, attempt = chunk.job.seed, chunk.attempt
        episodes = itertools.count() if chunk.num_steps is not None else iter(chunk.episodes)
        self._tickets = (Ticket(episode=e, seed=episode_seed(seed, e), attempt=attempt) for e in episodes)
        self._next = next(self._tickets, None)
        self._alone: deque[Ticket] = deque()
        self._running_alone = False
        self._quotas: list[deque[Ticket]] | None = None
        if slots.self_resetting:
            count = chunk.num_steps if chunk.num_steps is not None else len(chunk.episodes)
            self._quotas = [deque() for _ in range(slots.num_slots)]
            for position in range(count):
                self._quotas[position % slots.num_slots].append(self._take())

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._alone and self._next is None and not any(self._quotas or ())

    def quotas(self) -> list[list[Ticket]]:
        """Return what each slot still has to run; nothing where slots pull."""
        return [list(quota) for quota in self._quotas or ()]

    def retry_alone(self, tickets: Iterable[Ticket]) -> None:
        """Put back tickets that must run with nothing beside them."""
        self._alone.extend(sorted(tickets, key=lambda ticket: ticket.episode))

    def pull(self, resting: list[int], *, busy: bool) -> dict[int, Ticket]:
        """Return a ticket for each of the resting slots that gets one."""
        if self._quotas is not None:
            return {slot: self._quotas[slot].popleft() for slot in resting if self._quotas[slot]}
        if busy and (self._alone or self._running_alone):
            return {}
        self._running_alone = bool(self._alone)
        if self._alone:
            return {resting[0]: self._alone.popleft()}
        pulled = {}
        for slot in resting:
            if self._next is not None:
                pulled[slot] = self._take()
        return pulled

    def _take(self) -> Ticket:
        ticket, self._next = self._next, next(self._tickets, None)
        assert ticket is not None
        return ticket


def _starts(tickets: dict[int, Ticket]) -> list[EpisodeStarted]:
    return [EpisodeStarted(episode=ticket.episode, slot=slot) for slot, ticket in tickets.items()]


def _seeding_notice(chunk: Chunk) -> Notice:
    return Notice(
        topic="seed_ignored",
        message=(
            f"job {chunk.job.name!r}: two resets with one seed gave different observations, so its environment ignores "
            "reset(seed) and its records cannot be reproduced; seed it in a function fn(env, seed) and name that as "
            "env.seed_hook"
        ),
    )
