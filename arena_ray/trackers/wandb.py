"""Weights & Biases: one run, online or offline as the user's environment says.

`WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_DIR` and the others are wandb's own. The run is made with
``reinit="create_new"``, so one of the calling program is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from arena_ray.errors import ConfigError
from arena_ray.trackers.base import (
    DEFAULT_PROJECT,
    FailureVideo,
    FinalResult,
    Point,
    TrackedRun,
    TrackerRun,
    required,
)

#: A server that does not answer for so long is given up, seconds. wandb's own 90 would keep the process from ending.
INIT_TIMEOUT_S = 20.0

#: What each job's curves are drawn over.
_STEP = "finished"

#: What every job's points may have.
_METRICS = ("success_rate", "return", "length", "errors")


class WandbTracker:
    """Writes curves ``JOB/METRIC`` over ``JOB/finished``; videos are media of the run.

    Raises:
        ConfigError: If the library is missing, or it would have to ask for an API key.
    """

    def __init__(self) -> None:
        required("wandb", "wandb")
        _check_credentials()
        self._run: Any = None

    def start(self, run: TrackedRun) -> TrackerRun:
        """Begin a run, or go on with one."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            name=run.name,
            id=run.continues,
            resume=None if run.continues is None else "allow",
            config=dict(run.config),
            reinit="create_new",
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off", init_timeout=_init_timeout_s()),
        )
        for name, job in run.config["jobs"].items():
            step = _defined(f"{name}/{_STEP}")
            self._run.define_metric(step, hidden=True)
            for metric in (*_METRICS, *(f"metrics.{own['key']}" for own in job.get("metrics", ()))):
                self._run.define_metric(_defined(f"{name}/{metric}"), step_metric=step)
        where = self._run.dir if self._run.offline else self._run.url
        return TrackerRun(id=self._run.id, where=str(where))

    def log(self, points: Sequence[Point]) -> None:
        """Write a row for each point."""
        for point in points:
            values = {f"{point.job}/{name}": value for name, value in point.values.items()}
            self._run.log({**values, f"{point.job}/{_STEP}": point.step}, step=point.run_step)

    def log_video(self, video: FailureVideo) -> None:
        """Add the file to the run."""
        import wandb

        media = wandb.Video(str(video.path), caption=video.title, format="mp4")
        row = {f"{video.job}/failures/{video.view}": media, f"{video.job}/{_STEP}": video.step}
        self._run.log(row, step=video.run_step)

    def finish(self, final: FinalResult) -> None:
        """Write metrics with their intervals and the table, and end the run."""
        figures = {
            f"{job}/final/{name}": value for job, figures in final.figures.items() for name, value in figures.items()
        }
        self._run.summary.update({**figures, "status": final.status, "result": final.table})
        self._run.finish(exit_code=0 if final.status == "completed" else 1)


def _defined(name: str) -> str:
    """Return a name as `define_metric` takes it: a bare dot would lead into a mapping."""
    return name.replace("\\", r"\\").replace(".", r"\.")


def _init_timeout_s() -> float:
    """Return how long a server may take to answer: less than a run waits at its end, unless the user says otherwise."""
    return float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT_S)


def _check_credentials() -> None:
    """Check that wandb will not ask for an API key in the middle of a run.

    Raises:
        ConfigError: If it would.
    """
    import wandb

    if wandb.setup().settings.mode not in ("online", "shared") or wandb.run is not None:
        return
    if not wandb.login(prompt=False, verify=False):
        raise ConfigError(
            "trackers: 'wandb' has no API key; run: wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline to write "
            "to this machine only"
        )
