"""What a job's ledger is told at its beginning, and what it answers when a worker is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from arena_ray.records import EpisodeStatus
from arena_ray.specs import SlotChoice


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobHistory:
    """What became of a job before this driver began.

    Attributes:
        recorded: Episodes that have a record, with its status; they are not run again.
        handed_out: Episodes without a record that a worker had when the last driver ended, with the attempt that it
            was: the next is one more, so that an old worker and a new one never write to one file.
        next_chunk: The first index that no chunk has had.
        steps_done: Whether a `num_steps` budget was used up.
        slots: What was chosen where the job leaves its slots open; ``None``: nothing yet.
        outcomes: Whether recorded episodes succeeded, where a job that stops when it is sure needs to know.
    """

    recorded: Iterable[tuple[int, EpisodeStatus]] = ()
    outcomes: Mapping[int, bool | None] = dataclasses.field(default_factory=dict)
    handed_out: Mapping[int, int] = dataclasses.field(default_factory=dict)
    next_chunk: int = 0
    steps_done: bool = False
    slots: SlotChoice | None = None


#: Each job's history by its name.
History: TypeAlias = Mapping[str, JobHistory]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """An episode whose attempts are used up; the driver writes its record."""

    episode: int
    attempt: int
    status: EpisodeStatus


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What became of a lost chunk.

    Attributes:
        suspects: Episodes that were in flight and are tried again, each alone when the loss was charged.
        requeued: Episodes that only waited.
        exhausted: Episodes that get a record instead of another try.
        job_failed: Why the job takes no further chunk, if it does not.
        back_off_s: How long the job is held, seconds; `Ledger.release` ends that.
        at_start: Whether the worker was lost before it was ready.
        slots: What the job gets now, because its worker may have been lost in measuring; ``None``: nothing new.
    """

    suspects: tuple[int, ...] = ()
    requeued: tuple[int, ...] = ()
    exhausted: tuple[Exhausted, ...] = ()
    job_failed: str | None = None
    back_off_s: float = 0.0
    at_start: bool = False
    slots: SlotChoice | None = None
