"""Gymnasium's `AsyncVectorEnv` with a cheaper step.

Its steps pickle every action, reward and info through a pipe, which with 64 slots takes the worker as long as a policy
does. Here actions travel in shared memory as observations do, one write opens the gate for all children, and their
reports, three bytes each, come through one pipe. Everything else (reset, calls, errors, closing) is Gymnasium's own.
"""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.reduction
import os
import pickle
import select
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from arena_ray.envs.base import as_batch, row_of

#: A child's report of a step: its index, and whether its pipe has something to read (an info, an error).
_REPORT = struct.Struct("<HB")

#: Bytes to read of the reports at once.
_READ_BYTES = 4096

_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def can_gate() -> bool:
    """Return whether this system has what opens the gate (Linux)."""
    return hasattr(os, "eventfd")


class ChildVectorEnv(AsyncVectorEnv):
    """Environments in child processes whose steps cost their parent little.

    They are `EpisodeSlot`s: to the vector environment no episode ever ends, and no step has a reward.

    A step opens one of two gates, in turn: an `eventfd` that lets as many children through as there are. By the time
    the same gate is opened again every child has passed the other, so that none can pass twice.

    Args:
        factories: Build the environment of each slot.
        action_space: Of one slot; of elements of one size, as is the observation space.
        context: How children are started.
    """

    def __init__(
        self,
        factories: Sequence[Callable[[], gymnasium.Env[Any, Any]]],
        action_space: gymnasium.Space[Any],
        context: str,
    ) -> None:
        size = len(factories)
        processes = multiprocessing.get_context(context)
        shared = create_shared_memory(action_space, n=size, ctx=processes)  # type: ignore[arg-type]
        self._next_actions = read_from_shared_memory(action_space, shared, n=size)
        self._gates = [_Gate(), _Gate()]
        self._turn = 0
        self._reports, reporting = processes.Pipe(duplex=False)
        os.set_blocking(self._reports.fileno(), False)
        self._awaited: set[int] = set()
        self._told: list[int] = []
        try:
            super().__init__(
                factories,
                shared_memory=True,
                copy=False,
                context=context,
                worker=functools.partial(_serve, actions=shared, num_envs=size, gates=self._gates, reports=reporting),
                autoreset_mode=AutoresetMode.DISABLED,
            )
        finally:
            reporting.close()
        self._poll = select.poll()
        self._poll.register(self._reports, select.POLLIN)
        self._index_of = {pipe.fileno(): index for index, pipe in enumerate(self.parent_pipes)}
        for pipe in self._index_of:
            self._poll.register(pipe, 0)  # Only its end is of interest.

    def step_async(self, actions: Any) -> None:
        """Write the actions where the children see them, and tell these to step."""
        self._assert_is_running()
        _write(self._next_actions, as_batch(actions, self.single_action_space))
        self._awaited, self._told = set(range(self.num_envs)), []
        self._state = AsyncState.WAITING_STEP
        self._gates[self._turn].let_through(self.num_envs)
        self._turn = 1 - self._turn

    @property
    def is_stepping(self) -> bool:
        """Whether a step is under way."""
        return self._state is AsyncState.WAITING_STEP

    def descriptors(self) -> tuple[int, list[int]]:
        """Return what to wait for during a step: where reports arrive, and the pipes whose end is a child's."""
        return self._reports.fileno(), [*self._index_of]

    def await_step(self, timeout_ms: float | None) -> bool:
        """Wait for news once; return whether every child has stepped or died. ``None``: as long as it takes."""
        if self._awaited and self._hear(self._poll.poll(timeout_ms)):
            self._read_reports()  # What the dead had said before.
        return not self._awaited

    def _hear(self, news: list[tuple[int, int]]) -> bool:
        """Take in reports; return whether a child has died, of which nothing more will come."""
        dead = [descriptor for descriptor, event in news if descriptor in self._index_of and event & _GONE]
        self._read_reports()
        for descriptor in dead:
            self._poll.unregister(descriptor)
            index = self._index_of[descriptor]
            if index in self._awaited:
                self._awaited.discard(index)
                self._told.append(index)  # Reading its pipe says how it is.
        return bool(dead)

    def _read_reports(self) -> None:
        try:
            reports = os.read(self._reports.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        for index, has_more in _REPORT.iter_unpack(reports):
            self._awaited.discard(index)
            if has_more:
                self._told.append(index)

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Wait for the children; rewards are zero, and nothing is terminated or truncated."""
        self._assert_is_running()
        until = None if timeout is None else time.monotonic() + timeout
        while not self.await_step(None if until is None else max(0.0, 1e3 * (until - time.monotonic()))):
            if until is not None and time.monotonic() > until:
                raise multiprocessing.TimeoutError(f"a step takes longer than {timeout} s")
        infos: dict[str, Any] = {}
        successes = [True] * self.num_envs
        for index in sorted(set(self._told)):
            info, successes[index] = pickle.loads(self.parent_pipes[index].recv_bytes())
            if successes[index]:
                infos = self._add_info(infos, info, index)
        self._raise_if_errors(successes)
        self._state = AsyncState.DEFAULT
        return self.observations, self._zeros(np.float64), self._zeros(np.bool_), self._zeros(np.bool_), infos

    def _zeros(self, dtype: type[Any]) -> npt.NDArray[Any]:
        return np.zeros(self.num_envs, dtype=dtype)

    def let_go(self) -> None:
        """Close gates and reports; the children are gone."""
        self._reports.close()
        for gate in self._gates:
            gate.close()

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End the children, as Gymnasium does, and close gates and reports."""
        try:
            super().close_extras(timeout=timeout, terminate=terminate)
        finally:
            self.let_go()


class _Gate:
    """Lets a number of processes through, in any order; may be sent to a child while that is started."""

    def __init__(self, descriptor: int | None = None) -> None:
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE
        self._descriptor = os.eventfd(0, flags) if descriptor is None else descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received_gate, (multiprocessing.reduction.DupFd(self._descriptor),)

    def fileno(self) -> int:
        """Return the descriptor, which can be read while the gate is open."""
        return self._descriptor

    def let_through(self, count: int) -> None:
        """Let so many pass."""
        os.eventfd_write(self._descriptor, count)

    def passed(self) -> bool:
        """Pass if the gate is open; return whether it was."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _received_gate(duplicate: Any) -> _Gate:
    return _Gate(duplicate.detach())


def _write(target: Any, source: Any) -> None:
    """Copy a batch into arrays of the same structure."""
    if isinstance(target, dict):
        for key, part in target.items():
            _write(part, source[key])
    elif isinstance(target, tuple):
        for part, values in zip(target, source, strict=True):
            _write(part, values)
    else:
        np.copyto(target, source)


def _serve(
    index: int,
    env_fn: Any,
    pipe: Any,
    parent_pipe: Any,
    observations: Any,
    *rest: Any,
    actions: Any,
    num_envs: int,
    gates: Sequence[_Gate],
    reports: Any,
) -> None:
    """Run in a child: Gymnasium's worker, with a pipe that answers steps by itself."""
    steps = _StepServer(index, pipe, observations, actions, num_envs, gates, reports)
    _async_worker(index, lambda: steps.build(env_fn), steps, parent_pipe, observations, *rest)  # type: ignore[arg-type]


class _StepServer:
    """A child's end of the pipe, which steps the environment when the gate opens."""

    def __init__(
        self,
        index: int,
        pipe: Any,
        observations: Any,
        actions: Any,
        num_envs: int,
        gates: Sequence[_Gate],
        reports: Any,
    ) -> None:
        self._index, self._pipe = index, pipe
        self._observations, self._shared_actions, self._num_envs = observations, actions, num_envs
        self._gates, self._reports, self._turn = gates, reports, 0
        self._polls = [select.poll(), select.poll()]
        for poll, gate in zip(self._polls, gates, strict=True):
            poll.register(pipe, select.POLLIN)
            poll.register(gate, select.POLLIN)
        self._is_stepping = False
        self._env: Any = None
        self.close = pipe.close

    def build(self, env_fn: Callable[[], Any]) -> Any:
        """Build the environment that steps."""
        self._env = env_fn()
        self._actions = read_from_shared_memory(self._env.action_space, self._shared_actions, n=self._num_envs)
        return self._env

    def send(self, message: Any) -> None:
        """Answer; a step that raised is answered so, too."""
        self._pipe.send(message)
        if self._is_stepping:
            self._report(True)

    def recv(self) -> Any:
        """Step until something else is asked for; return that."""
        while True:
            gate = self._gates[self._turn]
            ready = [descriptor for descriptor, _ in self._polls[self._turn].poll()]
            if gate.fileno() in ready and gate.passed():
                self._turn = 1 - self._turn
                self._step()
            elif self._pipe.fileno() in ready:
                return self._pipe.recv()

    def _step(self) -> None:
        self._is_stepping = True
        observation, _, _, _, info = self._env.step(row_of(self._actions, self._index))
        write_to_shared_memory(self._env.observation_space, self._index, observation, self._observations)
        if info:
            self._pipe.send_bytes(pickle.dumps((info, True)))
        self._report(bool(info))
        self._is_stepping = False

    def _report(self, has_more: bool) -> None:
        os.write(self._reports.fileno(), _REPORT.pack(self._index, has_more))
