"""Until when each running chunk must be heard of: the only place where the driver looks at the time of workers."""

from __future__ import annotations

import time
from collections.abc import Iterator

from arena_ray.dispatch import Chunk
from arena_ray.records import EpisodeRecord
from arena_ray.specs import RunSettings
from arena_ray.worker_events import Delivering, EpisodesReturned, EpisodeStarted, Event, Progress, WorkerReady

#: All running chunks are looked at no more often than that, seconds: there may be thousands.
LOOK_S = 0.1


class Deadlines:
    """Watches running chunks: for their start, for silence, and for whole episodes.

    Args:
        settings: With `start_timeout`, `stall_timeout` and `episode_timeout`, seconds.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._submitted: dict[tuple[str, int], tuple[Chunk, float]] = {}
        self._building: dict[tuple[str, int], tuple[Chunk, float]] = {}
        self._heard: dict[tuple[str, int], tuple[Chunk, float, int]] = {}
        self._episodes: dict[tuple[str, int], dict[int, float]] = {}
        self._given_up: set[tuple[str, int]] = set()
        self._looked_at = -LOOK_S

    def submitted(self, chunk: Chunk) -> None:
        """Note that a chunk was handed to the pool; its worker may wait for its resources, or hang."""
        self._given_up.discard(_key(chunk))
        self._submitted[_key(chunk)] = (chunk, time.monotonic())

    def arrived(self, chunk: Chunk) -> None:
        """Note that a worker has a chunk and begins to build."""
        self._submitted.pop(_key(chunk), None)
        if _key(chunk) not in self._episodes:
            self._building[_key(chunk)] = (chunk, time.monotonic())
            self._episodes[_key(chunk)] = {}

    def heard(self, chunk: Chunk, item: Event) -> None:
        """Note what a worker said."""
        key, now = _key(chunk), time.monotonic()
        if key in self._given_up:
            return  # What it said before it is ended changes nothing any more.
        if isinstance(item, WorkerReady):
            self._building.pop(key, None)
            self._heard[key] = (chunk, now, -1)
        elif isinstance(item, Progress):
            if item.steps > self._heard.get(key, (chunk, now, -1))[2]:
                self._heard[key] = (chunk, now, item.steps)
        elif isinstance(item, EpisodeStarted):
            self._episodes[key][item.episode] = now
        elif isinstance(item, Delivering) and key in self._heard:
            self._heard[key] = (chunk, now, self._heard[key][2])
            for episode in item.episodes:
                self._episodes[key].pop(episode, None)
        elif isinstance(item, EpisodesReturned):
            for episode in item.episodes:
                self._episodes[key].pop(episode, None)
        elif isinstance(item, EpisodeRecord):
            self._episodes.get(key, {}).pop(item.episode, None)

    def shift(self, seconds: float) -> None:
        """Put every deadline off: for so long nobody has listened."""
        if not seconds:
            return
        self._submitted = {key: (chunk, since + seconds) for key, (chunk, since) in self._submitted.items()}
        self._building = {key: (chunk, since + seconds) for key, (chunk, since) in self._building.items()}
        self._heard = {key: (chunk, since + seconds, steps) for key, (chunk, since, steps) in self._heard.items()}
        for started in self._episodes.values():
            started.update({episode: since + seconds for episode, since in started.items()})

    @property
    def anybody_works(self) -> bool:
        """Whether any worker has arrived where it runs its chunk."""
        return bool(self._building or self._heard)

    def over(self, chunk: Chunk) -> None:
        """Forget a chunk."""
        self._given_up.discard(_key(chunk))
        for table in (self._submitted, self._building, self._heard, self._episodes):
            table.pop(_key(chunk), None)

    def passed(self) -> Iterator[tuple[Chunk, str, str]]:
        """Yield the chunks whose deadline has passed, once each: chunk, cause, message; looks every `LOOK_S`."""
        now, settings = time.monotonic(), self._settings
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        for chunk, since in list(self._submitted.values()):
            if now - since > settings.start_timeout:
                del self._submitted[_key(chunk)]
                yield self._give_up(chunk, "start_timeout", f"nothing heard of it for {settings.start_timeout:g} s")
        for chunk, since in list(self._building.values()):
            if now - since > settings.start_timeout:
                yield self._give_up(chunk, "start_timeout", f"not built after {settings.start_timeout:g} s")
        for chunk, since, _ in list(self._heard.values()):
            late = None if settings.episode_timeout is None else self._late_episode(chunk, now)
            if late is not None:
                message = f"episode {late} took longer than {settings.episode_timeout:g} s"
                yield self._give_up(chunk, "episode_timeout", message)
            elif now - since > settings.stall_timeout:
                yield self._give_up(chunk, "stalled", f"no environment step for {settings.stall_timeout:g} s")

    def _late_episode(self, chunk: Chunk, now: float) -> int | None:
        limit = self._settings.episode_timeout
        started = self._episodes.get(_key(chunk), {})
        if limit is None:
            return None
        return next((episode for episode, since in started.items() if now - since > limit), None)

    def _give_up(self, chunk: Chunk, cause: str, message: str) -> tuple[Chunk, str, str]:
        self._building.pop(_key(chunk), None)
        self._heard.pop(_key(chunk), None)
        self._given_up.add(_key(chunk))
        return chunk, cause, message


def _key(chunk: Chunk) -> tuple[str, int]:
    return chunk.job.name, chunk.index
