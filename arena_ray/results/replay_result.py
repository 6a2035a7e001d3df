"""What replaying episodes of a run came to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from arena_ray.records import EpisodeReplay
from arena_ray.results import table
from arena_ray.results.run_result import RunResult

#: A message or a table names so many episodes or videos.
_SHOWN = 20


@dataclasses.dataclass(frozen=True, repr=False)
class ReplayResult:
    """What a replay came to. `print` shows a table.

    Attributes:
        run_dir: The run directory.
        job: Name of the job.
        replays: What each episode came to, in episode order.
        missing: Chosen episodes that were not run to an end.
        result: The whole run, with the videos that were added.
        notes: What limits the replay, e.g. an environment that ignores its seed.
        error: Why episodes are missing, if it was not a signal.
        signal: The signal that ended the replay early, or ``None``.
    """

    run_dir: Path
    job: str
    replays: tuple[EpisodeReplay, ...]
    missing: tuple[int, ...]
    result: RunResult
    notes: tuple[str, ...] = ()
    error: str | None = None
    signal: int | None = None

    @property
    def equal(self) -> bool:
        """Whether every chosen episode was run again and came to what its record says."""
        return not self.missing and all(replay.equal for replay in self.replays)

    def video_paths(self) -> list[Path]:
        """Return what was recorded, in episode order, also of episodes that came to something else."""
        return [self.run_dir / video.path for replay in self.replays for video in replay.videos]

    def problems(self) -> list[str]:
        """Return what is not as it should be, a line for each episode."""
        lines = [_difference_line(replay) for replay in self.replays if not replay.equal]
        hints = [f"this was to be expected: {note}" for note in self.notes] if lines else []
        reason = "" if self.error is None else f": {self.error}"
        missing = [f"not replayed: {named(self.missing)}{reason}"] if self.missing else []
        return [*lines, *hints, *missing]

    def _lines(self) -> Iterator[str]:
        equal = sum(replay.equal for replay in self.replays)
        yield f"replayed {len(self.replays)} of {len(self.replays) + len(self.missing)} episodes, {equal} equal"
        paths = [video.path for replay in self.replays for video in replay.videos]
        yield from (f"  {path}" for path in paths[:_SHOWN])
        if len(paths) > _SHOWN:
            yield f"  and {len(paths) - _SHOWN} videos more"

    def _job_result(self) -> RunResult:
        return dataclasses.replace(self.result, jobs={self.job: self.result.jobs[self.job]})

    def __str__(self) -> str:
        return "\n".join([table.text(self._job_result()), "", *self._lines()])

    __repr__ = __str__


def named(episodes: Sequence[int]) -> str:
    """Return episodes in words, e.g. ``episodes 3, 7``."""
    names = [str(episode) for episode in episodes[:_SHOWN]]
    more = f" and {len(episodes) - _SHOWN} more" if len(episodes) > _SHOWN else ""
    return f"episode{'s' if len(episodes) > 1 else ''} {', '.join(names)}{more}"


def _difference_line(replay: EpisodeReplay) -> str:
    pairs = [
        f"{key} {json.dumps(new)}, recorded was {json.dumps(old)}" for key, (old, new) in replay.differences.items()
    ]
    return f"episode {replay.episode}: {'; '.join(pairs)}"
