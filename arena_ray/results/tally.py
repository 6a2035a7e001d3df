"""What a job's records come to, in a few bytes per episode."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import numpy.typing as npt

from arena_ray import statistics
from arena_ray.records import EpisodeRecord, EpisodeStatus, Metric
from arena_ray.results.aggregate import JobSamples, metrics_of
from arena_ray.results.usage import UsageTally
from arena_ray.specs import EvalJob, StopWhen
from arena_ray.stopping import Stopped, StopRule

_STATUSES = ("completed", "error", "timeout")
_NOT_SAID = -1


#: What stands for a seed that nobody knows.
NO_SEED = -1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobColumns:
    """A job's episodes that count, one row each, in episode order; of several records of an episode the newest.

    Attributes:
        episode: ``int64[n]``.
        seed: ``int64[n]``; `NO_SEED` where the environment started the episode by itself.
        completed: ``bool[n]``; the others are ``error`` or ``timeout``.
        success: ``int8[n]``: 1, 0, or -1 where nobody said.
        values: ``float64[n]`` for ``return``, ``length`` and each of the job's own metrics; NaN where there is none.
    """

    episode: npt.NDArray[np.int64]
    seed: npt.NDArray[np.int64]
    completed: npt.NDArray[np.bool_]
    success: npt.NDArray[np.int8]
    values: Mapping[str, npt.NDArray[np.float64]]

    def since(self, episode: int) -> JobColumns:
        """Return the rows from an episode on."""
        rows = slice(int(np.searchsorted(self.episode, episode)), None)
        return JobColumns(
            episode=self.episode[rows],
            seed=self.seed[rows],
            completed=self.completed[rows],
            success=self.success[rows],
            values={name: column[rows] for name, column in self.values.items()},
        )


class JobTally:
    """The columns of a job's records that a summary needs.

    Records may come in any order; where an episode has several, the newest counts, as in ``episodes.jsonl``. Of a job
    that has stopped because it is sure, only the episodes count that made it so.

    Args:
        metric_names: Names of the job's own metrics.
        stop_when: When the job is sure; ``None``: it runs all its episodes.

    Attributes:
        usage: Where the time of its chunks went.
    """

    def __init__(self, metric_names: Iterable[str], stop_when: StopWhen | None = None) -> None:
        self._stop_when = stop_when
        self._counted: tuple[int, npt.NDArray[np.intp], Stopped | None] = (-1, np.array([], dtype=np.intp), None)
        self._episode = array("q")
        self._seed = array("q")
        self._status = array("b")
        self._success = array("b")
        self._values = {name: array("d") for name in ("return", "length", *metric_names)}
        self._videos: dict[int, tuple[str, ...]] = {}
        self._errors: dict[int, str] = {}
        self.usage = UsageTally()

    def add(self, record: EpisodeRecord) -> None:
        """Add a record."""
        self._episode.append(record.episode)
        self._seed.append(NO_SEED if record.seed is None else record.seed)
        self._status.append(_STATUSES.index(record.status))
        self._success.append(_NOT_SAID if record.success is None else int(record.success))
        numbers = {**record.metrics, "return": record.episode_return, "length": record.length}
        for name, column in self._values.items():
            column.append(_number(numbers.get(name)))
        self._errors.pop(record.episode, None)
        if record.error is not None:
            self._errors[record.episode] = f"{record.error.type}: {record.error.message}"
        paths = tuple(video.path for video in record.videos if video.bytes)
        if paths or record.episode in self._videos:
            self._videos[record.episode] = paths

    def counts(self) -> dict[str, int]:
        """Return the number of episodes that count by status."""
        status = np.array(self._status, dtype=np.int8)[self._rows()]
        return {name: int(np.count_nonzero(status == code)) for code, name in enumerate(_STATUSES)}

    def first_error(self) -> str | None:
        """Return the error of the first episode that has one: the same however the episodes were run."""
        stopped = self.stopped()
        counted = [episode for episode in self._errors if stopped is None or episode < stopped.at]
        if not counted:
            return None
        episode = min(counted)
        others = f" (and {len(counted) - 1} more)" if len(counted) > 1 else ""
        return f"episode {episode}: {self._errors[episode]}{others}"

    def metrics(self) -> dict[str, Metric]:
        """Return every metric of the completed episodes: those of `metrics_of`, then the job's own."""
        rows = self._completed()
        own = {name: column for name, column in self._values.items() if name not in ("return", "length")}
        return {
            **metrics_of([self.samples()]),
            **{name: statistics.mean(_finite(np.array(column)[rows])) for name, column in own.items()},
        }

    def samples(self) -> JobSamples:
        """Return what the completed episodes came to."""
        rows = self._completed()
        returns, lengths = (_finite(np.array(self._values[name])[rows]) for name in ("return", "length"))
        half_width = None if self._stop_when is None else self._stop_when.half_width
        confidence = 0.95 if self._stop_when is None else self._stop_when.confidence
        return JobSamples(
            outcomes=self._outcomes(rows),
            returns=returns,
            lengths=lengths,
            half_width=half_width,
            confidence=confidence,
        )

    def columns(self) -> JobColumns:
        """Return the rows of all episodes that count."""
        rows = self._rows()
        return JobColumns(
            episode=np.array(self._episode, dtype=np.int64)[rows],
            seed=np.array(self._seed, dtype=np.int64)[rows],
            completed=np.array(self._status, dtype=np.int8)[rows] == 0,
            success=np.array(self._success, dtype=np.int8)[rows],
            values={name: np.array(column)[rows] for name, column in self._values.items()},
        )

    def videos(self) -> list[str]:
        """Return the paths of the videos of episodes that count, relative to the run directory, in episode order."""
        stopped = self.stopped()
        counted = (episode for episode in sorted(self._videos) if stopped is None or episode < stopped.at)
        return [path for episode in counted for path in self._videos[episode]]

    def stopped(self) -> Stopped | None:
        """Return where the job stopped because it is sure; ``None`` if it did not."""
        self._rows()
        return self._counted[2]

    def _rows(self) -> npt.NDArray[np.intp]:
        """Return the row of the newest record of each episode that counts, in episode order."""
        if self._counted[0] != len(self._episode):
            rows = self._newest()
            stopped = None if self._stop_when is None else self._decide(self._stop_when, rows)
            if stopped is not None:
                rows = rows[: stopped.at]
            self._counted = (len(self._episode), rows, stopped)
        return self._counted[1]

    def _decide(self, stop_when: StopWhen, rows: npt.NDArray[np.intp]) -> Stopped | None:
        rule = StopRule(stop_when)
        for row in rows.tolist():
            success = None if self._success[row] == _NOT_SAID else bool(self._success[row])
            rule.add(self._episode[row], cast(EpisodeStatus, _STATUSES[self._status[row]]), success)
        return rule.stopped()

    def _newest(self) -> npt.NDArray[np.intp]:
        """Return the row of each episode's newest record, in episode order."""
        episode = np.array(self._episode, dtype=np.int64)
        _, last_from_end = np.unique(episode[::-1], return_index=True)
        return len(episode) - 1 - last_from_end

    def _completed(self) -> npt.NDArray[np.intp]:
        rows = self._rows()
        completed: npt.NDArray[np.intp] = rows[np.array(self._status, dtype=np.int8)[rows] == 0]
        return completed

    def _outcomes(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        success = np.array(self._success, dtype=np.int8)[rows]
        outcomes: npt.NDArray[np.bool_] = success[success != _NOT_SAID].astype(np.bool_)
        return outcomes


def tallies_for(jobs: Iterable[EvalJob]) -> dict[str, JobTally]:
    """Return an empty tally for each job, by name."""
    return {job.name: JobTally((metric.key for metric in job.metrics), job.stop_when) for job in jobs}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    finite: npt.NDArray[np.float64] = values[np.isfinite(values)]
    return finite
