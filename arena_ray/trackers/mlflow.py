"""MLflow: one run in the tracking store that the user's environment names (a file, a database, a server).

`MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` and the others are MLflow's own. Everything goes through `MlflowClient`
with the run's id, so an active run of the calling program is not touched.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arena_ray.trackers.base import (
    DEFAULT_PROJECT,
    FailureVideo,
    FinalResult,
    Point,
    TrackedRun,
    TrackerRun,
    required,
)

#: One request takes so many metrics (MLflow's `log_batch`), and so many parameters.
_MOST_METRICS, _MOST_PARAMS = 1000, 100

#: MLflow's limits, characters.
_MOST_KEY, _MOST_VALUE = 250, 500

_STATUSES = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowTracker:
    """Writes curves ``JOB/METRIC``; videos, configuration and ``summary.json`` are artifacts.

    Raises:
        ConfigError: If the library is missing.
    """

    def __init__(self) -> None:
        required("mlflow", "mlflow.tracking", "sqlalchemy", "alembic")
        self._client: Any = None
        self._id = ""

    def start(self, run: TrackedRun) -> TrackerRun:
        """Begin a run, or go on with one."""
        from mlflow.tracking import MlflowClient

        # It would print a link to standard output, whose last line is the run directory.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._client = MlflowClient()
        if run.continues is None:
            self._id = self._client.create_run(self._experiment(), run_name=run.name).info.run_id
            self._log_params(run.config["jobs"])
        else:
            self._id = run.continues
            self._client.update_run(self._id, status="RUNNING")
        self._client.set_tag(self._id, "arena_ray.run_dir", str(run.run_dir))
        self._client.log_dict(self._id, dict(run.config), "config.json")
        return TrackerRun(id=self._id, where=f"{_without_password(self._client.tracking_uri)}, run {self._id}")

    def _experiment(self) -> str:
        """Return the id of the experiment that the environment names, else of our own; it is created if need be."""
        given = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if given:
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _log_params(self, jobs: Mapping[str, Mapping[str, Any]]) -> None:
        from mlflow.entities import Param

        params = [
            Param(_key(name, key), value[:_MOST_VALUE]) for name, job in jobs.items() for key, value in _params(job)
        ]
        for some in _slices(params, _MOST_PARAMS):
            self._client.log_batch(self._id, params=some)

    def log(self, points: Sequence[Point]) -> None:
        """Send the points' values, many in a request."""
        from mlflow.entities import Metric

        metrics = [
            Metric(_key(point.job, name), value, int(point.time_s * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        self._log_metrics(metrics)

    def _log_metrics(self, metrics: list[Any]) -> None:
        for some in _slices(metrics, _MOST_METRICS):
            self._client.log_batch(self._id, metrics=some)

    def log_video(self, video: FailureVideo) -> None:
        """Send the file."""
        self._client.log_artifact(self._id, str(video.path), f"failures/{video.job}")

    def finish(self, final: FinalResult) -> None:
        """Send metrics with their intervals, summary and table, and end the run."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_key(f"{job}/final", name), value, now, 0)
            for job, figures in final.figures.items()
            for name, value in figures.items()
        ]
        self._log_metrics(metrics)
        self._client.log_dict(self._id, dict(final.summary), "summary.json")
        self._client.log_text(self._id, final.table, "result.txt")
        self._client.set_terminated(self._id, _STATUSES[final.status])


def _without_password(uri: str) -> str:
    """Return a URI without user and password: it is written into ``events.jsonl``."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _params(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what runs are sorted and compared by; the whole configuration is an artifact."""
    for part in ("env", "policy"):
        named = job[part]
        yield part, str(named.get("id") or named.get("type") or named.get("entry_point"))
    for key in ("num_episodes", "num_steps", "seed"):
        if job.get(key) is not None:
            yield key, str(job[key])
    for tag, value in job.get("tags", {}).items():
        yield f"tags.{tag}", str(value)


def _key(folder: str, name: str) -> str:
    """Return a key that MLflow takes: letters, digits, ``_-. :``; another character becomes its number."""
    clean = re.sub(r"[^A-Za-z0-9_\-. :]", lambda found: f"_{ord(found[0]):x}_", name)
    return f"{folder}/{clean}"[:_MOST_KEY]


def _slices(items: list[Any], length: int) -> Iterator[list[Any]]:
    for begin in itertools.count(0, length):
        if begin >= len(items):
            return
        yield items[begin : begin + length]
