"""Slots made of single environments, on Gymnasium's vector environments with autoreset disabled (Gymnasium >= 1.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import create_empty_array

from arena_ray.envs.base import Outcome, Ticket, check_actions, put_rows, take_rows
from arena_ray.envs.episode_slot import OUTCOME, TICKETS, EpisodeSlot
from arena_ray.records import VideoFile

#: A worker has threads (Ray's, torch's), so its children must not be forked from it.
START_METHOD = "forkserver"

#: A killed child is gone within milliseconds; more means that the machine is in trouble.
CHILD_EXIT_S = 10

logger = logging.getLogger(__name__)


class VectorizedSlots:
    """Slots made of single environments.

    Args:
        factories: Build the slot of each index.
        vectorization: ``sync``: in this process, one after the other; ``async``: each in a child process.
        observation_space: Of one slot.
    """

    self_resetting = False

    def __init__(
        self,
        factories: Sequence[Callable[[], EpisodeSlot]],
        vectorization: str,
        observation_space: gymnasium.Space[Any],
    ) -> None:
        self.num_slots = len(factories)
        self._env = _vector_env(factories, vectorization, shareable=_fixed_size(observation_space))
        self.observation_space = self._env.single_observation_space
        self.action_space = self._env.single_action_space
        self._actions = create_empty_array(self.action_space, n=self.num_slots, fn=np.zeros)
        self._running = np.zeros(self.num_slots, dtype=np.bool_)
        self._ended = np.zeros(self.num_slots, dtype=np.bool_)
        self._observations: Any = None
        self._in_call = False  # Stays True when a call raised: the environments are in no known state then.

    def begin(self, tickets: Mapping[int, Ticket]) -> dict[int, Outcome]:
        """Begin an episode in each slot that has a ticket."""
        return self._reset(tickets) if tickets else {}

    def _reset(self, tickets: Mapping[int, Ticket]) -> dict[int, Outcome]:
        """Reset the slots that have a ticket and those whose episode ended; without a ticket a slot rests."""
        mask = self._ended.copy() if self._observations is not None else np.ones(self.num_slots, dtype=np.bool_)
        mask[list(tickets)] = True
        seeds = [tickets[slot].seed if slot in tickets else None for slot in range(self.num_slots)]
        self._in_call = True
        self._observations, info = self._env.reset(seed=seeds, options={"reset_mask": mask, TICKETS: dict(tickets)})
        self._in_call = False
        self._ended[:] = False
        self._running[list(tickets)] = True
        return self._outcomes(info)

    def live(self) -> npt.NDArray[np.int64]:
        """Return the slots that wait for an action."""
        return np.flatnonzero(self._running)

    def observe(self, slots: npt.NDArray[np.int64]) -> Any:
        """Return the observations of these slots, stacked; a copy."""
        return take_rows(self._observations, self.observation_space, slots)

    def step(self, slots: npt.NDArray[np.int64], actions: Any) -> dict[int, Outcome]:
        """Step these slots; return the outcomes of the slots whose episode ended."""
        if self._ended.any():
            self._reset({})
        actions = check_actions(actions, self.action_space, len(slots))
        if len(slots) < self.num_slots:
            self._actions = actions = put_rows(self._actions, self.action_space, slots, actions)
        self._in_call = True
        self._observations, _, _, _, info = self._env.step(actions)
        self._in_call = False
        return self._outcomes(info)

    def _outcomes(self, info: Mapping[str, Any]) -> dict[int, Outcome]:
        if OUTCOME not in info:
            return {}
        ended = {int(slot): info[OUTCOME][slot] for slot in np.flatnonzero(info[f"_{OUTCOME}"])}
        self._running[list(ended)] = False
        self._ended[list(ended)] = True
        return ended

    def probe_seeding(self, seed: int) -> bool:
        """Return whether two resets of slot 0 with one seed gave the same observation."""
        return all(self._env.call("probe_seeding", seed, 0))

    def begin_chunk(self, chunk_index: int, quotas: Sequence[Sequence[Ticket]]) -> None:
        """Nothing here belongs to a chunk."""

    def end_chunk(self) -> tuple[VideoFile, ...]:
        """Give up what still runs."""
        for slot in self.live().tolist():
            self.discard(slot)
        return ()

    def discard(self, slot: int) -> None:
        """Give up the episode of a slot without an outcome."""
        self._env.call("discard", slot)
        self._running[slot] = False

    def abort(self, slot: int) -> tuple[VideoFile, ...]:
        """Give up the episode of a slot that broke; return its partial videos."""
        self._running[slot] = False
        try:
            return tuple(video for videos in self._env.call("abort", slot) for video in videos)
        except Exception:
            return ()  # The process that recorded it is gone; its partial file stays on the disk.

    def close(self) -> None:
        """Close the environments; child processes that broke off in the middle of a call are killed."""
        try:
            if not self._in_call:
                self._env.close()
                return
        except Exception as error:
            logger.warning("closing the environments failed: %r", error)
        self._kill_children()

    def _kill_children(self) -> None:
        """End child processes that may not answer any more, so that closing them politely could take for ever."""
        for process in getattr(self._env, "processes", ()):
            process.kill()
            process.join(timeout=CHILD_EXIT_S)
        for pipe in getattr(self._env, "parent_pipes", ()):
            pipe.close()
        self._env.closed = True


def _vector_env(
    factories: Sequence[Callable[[], EpisodeSlot]], vectorization: str, *, shareable: bool
) -> SyncVectorEnv | AsyncVectorEnv:
    mode = AutoresetMode.DISABLED
    if vectorization == "sync":
        return SyncVectorEnv(factories, copy=False, autoreset_mode=mode)
    return AsyncVectorEnv(factories, shared_memory=shareable, copy=False, context=START_METHOD, autoreset_mode=mode)


def _fixed_size(space: gymnasium.Space[Any]) -> bool:
    """Return whether elements of a space have one size, as shared memory needs."""
    if isinstance(space, gymnasium.spaces.Dict):
        return all(_fixed_size(part) for part in space.values())
    if isinstance(space, gymnasium.spaces.Tuple):
        return all(_fixed_size(part) for part in space.spaces)
    sized = (
        gymnasium.spaces.Box,
        gymnasium.spaces.Discrete,
        gymnasium.spaces.MultiDiscrete,
        gymnasium.spaces.MultiBinary,
    )
    return isinstance(space, sized)
