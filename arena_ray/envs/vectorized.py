"""Slots made of single environments, on Gymnasium's vector environments with autoreset disabled (Gymnasium >= 1.1)."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing.connection
import select
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import create_empty_array

from arena_ray.envs.base import Outcome, SlotsError, Ticket, check_actions, is_whole, put_rows, take_rows
from arena_ray.envs.child_vector_env import ChildVectorEnv, can_gate
from arena_ray.envs.episode_slot import OUTCOME, TICKETS
from arena_ray.records import VideoFile

#: A worker has threads (Ray's, torch's) and may have started CUDA, so its children must not be forked from it.
START_METHOD = "forkserver"

#: Imported once, in the server from which children are forked: 8 children start in 0.5 s instead of 1.9 s, and take
#: 11 MB each instead of 31 (CartPole, 2 cores). Children never see torch or CUDA of the worker.
PRELOADED = ("__main__", "arena_ray.envs", "arena_ray.video")

#: The same for children that record, each of which would import them for itself: 0.35 s of a core.
PRELOADED_TO_RECORD = ("arena_ray.video.pyav_encoder", "av")

#: A killed child is gone within milliseconds; more means that the machine is in trouble.
CHILD_EXIT_S = 10

#: How long to look for the child that died when its pipe has closed, seconds.
CULPRIT_S = 1.0

#: Builds a slot (`EpisodeSlot`).
Factory: TypeAlias = Callable[[], gymnasium.Env[Any, Any]]

logger = logging.getLogger(__name__)


class VectorizedSlots:
    """Slots made of single environments.

    Args:
        factories: Build the slot of each index.
        vectorization: ``sync``: in this process, one after the other; ``async``: each in a child process.
        observation_space: Of one slot.
        num_groups: Groups that step independently of each other; divides the number of slots; 1 for ``sync``.
        records: Whether the slots record videos.
    """

    self_resetting = False

    def __init__(
        self,
        factories: Sequence[Factory],
        vectorization: str,
        observation_space: gymnasium.Space[Any],
        num_groups: int = 1,
        records: bool = False,
    ) -> None:
        if vectorization == "async":
            names = [*PRELOADED, *(PRELOADED_TO_RECORD if records else ())]
            multiprocessing.get_context(START_METHOD).set_forkserver_preload(names)
        self.num_slots, self.num_groups = len(factories), num_groups
        self._group_size = len(factories) // num_groups
        self._factories = factories
        self._kind = _Group if vectorization == "sync" else _ChildGroup
        self._shareable = _fixed_size(observation_space)
        self._groups = _in_parallel(self._open_group, range(num_groups))
        self._turn = 0
        self.observation_space = self._groups[0].env.single_observation_space
        self.action_space = self._groups[0].env.single_action_space

    def _open_group(self, index: int) -> _Group:
        first = index * self._group_size
        return self._kind(self._factories[first : first + self._group_size], first, self._shareable)

    def _group_of(self, slot: int) -> _Group:
        return self._groups[slot // self._group_size]

    def settled(self) -> Iterable[int]:
        """Return the groups in which nothing is under way."""
        return [index for index, group in enumerate(self._groups) if group.call is None]

    def begin(self, tickets: Mapping[int, Ticket]) -> None:
        """Begin an episode in each slot that has a ticket."""
        for index in sorted({slot // self._group_size for slot in tickets}):
            group = self._groups[index]
            group.begin({slot: ticket for slot, ticket in tickets.items() if slot in group.slots})

    def live(self, group: int) -> npt.NDArray[np.int64]:
        """Return the slots of a group that wait for an action."""
        return self._groups[group].live()

    def observe(self, slots: npt.NDArray[np.int64]) -> Any:
        """Return the observations of these slots, stacked; a copy."""
        group = self._group_of(int(slots[0]))
        if is_whole(slots, group.slots) and isinstance(group.observations, np.ndarray):
            return group.observations.copy()
        return take_rows(group.observations, self.observation_space, slots - group.slots.start)

    def send(self, slots: npt.NDArray[np.int64], actions: Any) -> None:
        """Step these slots of one group."""
        self._group_of(int(slots[0])).send(slots, actions)

    def receive(self) -> dict[int, Outcome]:
        """Wait for one group, the one that is done first; return the outcomes of its slots whose episode ended."""
        waiting = [*self._groups[self._turn :], *self._groups[: self._turn]]
        under_way = [group for group in waiting if group.call is not None]
        if not under_way:
            return {}
        group = _first_done(under_way)
        self._turn = self._groups.index(group) + 1  # Of several that are done, one must not wait for ever.
        return group.receive()

    def reopen(self, slots: Sequence[int]) -> None:
        """Build the groups of these slots anew."""
        for index in sorted({slot // self._group_size for slot in slots}):
            self._groups[index].close()
            self._groups[index] = self._open_group(index)

    def probe_seeding(self, seed: int) -> bool:
        """Return whether two resets of slot 0 with one seed gave the same observation."""
        return all(self._groups[0].env.call("probe_seeding", seed, 0))

    def begin_chunk(self, chunk_index: int, quotas: Sequence[Sequence[Ticket]]) -> None:
        """Nothing here belongs to a chunk."""

    def end_chunk(self) -> tuple[VideoFile, ...]:
        """Give up what still runs."""
        for group in range(self.num_groups):
            for slot in self.live(group).tolist():
                self.discard(slot)
        return ()

    def discard(self, slot: int) -> None:
        """Give up the episode of a slot without an outcome."""
        group = self._group_of(slot)
        group.rest(slot)
        with contextlib.suppress(Exception):  # Of a process that is gone nothing is left, and its next call says so.
            group.env.call("discard", slot)

    def abort(self, slot: int) -> tuple[VideoFile, ...]:
        """Give up the episode of a slot that broke; return its partial videos."""
        group = self._group_of(slot)
        group.rest(slot)
        try:
            return tuple(video for videos in group.env.call("abort", slot) for video in videos)
        except Exception:
            return ()  # The process that recorded it is gone; its partial file stays on the disk.

    def close(self) -> None:
        """Close the environments; child processes that broke off in the middle of a call are killed."""
        for group in self._groups:
            group.close()


class _Group:
    """Slots that are stepped together, in this process.

    Attributes:
        slots: Their indices.
        env: Their environments.
        observations: The newest, batched; ``None`` before the first `begin`.
        call: What is under way, or ``None``.
    """

    def __init__(self, factories: Sequence[Factory], first: int, shareable: bool) -> None:
        self.slots = range(first, first + len(factories))
        self.env: Any = self._open(factories, shareable)
        self.observations: Any = None
        self.call: Callable[[], Any] | None = None
        self._actions = create_empty_array(self.env.single_action_space, n=len(factories), fn=np.zeros)
        self._running: set[int] = set()
        self._live: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def _open(self, factories: Sequence[Factory], shareable: bool) -> Any:
        return SyncVectorEnv(factories, copy=False, autoreset_mode=AutoresetMode.DISABLED)

    def begin(self, tickets: Mapping[int, Ticket]) -> None:
        """Reset the slots that have a ticket; without a ticket a slot rests."""
        mask = np.full(len(self.slots), self.observations is None)
        mask[[slot - self.slots.start for slot in tickets]] = True
        seeds = [tickets[slot].seed if slot in tickets else None for slot in self.slots]
        self._set_running(self._running | tickets.keys())
        self._start("reset", seed=seeds, options={"reset_mask": mask, TICKETS: dict(tickets)})

    def live(self) -> npt.NDArray[np.int64]:
        return self._live

    def rest(self, slot: int) -> None:
        self._set_running(self._running - {slot})

    def _set_running(self, slots: set[int]) -> None:
        self._running = slots
        self._live = np.array(sorted(slots), dtype=np.int64)

    def send(self, slots: npt.NDArray[np.int64], actions: Any) -> None:
        space = self.env.single_action_space
        actions = check_actions(actions, space, len(slots))
        if len(slots) < len(self.slots):
            self._actions = actions = put_rows(self._actions, space, slots - self.slots.start, actions)
        self._start("step", actions)

    def _start(self, name: str, *arguments: Any, **keywords: Any) -> None:
        self.call = functools.partial(getattr(self.env, name), *arguments, **keywords)

    def receive(self) -> dict[int, Outcome]:
        assert self.call is not None
        try:
            self.observations, *_, info = self.call()
        except Exception as error:
            dead = self._dead_children()
            raised = 0 in dead.values() and not isinstance(error, (EOFError, OSError))  # Then it ended in good order.
            raise SlotsError(self.slots, [*dead]) from (_death(*dead.values()) if dead and not raised else error)
        self.call = None
        if OUTCOME not in info:
            return {}
        outcomes = {self.slots[row]: info[OUTCOME][row] for row in np.flatnonzero(info[f"_{OUTCOME}"]).tolist()}
        self._set_running(self._running - outcomes.keys())
        return outcomes

    def reads(self, descriptor: int) -> bool:
        return False

    def _dead_children(self) -> dict[int, int]:
        return {}

    def close(self) -> None:
        try:
            self.env.close()
        except Exception as error:
            logger.warning("closing the environments failed: %r", error)


class _ChildGroup(_Group):
    """Slots that are stepped together, each in a child process."""

    def _open(self, factories: Sequence[Factory], shareable: bool) -> Any:
        mode = AutoresetMode.DISABLED
        spaces = factories[0]()  # In this process a factory gives the spaces only.
        env: AsyncVectorEnv
        if shareable and _fixed_size(spaces.action_space) and can_gate():
            env = ChildVectorEnv(factories, spaces.action_space, START_METHOD)
        else:
            env = AsyncVectorEnv(
                factories, shared_memory=shareable, copy=False, context=START_METHOD, autoreset_mode=mode
            )
        self._poller = select.poll()
        self._silent: set[int] = set()
        return env

    def _start(self, name: str, *arguments: Any, **keywords: Any) -> None:
        try:
            getattr(self.env, f"{name}_async")(*arguments, **keywords)
        except Exception as error:  # A child that died already: `receive` tells, and the others were asked nothing.
            self.call, self._silent = functools.partial(_raise, error), set()
            return
        self.call = getattr(self.env, f"{name}_wait")
        if self._steps_through_gate():
            return
        self._silent = {pipe.fileno() for pipe in self.env.parent_pipes}
        for pipe in self._silent:
            self._poller.register(pipe, select.POLLIN)

    def _steps_through_gate(self) -> bool:
        return isinstance(self.env, ChildVectorEnv) and self.env.is_stepping

    def done(self, timeout_ms: int) -> bool:
        """Return whether every child has answered, or died, after waiting for one that has not."""
        if self._steps_through_gate():
            return bool(self.env.await_step(timeout_ms))
        if self._silent:
            for pipe, _ in self._poller.poll(timeout_ms):
                self._poller.unregister(pipe)
                self._silent.discard(pipe)
        return not self._silent

    def awaits(self) -> dict[int, int]:
        """Return the descriptors, and their events, of which one has news before the group is done."""
        if self._steps_through_gate():
            reports, pipes = self.env.descriptors()
            return {reports: select.POLLIN, **dict.fromkeys(pipes, 0)}
        return dict.fromkeys(self._silent, select.POLLIN)

    def reads(self, descriptor: int) -> bool:
        """Whether reports of several children arrive at a descriptor."""
        return self._steps_through_gate() and descriptor == self.env.descriptors()[0]

    def _dead_children(self) -> dict[int, int]:
        """Return the exit codes of the children that died by themselves, by slot."""
        sentinels = [process.sentinel for process in self.env.processes]
        multiprocessing.connection.wait(sentinels, timeout=CULPRIT_S)
        codes = zip(self.slots, (process.exitcode for process in self.env.processes), strict=True)
        return {slot: code for slot, code in codes if code is not None}

    def close(self) -> None:
        """Close the environments; children that may not answer any more are killed: asking could take for ever."""
        if self.call is None:
            try:
                self.env.close()
                return
            except Exception as error:
                logger.warning("closing the environments failed: %r", error)
        for process in self.env.processes:
            process.kill()
            process.join(timeout=CHILD_EXIT_S)
        for pipe in self.env.parent_pipes:
            if pipe is not None:
                pipe.close()
        if isinstance(self.env, ChildVectorEnv):
            self.env.let_go()
        self.env.closed = True


def _first_done(groups: Sequence[_Group]) -> _Group:
    """Wait for the group whose children have all answered first; one in this process answers when it is asked."""
    if len(groups) == 1:
        return groups[0]
    poller: Any = None
    while True:
        for group in groups:
            if not isinstance(group, _ChildGroup) or group.done(0):
                return group
        if poller is None:
            poller = select.poll()
            for group in groups:
                for descriptor, events in group.awaits().items() if isinstance(group, _ChildGroup) else ():
                    poller.register(descriptor, events)
        for descriptor, event in poller.poll():
            if event != select.POLLIN or not any(group.reads(descriptor) for group in groups):
                poller.unregister(descriptor)  # It has no more news.


def _raise(error: Exception) -> NoReturn:
    raise error


def _death(code: int, *_: int) -> ChildProcessError:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return ChildProcessError(f"the environment's process ended with {how}")


def _in_parallel(open_group: Callable[[int], _Group], indices: range) -> list[_Group]:
    """Build groups beside each other; if one fails, close the others."""
    if len(indices) == 1:
        return [open_group(0)]
    with ThreadPoolExecutor(len(indices)) as threads:
        futures = [threads.submit(open_group, index) for index in indices]
    broken = [future.exception() for future in futures if future.exception() is not None]
    if broken:
        for future in futures:
            if future.exception() is None:
                future.result().close()
        raise broken[0]  # type: ignore[misc]
    return [future.result() for future in futures]


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
