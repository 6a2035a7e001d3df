"""What the rollout sees of environments: slots that take tickets and give outcomes."""

from __future__ import annotations

import dataclasses
import datetime
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from arena_ray.errors import PolicyError
from arena_ray.records import EpisodeError, VideoFile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One episode to run in a slot.

    Attributes:
        episode: Index within the job.
        seed: What `env.reset(seed=...)` receives.
        attempt: 1 is the first.
    """

    episode: int
    seed: int
    attempt: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the episode of a slot ended.

    Attributes:
        ticket: Which episode it was.
        seeded: Whether the environment began the episode with the ticket's seed; False where it resets itself.
        success: ``None`` when the environment says nothing about it.
        episode_return: Sum of rewards; ``None`` if it broke.
        length: Environment steps.
        terminated: As Gymnasium has it.
        truncated: As Gymnasium has it.
        metrics: The job's metrics.
        videos: What the recorders wrote, with absolute paths.
        started_at: UTC.
        duration_s: Wall time from reset to the last step, seconds.
        busy_s: Of that, inside the environment's reset and step, recorders included.
        recording_s: Of `busy_s`, inside the video recorders: taking (`render()`), converting and encoding frames.
        error: Set if environment or policy broke the episode.
    """

    ticket: Ticket
    seeded: bool = True
    success: bool | None = None
    episode_return: float | None = None
    length: int = 0
    terminated: bool = False
    truncated: bool = False
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    videos: tuple[VideoFile, ...] = ()
    started_at: datetime.datetime | None = None
    duration_s: float | None = None
    busy_s: float = 0.0
    recording_s: float = 0.0
    error: EpisodeError | None = None


class SlotsError(Exception):
    """Environments that are stepped together broke; the cause says how.

    Args:
        slots: All slots of the group that broke.
        culprits: Those whose own process died, so that the others' episodes are not to blame; empty: nobody knows.
    """

    def __init__(self, slots: Sequence[int], culprits: Sequence[int] = ()) -> None:
        super().__init__(f"slots {[*slots]} broke")
        self.slots = tuple(slots)
        self.culprits = tuple(culprits)


class Slots(Protocol):
    """A fixed number of sub-environments, each of which runs one episode at a time.

    They step in groups of equal size: what is sent to one group is under way while another group is answered. Slots
    in the calling process are one group, and are stepped by `receive`.

    Attributes:
        num_slots: How many.
        num_groups: How many groups; group ``g`` has the slots from ``g * num_slots / num_groups`` on.
        observation_space: Of one slot.
        action_space: Of one slot.
        self_resetting: Whether slots begin their next episode by themselves, so that each must have a fixed quota.
    """

    num_slots: int
    num_groups: int
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    self_resetting: bool

    def settled(self) -> Iterable[int]:
        """Return the groups in which nothing is under way."""
        ...

    def begin(self, tickets: Mapping[int, Ticket]) -> None:
        """Begin an episode in each slot that has a ticket; its group is settled. A slot whose episode ended rests."""
        ...

    def live(self, group: int) -> npt.NDArray[np.int64]:
        """Return the slots of a settled group that wait for an action, ascending, ``int64[k]``."""
        ...

    def observe(self, slots: npt.NDArray[np.int64]) -> Any:
        """Return the observations of these slots of one group, which may repeat, stacked in this order; a copy."""
        ...

    def send(self, slots: npt.NDArray[np.int64], actions: Any) -> None:
        """Step these slots of one settled group, one action per row."""
        ...

    def receive(self) -> dict[int, Outcome]:
        """Wait until something that is under way is done; return the outcomes of the slots whose episode ended.

        Raises:
            SlotsError: If environments broke in a way that no single episode accounts for.
        """
        ...

    def reopen(self, slots: Sequence[int]) -> None:
        """Build the groups of these slots anew, after a `SlotsError`."""
        ...

    def probe_seeding(self, seed: int) -> bool:
        """Return whether two resets with one seed gave the same observation."""
        ...

    def begin_chunk(self, chunk_index: int, quotas: Sequence[Sequence[Ticket]]) -> None:
        """Be told that a chunk begins, and, where slots reset themselves, the episodes of each slot in order."""
        ...

    def end_chunk(self) -> tuple[VideoFile, ...]:
        """Let every slot rest; return videos that belong to the chunk, not to one episode."""
        ...

    def discard(self, slot: int) -> None:
        """Give up the episode of a slot without an outcome; its video is removed."""
        ...

    def abort(self, slot: int) -> tuple[VideoFile, ...]:
        """Give up the episode of a slot that broke; its videos stay, as partial ones. Never raises."""
        ...

    def close(self) -> None:
        """Close the environments, by force if they broke; may be called again. Never raises."""
        ...


def describe_error(error: BaseException) -> EpisodeError:
    """Return an exception as text; exceptions themselves do not cross processes."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return EpisodeError(type=type(error).__name__, message=str(error), traceback="".join(lines))


def check_actions(actions: Any, space: gymnasium.Space[Any], num_rows: int) -> Any:
    """Return a policy's actions by `as_batch`.

    Raises:
        PolicyError: If they are not one action of `space` per row.
    """
    try:
        batch = as_batch(actions, space)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise PolicyError(f"the policy's answer is not a batch of actions of {space}: {error}") from error
    shape = space.shape
    if count_rows(batch) != num_rows or (isinstance(batch, np.ndarray) and batch.shape[1:] != shape):
        found = f"shape {batch.shape}" if isinstance(batch, np.ndarray) else f"{count_rows(batch)} rows"
        raise PolicyError(
            f"the policy answered {found} to {num_rows} observations; act() returns one action per row, "
            f"here {(num_rows, *(shape or ()))} for {space}"
        )
    return batch


def select_actions(actions: Any, space: gymnasium.Space[Any], num_rows: int, rows: npt.NDArray[np.int64]) -> Any:
    """Return some rows of a policy's actions.

    Args:
        actions: One action of `space` per row, as the policy gave them.
        space: Action space of one slot.
        num_rows: How many rows the policy was asked for.
        rows: Which of them to return, ``int64[k]``.

    Raises:
        PolicyError: If the actions are not one per row.
    """
    return take_rows(check_actions(actions, space, num_rows), space, rows)


def as_batch(actions: Any, space: gymnasium.Space[Any]) -> Any:
    """Return a policy's actions as NumPy, in the dtype of the action space, whatever the number of slots.

    Args:
        actions: One action per row: NumPy, torch or nested lists; dicts and tuples of them for such spaces.
        space: Action space of one slot.
    """
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: as_batch(actions[key], part) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(as_batch(part, inner) for part, inner in zip(actions, space.spaces, strict=True))
    if space.dtype is None or space.shape is None:
        return tuple(actions)
    return np.asarray(as_numpy(actions), dtype=space.dtype)


def as_numpy(value: Any) -> Any:
    """Return a torch tensor as a NumPy array on the CPU; anything else unchanged."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def take_rows(batch: Any, space: gymnasium.Space[Any], rows: npt.NDArray[np.int64]) -> Any:
    """Return rows of a batch of elements of `space`, as a copy.

    Args:
        batch: As `gymnasium.vector.utils.batch_space` has it; torch tensors are indexed as such.
        space: Space of one element.
        rows: ``int64[k]``.
    """
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: take_rows(batch[key], part, rows) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(take_rows(part, inner, rows) for part, inner in zip(batch, space.spaces, strict=True))
    if isinstance(batch, tuple):
        return tuple(batch[row] for row in rows)
    return batch[rows]


def row_of(batch: Any, index: int) -> Any:
    """Return one row of a batch of arrays, or of dicts or tuples of them, as a copy."""
    if isinstance(batch, dict):
        return {key: row_of(part, index) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(row_of(part, index) for part in batch)
    value = batch[index]
    return value.copy() if isinstance(value, np.ndarray) else value


def put_rows(batch: Any, space: gymnasium.Space[Any], rows: npt.NDArray[np.int64], values: Any) -> Any:
    """Write rows into a batch made by `empty_batch`; return the batch (tuples are replaced, arrays written to)."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: put_rows(batch[key], part, rows, values[key]) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        parts = zip(batch, space.spaces, values, strict=True)
        return tuple(put_rows(part, inner, rows, value) for part, inner, value in parts)
    if isinstance(batch, tuple):
        by_row = dict(zip(rows.tolist(), values, strict=True))
        return tuple(by_row.get(row, value) for row, value in enumerate(batch))
    batch[rows] = values
    return batch


def is_whole(slots: npt.NDArray[np.int64], group: range) -> bool:
    """Return whether these are all slots of a group, in order."""
    return len(slots) == len(group) and bool((slots == np.arange(group.start, group.stop)).all())


def count_rows(batch: Any) -> int:
    """Return the number of rows of a batch; -1 if its parts disagree or it has none."""
    parts = list(batch.values()) if isinstance(batch, dict) else batch if isinstance(batch, tuple) else None
    if parts is None:
        return len(batch) if np.ndim(batch) else -1
    counts = {count_rows(part) for part in parts}
    return counts.pop() if len(counts) == 1 else -1
