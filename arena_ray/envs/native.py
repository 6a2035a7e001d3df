"""Slots of an environment that is batched by itself: a `VectorEnv`, or an `Env` with `num_envs` as in Isaac Lab.

Where such an environment resets its sub-environments by itself (same-step or next-step autoreset), every slot gets a
fixed quota of episodes, so that fast episodes are not favoured; what a slot runs beyond its quota is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import create_empty_array

from arena_ray import entry_points
from arena_ray.envs.base import Outcome, SlotsError, Ticket, as_numpy, check_actions, is_whole, put_rows
from arena_ray.envs.episode_slot import same
from arena_ray.envs.episode_tracker import EpisodeTracker
from arena_ray.envs.shared_time import SharedTime
from arena_ray.errors import EntryPointError
from arena_ray.records import VideoFile
from arena_ray.specs import EvalJob
from arena_ray.video import video_recorders
from arena_ray.video.caption import SUCCESS_KEYS

logger = logging.getLogger(__name__)


class NativeSlots:
    """Slots of a batched environment.

    Args:
        make: Builds the environment.
        job: The job; its `num_envs` is 1, ``auto``, or equal to the environment's.
        record: Wraps the environment in the video recorders.

    Raises:
        EntryPointError: If the environment's `num_envs` is not the job's, or it lacks the spaces of one slot.
    """

    num_groups = 1

    def __init__(self, make: Callable[[], Any], job: EvalJob, record: Callable[[Any], Any]) -> None:
        self._make, self._record = make, record
        self._job = job
        self._hook = None if job.env.seed_hook is None else entry_points.resolve(job.env.seed_hook)
        self._keys = {*SUCCESS_KEYS, *([job.success.key] if job.success.key else []), *_metric_keys(job)}
        self._quotas: list[list[Ticket]] = []
        self._chunk_index = 0
        self._open()

    def _open(self) -> None:
        env = self._bare = self._make()
        self.num_slots = int(env.num_envs if isinstance(env, VectorEnv) else env.unwrapped.num_envs)
        if self._job.num_envs not in (1, "auto", self.num_slots):
            raise EntryPointError(
                f"job {self._job.name!r}: num_envs is {self._job.num_envs}, but the environment steps {self.num_slots} "
                "at once by itself; leave num_envs out, or give the factory the same number"
            )
        self.observation_space = _single_space(env, "observation")
        self.action_space = _single_space(env, "action")
        self._mode = autoreset_mode(env)
        self.self_resetting = self._mode is not AutoresetMode.DISABLED
        self._env = self._record(env)
        self._recorders = video_recorders(self._env)
        self._time = SharedTime(self._recorders)
        self._actions = create_empty_array(self.action_space, n=self.num_slots, fn=np.zeros)
        self._trackers: dict[int, EpisodeTracker] = {}
        self._resetting: set[int] = set()
        self._ended: set[int] = set()
        self._begun = False
        self._observations: Any = None
        self._sent: tuple[npt.NDArray[np.int64], Any] | None = None

    def begin_chunk(self, chunk_index: int, quotas: Sequence[Sequence[Ticket]]) -> None:
        """Start anew: the next `begin` resets the whole environment."""
        self._chunk_index, self._quotas = chunk_index, [list(quota) for quota in quotas]
        self._begun = False
        self._sent = None
        self._resetting.clear()
        self._ended.clear()
        for recorder in self._recorders:
            recorder.begin_chunk(chunk_index)

    def settled(self) -> Iterable[int]:
        """Return the one group, unless it has been sent actions."""
        return (0,) if self._sent is None else ()

    def begin(self, tickets: Mapping[int, Ticket]) -> None:
        """Begin an episode in each slot that has a ticket."""
        if not tickets:
            return
        try:
            self._begin(tickets)
        except Exception as error:
            raise SlotsError(range(self.num_slots)) from error

    def _begin(self, tickets: Mapping[int, Ticket]) -> None:
        first, self._begun = not self._begun, True
        resets = first or not self.self_resetting
        self._time.begin(tickets)
        if resets:
            with self._time:
                self._reset(tickets, everything=first)
        seeded = set(tickets) if self._seeds_each_slot else {min(tickets)}
        for slot, ticket in tickets.items():
            is_seeded = resets and slot in seeded
            self._trackers[slot] = EpisodeTracker(ticket, self._job.success, self._job.metrics, is_seeded)
        self._name_upcoming(tickets)

    @property
    def _seeds_each_slot(self) -> bool:
        return isinstance(self._bare, VectorEnv)

    def _reset(self, tickets: Mapping[int, Ticket], *, everything: bool) -> None:
        """Reset the slots that have a ticket and those whose episode ended; `everything`: all slots."""
        mask = np.full(self.num_slots, everything, dtype=np.bool_)
        mask[[*tickets, *self._ended]] = True
        self._ended.clear()
        self._name({slot: ticket.episode for slot, ticket in tickets.items()}, tickets)
        seeds = [tickets[slot].seed if slot in tickets else None for slot in range(self.num_slots)]
        if tickets and self._hook is not None:
            self._hook(self._bare, tickets[min(tickets)].seed)
        if self._seeds_each_slot:
            options = None if everything else {"reset_mask": mask}
            self._observations, _ = self._env.reset(seed=seeds, options=options)
        else:
            self._observations, _ = self._env.reset(seed=tickets[min(tickets)].seed)

    def _name(self, episodes: Mapping[int, int], tickets: Mapping[int, Ticket]) -> None:
        """Tell the recorders which episodes begin next; what nobody asked for is not recorded."""
        attempt = max((ticket.attempt for ticket in tickets.values()), default=1)
        for recorder in self._recorders:
            recorder.assign_episodes(episodes, attempt)

    def _name_upcoming(self, tickets: Mapping[int, Ticket]) -> None:
        """Under autoreset the next episode begins inside `step`: tell the recorders what it will be."""
        if not self.self_resetting or not self._recorders:
            return
        names: dict[int, int] = {}
        for slot, ticket in tickets.items():
            quota = self._quotas[slot]
            ahead = 1 + quota.index(ticket)
            if slot in self._resetting:
                names[slot] = ticket.episode
            elif ahead < len(quota):
                names[slot] = quota[ahead].episode
        self._name(names, tickets)

    def live(self, group: int = 0) -> npt.NDArray[np.int64]:
        """Return the slots that wait for an action."""
        return np.array(sorted(self._trackers.keys() - self._resetting), dtype=np.int64)

    def observe(self, slots: npt.NDArray[np.int64]) -> Any:
        """Return the observations of these slots; those of all slots are not copied."""
        return self._observations if is_whole(slots, range(self.num_slots)) else _rows(self._observations, slots)

    def send(self, slots: npt.NDArray[np.int64], actions: Any) -> None:
        """Take the actions of these slots; `receive` steps the whole environment, if it has been reset."""
        self._sent = (slots, actions) if self._begun else None

    def receive(self) -> dict[int, Outcome]:
        """Step the whole environment; return the outcomes of the slots that were sent actions and ended."""
        if self._sent is None:
            return {}
        sent, self._sent = self._sent, None
        try:
            return self._step(*sent)
        except Exception as error:
            raise SlotsError(range(self.num_slots)) from error

    def reopen(self, slots: Sequence[int]) -> None:
        """Build the whole environment anew."""
        self.close()
        self._open()

    def _step(self, slots: npt.NDArray[np.int64], actions: Any) -> dict[int, Outcome]:
        batch = self._full_batch(slots, actions)
        with self._time:
            if self._ended:
                self._reset({}, everything=False)
            self._observations, rewards, terminated, truncated, info = self._env.step(batch)
        self._resetting = set()
        rewards, terminated, truncated = (as_numpy(value) for value in (rewards, terminated, truncated))
        done = np.asarray(terminated, dtype=np.bool_) | np.asarray(truncated, dtype=np.bool_)
        outcomes = {}
        for slot in slots.tolist():
            tracker = self._trackers[slot]
            tracker.step(float(rewards[slot]), self._row_info(info, slot, bool(done[slot])))
            if done[slot]:
                with self._time:
                    videos = self._videos(slot, tracker.success)
                self._time.end(slot, tracker)
                outcomes[slot] = tracker.outcome(bool(terminated[slot]), bool(truncated[slot]), videos)
                del self._trackers[slot]
        if self._mode is AutoresetMode.NEXT_STEP:
            self._resetting = set(np.flatnonzero(done).tolist())
        if self._mode is AutoresetMode.DISABLED:
            self._ended = set(np.flatnonzero(done).tolist())
        return outcomes

    def _full_batch(self, slots: npt.NDArray[np.int64], actions: Any) -> Any:
        if hasattr(self._first_leaf(), "detach"):
            return self._tensor_batch(slots, actions)
        if len(slots):
            rows = check_actions(actions, self.action_space, len(slots))
            self._actions = put_rows(self._actions, self.action_space, slots, rows)
        return self._actions

    def _tensor_batch(self, slots: npt.NDArray[np.int64], actions: Any) -> Any:
        """Return the actions as a tensor beside the observations, as environments on a GPU take them."""
        import torch

        device = self._first_leaf().device
        if len(slots) == self.num_slots and torch.is_tensor(actions):
            return actions.to(device)
        rows = check_actions(actions, self.action_space, len(slots)) if len(slots) else None
        if rows is not None:
            self._actions = put_rows(self._actions, self.action_space, slots, rows)
        return torch.as_tensor(self._actions, device=device)

    def _first_leaf(self) -> Any:
        leaf = self._observations
        while isinstance(leaf, (Mapping, tuple)):
            leaf = next(iter(leaf.values() if isinstance(leaf, Mapping) else leaf))
        return leaf

    def _row_info(self, info: Mapping[str, Any], slot: int, done: bool) -> dict[str, Any]:
        """Return one slot's part of the keys that the job looks at; at the end of an episode, of its final info."""
        final = info.get("final_info")
        source = final if done and isinstance(final, Mapping) else info
        row = {}
        for key in self._keys & source.keys():
            mask = source.get(f"_{key}")
            if mask is None or bool(mask[slot]):
                value = source[key]
                row[key] = value[slot] if np.ndim(as_numpy(value)) else value
        return row

    def _videos(self, slot: int, success: bool | None = None) -> tuple[VideoFile, ...]:
        return tuple(video for recorder in self._recorders for video in recorder.take_videos(slot, success))

    def probe_seeding(self, seed: int) -> bool:
        """Return whether two resets with one seed gave the same observations."""
        try:
            first, second = (self._probe_reset(seed) for _ in range(2))
        except Exception:
            return True  # The episodes themselves will meet the same error, and report it.
        return same(first, second)

    def _probe_reset(self, seed: int) -> Any:
        if self._hook is not None:
            self._hook(self._bare, seed)
        observation, _ = self._bare.reset(seed=seed)
        return _copy(observation)

    def end_chunk(self) -> tuple[VideoFile, ...]:
        """Give up what still runs; return the clips that show all slots at once."""
        for slot in list(self._trackers):
            self.discard(slot)
        return tuple(video for recorder in self._recorders for video in recorder.end_chunk())

    def discard(self, slot: int) -> None:
        """Give up the episode of a slot without an outcome."""
        self._trackers.pop(slot, None)
        self._time.forget(slot)
        for recorder in self._recorders:
            recorder.discard_episode(slot)

    def abort(self, slot: int) -> tuple[VideoFile, ...]:
        """Give up the episode of a slot that broke; return its partial videos."""
        self._trackers.pop(slot, None)
        self._time.forget(slot)
        for recorder in self._recorders:
            recorder.abort_episode(slot)
        return self._videos(slot)

    def close(self) -> None:
        """Close the environment."""
        try:
            self._env.close()
        except Exception as error:
            logger.warning("closing the environment failed: %r", error)


def autoreset_mode(env: Any) -> AutoresetMode:
    """Return how a batched environment resets its sub-environments.

    A `VectorEnv` says so in ``metadata["autoreset_mode"]``, else Gymnasium's default holds: next-step. Isaac Lab's
    `Env` resets in the same step.
    """
    default = AutoresetMode.NEXT_STEP if isinstance(env, VectorEnv) else AutoresetMode.SAME_STEP
    return AutoresetMode((env.metadata or {}).get("autoreset_mode", default))


def _single_space(env: Any, kind: str) -> gymnasium.Space[Any]:
    holder = env if isinstance(env, VectorEnv) else env.unwrapped
    space = getattr(holder, f"single_{kind}_space", None)
    if not isinstance(space, gymnasium.Space):
        raise EntryPointError(
            f"{type(holder).__name__} has num_envs but no single_{kind}_space, so what one slot {kind}s is unknown; "
            f"set it to the {kind} space of one sub-environment"
        )
    return space


def _metric_keys(job: EvalJob) -> list[str]:
    return [metric.key for metric in job.metrics]


def _rows(batch: Any, rows: npt.NDArray[np.int64]) -> Any:
    if isinstance(batch, Mapping):
        return {key: _rows(part, rows) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_rows(part, rows) for part in batch)
    return batch[rows]


def _copy(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {key: _copy(part) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_copy(part) for part in batch)
    return batch.clone() if hasattr(batch, "clone") else np.copy(batch)
