"""Rolls episodes out: slots pull tickets, the policy answers, outcomes become records.

Slots in child processes step in groups: while one group steps, the policy answers another.

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
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arena_ray.activity_clock import ActivityClock
from arena_ray.chunking import episode_seed
from arena_ray.dispatch import Chunk
from arena_ray.envs.base import Outcome, Slots, SlotsError, Ticket, describe_error, select_actions
from arena_ray.errors import PolicyError
from arena_ray.policies.base import Policy
from arena_ray.records import EpisodeRecord, VideoFile, WorkerInfo
from arena_ray.run_dir import utc_text
from arena_ray.worker_events import EpisodesReturned, EpisodeStarted, Event, Notice, Progress

#: Events are yielded in batches: behind Ray a batch costs about 0.2 ms.
Events: TypeAlias = tuple[Event, ...]

PROGRESS_PERIOD_S = 1.0


#: What a policy is reset with in a slot that only fills a batch.
FILLING_SEED = 0


class Rollout:
    """Runs the episodes of one chunk.

    A policy sees one batch per group of slots, always of the same shape: a group of which some slots rest is filled up
    with these, so that a row's answer does not depend on how many other episodes are in flight (kernels for other
    shapes round otherwise). They are shown what the first of the others sees: what they saw last may be what a policy
    breaks on. A policy with ``pad_batches = False`` is spared that.

    Args:
        chunk: What to run.
        slots: Where to run it.
        policy: Answers observations.
        worker: Who runs this.
        run_dir: Root of the paths in records.
        allowance: Asked before episodes start: how many may. 0 lets those in flight finish and starts no other.
    """

    def __init__(
        self,
        chunk: Chunk,
        slots: Slots,
        policy: Policy,
        worker: WorkerInfo,
        run_dir: Path,
        allowance: Callable[[], float],
    ) -> None:
        self._chunk, self._slots, self._policy = chunk, slots, policy
        self._pads = getattr(policy, "pad_batches", True)
        self._worker, self._run_dir = worker, run_dir
        self._allowance = allowance
        self._group_size = slots.num_slots // slots.num_groups
        self._queue = _TicketQueue(chunk, slots)
        self._in_flight: dict[int, Ticket] = {}
        self._resting: set[int] = set(range(slots.num_slots))
        self._known_to_policy: set[int] = set()
        self._returned: list[int] = []
        self._stopping = False
        self._steps = 0
        self._progress_at = time.monotonic() + PROGRESS_PERIOD_S
        self._clock = ActivityClock()

    def run(self) -> Iterator[Events]:
        """Yield what happens until the chunk is done."""
        if self._chunk.probe_seeding and not self._slots.probe_seeding(episode_seed(self._chunk.job.seed, 0)):
            yield (_seeding_notice(self._chunk),)
        self._slots.begin_chunk(self._chunk.index, self._queue.quotas())
        self._clock.start("other")
        ended: dict[int, Outcome] = {}
        while True:
            records = [self._record(slot, outcome) for slot, outcome in sorted(ended.items())]
            self._stopping = self._stopping or (self._chunk.stop_on_error and any(record.error for record in records))
            tickets = self._pull()
            if not self._in_flight and not tickets:
                break
            if records or tickets or self._returned or time.monotonic() >= self._progress_at:
                self._clock.start("waiting")
                yield (*records, *self._returns(), *_starts(tickets), self._progress())
                self._clock.start("other")
            ended = self._advance(tickets)
        yield from self._end((*records, *self._returns(), self._progress()))

    def _end(self, last: Events) -> Iterator[Events]:
        """Let every slot rest; what was not said yet goes with the end, because each message takes its time."""
        try:
            clips = self._slots.end_chunk()
        except Exception:
            yield last
            raise
        notices = (Notice(topic="chunk_video", message=self._relative(clip).path) for clip in clips)
        yield (*last, *notices, self._clock.usage(self._steps, self._slots.num_slots))

    def _pull(self) -> dict[int, Ticket]:
        """Return the tickets that resting slots take now."""
        if self._stopping or not self._resting or self._queue.empty or self._budget_spent():
            return {}
        allowed = self._allowance()
        if allowed <= 0:
            self._stopping = True
            return {}
        settled = set(self._slots.settled())
        resting = sorted(slot for slot in self._resting if slot // self._group_size in settled)
        return self._queue.pull(resting[: int(min(allowed, len(resting)))], busy=bool(self._in_flight))

    def _advance(self, tickets: dict[int, Ticket]) -> dict[int, Outcome]:
        """Begin these tickets, answer the groups that wait, and wait for one; return the outcomes."""
        ended = self._begin(tickets)
        for group in self._slots.settled():
            ended |= self._answer(group)
        self._clock.start("environment")
        try:
            arrived = self._slots.receive()
        except SlotsError as error:
            arrived = self._slots_broke(error)
        self._clock.count(arrived.values())
        self._clock.start("other")
        self._rest(arrived)
        if self._budget_spent():
            self._give_up(self._in_flight)
        return ended | arrived

    def _begin(self, tickets: dict[int, Ticket]) -> dict[int, Outcome]:
        if not tickets:
            return {}
        self._in_flight.update(tickets)
        self._resting -= tickets.keys()
        try:
            self._reset_policy({slot: ticket.seed for slot, ticket in tickets.items()})
        except Exception as error:
            return self._policy_broke(error, tickets)
        self._clock.start("environment")
        try:
            self._slots.begin(tickets)
        except SlotsError as error:
            return self._slots_broke(error)
        finally:
            self._clock.start("other")
        return {}

    def _reset_policy(self, seeds: dict[int, int]) -> None:
        self._clock.start("policy")
        slots = sorted(seeds)
        self._policy.reset(np.array(slots, dtype=np.int64), [seeds[slot] for slot in slots])
        self._known_to_policy.update(slots)
        self._clock.start("other")

    def _answer(self, group: int) -> dict[int, Outcome]:
        """Let the policy answer a group, and send its actions; return the outcomes if the policy breaks."""
        live = self._within_budget(self._slots.live(group))
        if not len(live):
            if self._slots.self_resetting:  # What goes on by itself has to be stepped for the others.
                self._slots.send(live, ())
            return {}
        try:
            actions = self._act(live, group)
        except Exception as error:
            return self._policy_broke(error, live.tolist())
        self._clock.start("environment")
        try:
            self._slots.send(live, actions)
        except PolicyError as error:
            return self._policy_broke(error, live.tolist())
        finally:
            self._clock.start("other")
        self._steps += len(live)
        return {}

    def _act(self, live: npt.NDArray[np.int64], group: int) -> Any:
        rows = shown = live
        if self._pads and len(live) < self._group_size:
            rows = np.arange(group * self._group_size, (group + 1) * self._group_size)
            shown = np.where(np.isin(rows, live), rows, live[0])
            unknown = sorted(set(rows.tolist()) - self._known_to_policy)
            if unknown:
                self._reset_policy(dict.fromkeys(unknown, FILLING_SEED))
        observations = self._slots.observe(shown)
        self._clock.start("policy")
        actions = self._policy.act(observations, rows)
        self._clock.called()
        self._clock.start("other")
        space = self._slots.action_space
        return actions if rows is live else select_actions(actions, space, len(rows), np.searchsorted(rows, live))

    def _within_budget(self, live: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the slots to step; the last steps of a `num_steps` budget may not suffice for all of them."""
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
            self._slots.discard(slot)
            self._rest([slot])

    def _policy_broke(self, error: Exception, slots: Iterable[int]) -> dict[int, Outcome]:
        """Take back the episodes of a call that raised; return the outcome if only one episode can be to blame."""
        in_flight = self._take_back(self._in_flight if self._slots.self_resetting else slots)
        self._known_to_policy -= in_flight.keys()
        failure = dataclasses.replace(describe_error(error), cause="policy_error")
        if len(in_flight) > 1 and not self._slots.self_resetting:
            for slot in in_flight:
                self._slots.discard(slot)
            self._retry(in_flight, alone=True)
            return {}
        outcomes = {
            slot: Outcome(ticket=ticket, error=failure, videos=self._slots.abort(slot))
            for slot, ticket in in_flight.items()
        }
        if self._slots.self_resetting:  # Its next episodes must not begin in the middle of those that broke.
            self._slots.begin_chunk(self._chunk.index, self._queue.quotas())
        return outcomes

    def _slots_broke(self, error: SlotsError) -> dict[int, Outcome]:
        """Build a group anew; return the outcomes of the episodes that are to blame."""
        in_flight = self._take_back(error.slots)
        failure = describe_error(error.__cause__ or error)
        if error.culprits:
            blamed = [slot for slot in error.culprits if slot in in_flight]
        else:
            blamed = [*in_flight] if len(in_flight) == 1 or self._slots.self_resetting else []
        videos = {slot: self._slots.abort(slot) for slot in blamed}
        self._slots.reopen(error.slots)
        self._slots.begin_chunk(self._chunk.index, self._queue.quotas())
        outcomes = {slot: Outcome(ticket=in_flight.pop(slot), error=failure, videos=videos[slot]) for slot in blamed}
        self._retry(in_flight, alone=not error.culprits)
        return outcomes

    def _retry(self, in_flight: dict[int, Ticket], *, alone: bool) -> None:
        self._queue.put_back(in_flight.values(), alone=alone)
        self._returned += sorted(ticket.episode for ticket in in_flight.values())

    def _take_back(self, slots: Iterable[int]) -> dict[int, Ticket]:
        taken = {slot: self._in_flight[slot] for slot in slots if slot in self._in_flight}
        self._rest(taken)
        return taken

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
        self._again: deque[Ticket] = deque()
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
        return not self._alone and not self._again and self._next is None and not any(self._quotas or ())

    def quotas(self) -> list[list[Ticket]]:
        """Return what each slot still has to run; nothing where slots pull."""
        return [list(quota) for quota in self._quotas or ()]

    def put_back(self, tickets: Iterable[Ticket], *, alone: bool) -> None:
        """Put back tickets; `alone`: they must run with nothing beside them."""
        (self._alone if alone else self._again).extend(sorted(tickets, key=lambda ticket: ticket.episode))

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
            if self._again:
                pulled[slot] = self._again.popleft()
            elif self._next is not None:
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
