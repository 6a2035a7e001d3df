"""A sub-environment that runs one ticketed episode at a time and tells its outcome through `info`.

It lives where the environment lives: in the worker's process, or in a child process of `AsyncVectorEnv`. So an
exception of one environment ends one episode only, a slot without a ticket is not stepped, and nothing but the outcome
crosses the pipe.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium.vector.utils import create_empty_array, iterate

from arena_ray.envs.base import Outcome, Ticket, describe_error
from arena_ray.envs.episode_tracker import EpisodeTracker
from arena_ray.records import EpisodeError, VideoFile
from arena_ray.specs import MetricSpec, SuccessSpec
from arena_ray.video import video_recorders

#: Key of `options` that carries the tickets of a reset: a mapping from slot to `Ticket`.
TICKETS = "arena_ray.tickets"

#: Key of `info` that carries the `Outcome` of an episode that ended.
OUTCOME = "arena_ray.outcome"

ResultT = TypeVar("ResultT")

SeedHook = Callable[[gymnasium.Env[Any, Any], int], object]


class EpisodeSlot(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Runs one ticketed episode at a time.

    Args:
        make: Builds the environment.
        record: Wraps it in the video recorders; returns it unchanged when nothing is recorded.
        slot: Index of the slot.
        success: Where success stands.
        metrics: The job's metrics.
        seed_hook: Called as ``seed_hook(env, seed)`` before every reset.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        record: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]],
        slot: int,
        success: SuccessSpec,
        metrics: tuple[MetricSpec, ...],
        seed_hook: SeedHook | None = None,
    ) -> None:
        self._make, self._record = make, record
        self._bare = make()
        super().__init__(record(self._bare))
        self._slot = slot
        self._success, self._metrics = success, metrics
        self._seed_hook = seed_hook
        self._broken = False
        self._tracker: EpisodeTracker | None = None
        self._recorded_before_s = 0.0
        self._observation = _zeros(self.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the episode of this slot's ticket; without a ticket, rest at no cost."""
        tickets: Mapping[int, Ticket] = (options or {}).get(TICKETS, {})
        ticket = tickets.get(self._slot)
        if ticket is None:
            self._tracker = None
            return self._observation, {}
        self._tracker = EpisodeTracker(ticket, self._success, self._metrics)
        self._recorded_before_s = self._recorders_s()
        try:
            self._replace_if_broken()
            for recorder in video_recorders(self.env):
                recorder.assign_episodes({self._slot: ticket.episode}, ticket.attempt)
            self._observation = self._timed(self._tracker, lambda: self._seeded_reset(self.env, ticket.seed))
        except Exception as error:
            return self._observation, {OUTCOME: self._failed(describe_error(error))}
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the episode; at its end `info` holds its outcome, and the slot rests: it is not stepped.

        To the vector environment no episode ever ends, so that it has nothing to reset.
        """
        tracker = self._tracker
        if tracker is None:
            return self._observation, 0.0, False, False, {}
        started = time.perf_counter()
        try:
            self._observation, reward, terminated, truncated, info = self.env.step(action)
            tracker.busy_s += time.perf_counter() - started
            tracker.step(float(reward), info)
        except Exception as error:
            return self._observation, 0.0, False, False, {OUTCOME: self._failed(describe_error(error))}
        if not (terminated or truncated):
            return self._observation, 0.0, False, False, {}
        videos = self._last_part(tracker, lambda: self._videos(tracker.success))
        outcome = tracker.outcome(bool(terminated), bool(truncated), videos)
        self._tracker = None
        return self._observation, 0.0, False, False, {OUTCOME: outcome}

    def probe_seeding(self, seed: int, slot: int) -> bool:
        """Return whether two resets with one seed gave the same observation; True in every slot but the one asked."""
        if slot != self._slot:
            return True
        try:
            first, second = (self._seeded_reset(self._bare, seed) for _ in range(2))
        except Exception:
            self._broken = True  # The episode itself will meet the same error, and be the one that reports it.
            return True
        return same(first, second)

    def discard(self, slot: int) -> None:
        """Give up this slot's episode: no outcome, no video."""
        if slot == self._slot:
            self._tracker = None
            for recorder in video_recorders(self.env):
                recorder.discard_episode(slot)

    def abort(self, slot: int) -> tuple[VideoFile, ...]:
        """Give up this slot's episode, which broke outside; return its partial videos."""
        if slot != self._slot:
            return ()
        self._tracker = None
        return self._partial_videos()

    def _seeded_reset(self, env: gymnasium.Env[Any, Any], seed: int) -> Any:
        env.action_space.seed(seed)
        if self._seed_hook is not None:
            self._seed_hook(env, seed)
        return env.reset(seed=seed)[0]

    def _replace_if_broken(self) -> None:
        """Build the environment anew after it raised: an episode must not depend on what broke before it."""
        if not self._broken:
            return
        with contextlib.suppress(Exception):  # It broke already; what counts is the new one.
            self.env.close()
        self._bare = self._make()
        self.env = self._record(self._bare)
        self._recorded_before_s = 0.0
        self._broken = False

    def _failed(self, error: EpisodeError) -> Outcome:
        tracker = self._tracker
        assert tracker is not None
        outcome = tracker.failure(error, self._last_part(tracker, self._partial_videos))
        self._tracker = None
        self._broken = True
        return outcome

    def _timed(self, tracker: EpisodeTracker, call: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """Call, and count the time as the episode's; what raises took time too."""
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            tracker.busy_s += time.perf_counter() - started

    def _last_part(self, tracker: EpisodeTracker, take_videos: Callable[[], ResultT]) -> ResultT:
        """Take the episode's videos, after which its times are complete."""
        videos = self._timed(tracker, take_videos)
        tracker.recording_s = self._recorders_s() - self._recorded_before_s
        return videos

    def _recorders_s(self) -> float:
        return sum(recorder.recording_s for recorder in video_recorders(self.env))

    def _videos(self, success: bool | None = None) -> tuple[VideoFile, ...]:
        recorders = video_recorders(self.env)
        return tuple(video for recorder in recorders for video in recorder.take_videos(self._slot, success))

    def _partial_videos(self) -> tuple[VideoFile, ...]:
        for recorder in video_recorders(self.env):
            recorder.abort_episode(self._slot)
        return self._videos()


def same(first: Any, second: Any) -> bool:
    """Return whether two observations are equal; NaN equals NaN."""
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(same(one, other) for one, other in zip(first, second, strict=True))
    if hasattr(first, "detach"):
        first, second = first.detach().cpu().numpy(), second.detach().cpu().numpy()
    one, other = np.asarray(first), np.asarray(second)
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc" and other.dtype.kind in "fc"))


def _zeros(space: gymnasium.Space[Any]) -> Any:
    """Return an element that stands in until the first reset; nobody acts on it."""
    batch = create_empty_array(space, n=1, fn=np.zeros)
    return next(iter(iterate(gymnasium.vector.utils.batch_space(space, 1), batch)))
