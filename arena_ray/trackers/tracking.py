"""A run's trackers: chosen by name, told what happens, waited for at the end."""

from __future__ import annotations

import logging
import queue
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arena_ray.config import EvalPlan
from arena_ray.errors import RunDirError
from arena_ray.records import EpisodeRecord
from arena_ray.results import RunResult
from arena_ray.results.running import RunningJob
from arena_ray.run_dir import RunDir
from arena_ray.trackers.base import TrackedRun, Tracker
from arena_ray.trackers.courier import Courier, wait_for
from arena_ray.trackers.figures import config_of, final_of, point_of, videos_of

logger = logging.getLogger(__name__)

#: Of each job so many videos of failures are handed to trackers.
VIDEOS_PER_JOB = 8

#: Trackers may take so long at the end of a run, all together, seconds.
CONCLUDE_S = 30.0


class Tracking:
    """Tells trackers what happens in a run. It is a `RunObserver`; none of its methods waits, but `conclude`.

    Args:
        trackers: By name.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._news: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._couriers = [Courier(name, tracker, self._report) for name, tracker in trackers.items()]
        self._jobs: dict[str, RunningJob] = {}
        self._videos: Counter[str] = Counter()
        self._run_dir = Path()
        self._num_records = 0
        self._concluded = False

    def _report(self, kind: str, fields: dict[str, Any]) -> None:
        self._news.put((kind, fields))

    def news(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield kind and fields of events that there are to write down."""
        while True:
            try:
                yield self._news.get_nowait()
            except queue.Empty:
                return

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        """Begin; a run that is resumed goes on with the trackers' own runs."""
        if not self._couriers:
            return
        folder = RunDir(run_dir)
        self._run_dir = run_dir
        self._num_records = _num_lines(folder.episodes_file)
        self._jobs = {job.name: RunningJob(job.name, job.num_episodes) for job in plan.jobs}
        config, begun = config_of(folder.read_run(), run_dir), _begun_before(folder)
        for courier in self._couriers:
            continues = begun.get(courier.name)
            courier.start(TrackedRun(name=run_dir.name, run_dir=run_dir, config=config, continues=continues))

    def event(self, line: Mapping[str, Any]) -> None:
        """Count from where a resumed run goes on."""
        if line["kind"] == "run_resumed":
            self._jobs = {name: job.resumed(line["jobs"][name]) for name, job in self._jobs.items()}

    def recorded(self, record: EpisodeRecord) -> None:
        """Tell of a record."""
        if not self._couriers:
            return
        job = self._jobs[record.job]
        job.add(record)
        self._num_records += 1
        point = point_of(record, job, self._num_records)
        self._take(point)
        for video in videos_of(record, point, self._run_dir):
            if self._videos[record.job] < VIDEOS_PER_JOB:
                self._videos[record.job] += 1
                self._take(video)

    def _take(self, item: Any) -> None:
        for courier in self._couriers:
            courier.take(item)

    def tick(self) -> None:
        """Nothing: couriers have threads of their own."""

    def finished(self, result: RunResult) -> None:
        """Nothing: `conclude` has been called."""

    def conclude(self, result: RunResult, in_a_hurry: Callable[[], bool]) -> None:
        """Tell what the run came to, and wait until it is told, at most `CONCLUDE_S`.

        Args:
            result: What it came to.
            in_a_hurry: Asked now and then; True waits no longer.
        """
        if not self._couriers:
            return
        self._concluded = True
        final = final_of(result)
        for courier in self._couriers:
            courier.conclude(final)
        for late in wait_for(self._couriers, CONCLUDE_S, in_a_hurry):
            message = f"tracker {late.name}: it has not taken everything in time; the run directory has it all"
            self._report("warning", {"topic": "tracker_late", "tracker": late.name, "message": message})
            late.give_up()

    def close(self) -> None:
        """End the threads of a run that came to nothing."""
        if not self._concluded:
            for courier in self._couriers:
                courier.give_up()


def open_tracking(names: Sequence[str]) -> Tracking:
    """Return what tells the trackers of these names.

    Args:
        names: ``tensorboard``, ``mlflow`` or ``wandb``.

    Raises:
        ConfigError: If a tracker's library is missing, or it could not start without asking somebody.
    """
    return Tracking({name: _open(name) for name in names})


def _open(name: str) -> Tracker:
    if name == "tensorboard":
        from arena_ray.trackers.tensorboard import TensorBoardTracker

        return TensorBoardTracker()
    if name == "mlflow":
        from arena_ray.trackers.mlflow import MlflowTracker

        return MlflowTracker()
    from arena_ray.trackers.wandb import WandbTracker

    return WandbTracker()


def _num_lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _begun_before(folder: RunDir) -> dict[str, str]:
    """Return each tracker's own id of the run, where an earlier driver wrote it down."""
    begun: dict[str, str] = {}
    try:
        for line in folder.events():
            if line["kind"] == "tracker_started":
                begun[str(line["tracker"])] = str(line["id"])
    except (RunDirError, KeyError) as error:
        logger.warning("%s: trackers begin new runs: %r", folder.events_file, error)
    return begun
