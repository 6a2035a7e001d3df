"""Recorders inside the sub-environments of a vector environment.

From outside, a vector environment that resets itself no longer shows the terminal frame; inside it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from arena_ray.records import VideoFile
from arena_ray.video.encoder import Encoder, EncoderError, VideoFormat

logger = logging.getLogger(__name__)

_LEFT_BEHIND = "arena_ray_videos"


class NoBackend:
    """What a recorder has for a backend whose videos others write."""

    def open(self, path: Path, video_format: VideoFormat) -> Encoder:
        """Refuse: such a recorder has no frames."""
        raise EncoderError("the sub-environments' recorders write the videos")

    def close(self) -> None:
        """Do nothing."""


class SubEnvRecorders(Protocol):
    """Reaches the recorder of each sub-environment."""

    def call(self, index: int, name: str, *arguments: Any) -> Any:
        """Call a method of the recorder of sub-environment `index`; ``None`` if it cannot be reached any more."""

    def left_behind(self, error: BaseException) -> tuple[tuple[int, VideoFile], ...]:
        """Return the reports, with their slots, of recorders that an exception has put out of reach."""

    def recording_s(self) -> float:
        """Return how much wall time of a batched step recording has taken so far, seconds."""


class InProcessRecorders:
    """Wraps the sub-environments of a `SyncVectorEnv` in place.

    Args:
        vector_env: The vector environment, not reset yet.
        wrap: ``(sub-environment, index) -> recorder``.
    """

    def __init__(self, vector_env: SyncVectorEnv[Any, Any], wrap: Callable[[Any, int], Any]) -> None:
        self._recorders = [wrap(env, index) for index, env in enumerate(vector_env.envs)]
        vector_env.envs = list(self._recorders)

    def call(self, index: int, name: str, *arguments: Any) -> Any:
        """Call a method of the recorder of sub-environment `index`."""
        return getattr(self._recorders[index], name)(*arguments)

    def left_behind(self, error: BaseException) -> tuple[tuple[int, VideoFile], ...]:
        """Return nothing: every recorder stays within reach."""
        return ()

    def recording_s(self) -> float:
        """Return what all of them took: they record one after the other."""
        return float(sum(recorder.recording_s for recorder in self._recorders))


class ChildProcessRecorders:
    """Starts the processes of an `AsyncVectorEnv` again, with a recorder inside each.

    Args:
        vector_env: The vector environment, not reset yet; stays the same object.
        wrap: ``(sub-environment, index) -> recorder``; is pickled with cloudpickle.
    """

    def __init__(self, vector_env: AsyncVectorEnv[Any, Any], wrap: Callable[[Any, int], Any]) -> None:
        self._vector_env: Any = vector_env
        self._lost: set[int] = set()
        self._recording_s = [0.0] * vector_env.num_envs
        _start_again(vector_env, [_RecordedEnvFn(fn, index, wrap) for index, fn in enumerate(vector_env.env_fns)])

    def call(self, index: int, name: str, *arguments: Any) -> Any:
        """Call a method of the recorder in child `index`; ``None`` if the child is gone or busy with a step."""
        answer = self._ask(index, name, *arguments)
        if name == "take_videos":
            self._recording_s[index] = self._ask(index, "recording_s") or self._recording_s[index]
        return answer

    def recording_s(self) -> float:
        """Return the mean of what was known when videos were taken last: they record beside each other."""
        return sum(self._recording_s) / len(self._recording_s)

    def _ask(self, index: int, name: str, *arguments: Any) -> Any:
        """Return an attribute of the recorder in a child; what it returns, if that is a method."""
        pipe = self._vector_env.parent_pipes[index]
        if self._vector_env.closed or pipe is None or pipe.closed or self._vector_env._state.value != "default":
            return None
        try:
            pipe.send(("_call", (name, arguments, {})))
            answer, succeeded = pipe.recv()
        except (OSError, EOFError) as error:
            self._say_lost(index, error)
            return None
        return answer if succeeded else None

    def left_behind(self, error: BaseException) -> tuple[tuple[int, VideoFile], ...]:
        """Return what the child that raised had recorded; `AsyncVectorEnv` raises a copy around the original."""
        for origin in (error, *error.args):
            videos = getattr(origin, _LEFT_BEHIND, None)
            if videos is not None:
                return tuple(videos)
        return ()

    def _say_lost(self, index: int, error: Exception) -> None:
        if index not in self._lost:
            self._lost.add(index)
            logger.warning(
                "the process of sub-environment %d is gone (%s); its unfinished videos stay under their partial names",
                index,
                type(error).__name__,
            )


@dataclasses.dataclass(frozen=True)
class _RecordedEnvFn:
    env_fn: Callable[[], Any]
    index: int
    wrap: Callable[[Any, int], Any]

    def __call__(self) -> gymnasium.Env[Any, Any]:
        return _LeavesReports(self.wrap(self.env_fn(), self.index), self.index)


class _LeavesReports(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper in a child process: leaves nothing behind unsaid or removed when the process ends.

    Reports travel with an exception, because the process ends with it. A close while videos run means that the parent
    is gone (`VideoRecorder.close` ends the recording before the processes), so they are kept.
    """

    def __init__(self, recorder: Any, slot: int) -> None:
        super().__init__(recorder)
        self._slot = slot

    def step(self, action: Any) -> Any:
        try:
            return self.env.step(action)
        except BaseException as error:
            self._leave_reports(error)
            raise

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        try:
            return self.env.reset(seed=seed, options=options)
        except BaseException as error:
            self._leave_reports(error)
            raise

    def close(self) -> None:
        recorder: Any = self.env
        recorder.keep_running_videos()
        recorder.close()

    def _leave_reports(self, error: BaseException) -> None:
        recorder: Any = self.env
        with contextlib.suppress(AttributeError):  # an exception class with __slots__
            setattr(error, _LEFT_BEHIND, [(self._slot, video) for video in recorder.take_videos(self._slot)])


def _start_again(vector_env: AsyncVectorEnv[Any, Any], env_fns: list[Callable[[], Any]]) -> None:
    accepted = inspect.signature(AsyncVectorEnv.__init__).parameters
    settings = {name: getattr(vector_env, name) for name in accepted if name in vars(vector_env)}
    vector_env.close()
    vector_env.closed = False
    try:
        AsyncVectorEnv.__init__(vector_env, **{**settings, "env_fns": env_fns})
    except BaseException:
        vector_env.closed = True
        raise
