"""What a job's records come to, in a few bytes per episode."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from arena_ray import statistics
from arena_ray.records import EpisodeRecord, Metric
from arena_ray.results.usage import UsageTally
from arena_ray.specs import EvalJob

_STATUSES = ("completed", "error", "timeout")
_NOT_SAID = -1


class JobTally:
    """The columns of a job's records that a summary needs.

    Records may come in any order; where an episode has several, the newest counts, as in ``episodes.jsonl``.

    Args:
        metric_names: Names of the job's own metrics.

    Attributes:
        usage: Where the time of its chunks went.
    """

    def __init__(self, metric_names: Iterable[str]) -> None:
        self._episode = array("q")
        self._status = array("b")
        self._success = array("b")
        self._return = array("d")
        self._length = array("d")
        self._metrics = {name: array("d") for name in metric_names}
        self._videos: dict[int, tuple[str, ...]] = {}
        self._errors: dict[int, str] = {}
        self.usage = UsageTally()

    def add(self, record: EpisodeRecord) -> None:
        """Add a record."""
        self._episode.append(record.episode)
        self._status.append(_STATUSES.index(record.status))
        self._success.append(_NOT_SAID if record.success is None else int(record.success))
        self._return.append(_number(record.episode_return))
        self._length.append(_number(record.length))
        for name, column in self._metrics.items():
            column.append(_number(record.metrics.get(name)))
        self._errors.pop(record.episode, None)
        if record.error is not None:
            self._errors[record.episode] = f"{record.error.type}: {record.error.message}"
        paths = tuple(video.path for video in record.videos if video.bytes)
        if paths or record.episode in self._videos:
            self._videos[record.episode] = paths

    def counts(self) -> dict[str, int]:
        """Return the number of episodes by status."""
        status = np.array(self._status, dtype=np.int8)[self._newest()]
        return {name: int(np.count_nonzero(status == code)) for code, name in enumerate(_STATUSES)}

    def first_error(self) -> str | None:
        """Return the error of the first episode that has one: the same however the episodes were run."""
        if not self._errors:
            return None
        episode = min(self._errors)
        others = f" (and {len(self._errors) - 1} more)" if len(self._errors) > 1 else ""
        return f"episode {episode}: {self._errors[episode]}{others}"

    def metrics(self) -> dict[str, Metric]:
        """Return every metric of the completed episodes, `success_rate`, `return` and `length` first."""
        rows = self._completed()
        columns = {"return": self._return, "length": self._length, **self._metrics}
        return {
            "success_rate": statistics.success_rate(self._outcomes(rows)),
            **{name: statistics.mean(_finite(np.array(column)[rows])) for name, column in columns.items()},
        }

    def videos(self) -> list[str]:
        """Return the paths of all videos, relative to the run directory, in episode order."""
        return [path for episode in sorted(self._videos) for path in self._videos[episode]]

    def _newest(self) -> npt.NDArray[np.intp]:
        """Return the row of each episode's newest record, in episode order."""
        episode = np.array(self._episode, dtype=np.int64)
        _, last_from_end = np.unique(episode[::-1], return_index=True)
        return len(episode) - 1 - last_from_end

    def _completed(self) -> npt.NDArray[np.intp]:
        newest = self._newest()
        completed: npt.NDArray[np.intp] = newest[np.array(self._status, dtype=np.int8)[newest] == 0]
        return completed

    def _outcomes(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        success = np.array(self._success, dtype=np.int8)[rows]
        outcomes: npt.NDArray[np.bool_] = success[success != _NOT_SAID].astype(np.bool_)
        return outcomes


def tallies_for(jobs: Iterable[EvalJob]) -> dict[str, JobTally]:
    """Return an empty tally for each job, by name."""
    return {job.name: JobTally(metric.key for metric in job.metrics) for job in jobs}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    finite: npt.NDArray[np.float64] = values[np.isfinite(values)]
    return finite
