"""A run's progress on standard error: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from arena_ray.records import EpisodeRecord

if TYPE_CHECKING:
    from rich.table import Table

    from arena_ray.config import EvalPlan
    from arena_ray.results import RunResult

#: A log gets a line so often, seconds.
PLAIN_PERIOD_S = 10.0

_SHOWN_EVENTS = frozenset({"warning", "worker_lost", "episode_timeout", "quarantined"})


@dataclasses.dataclass
class JobProgress:
    """How far a job is.

    Attributes:
        name: The job's name.
        requested: Episodes asked for; ``None`` for `num_steps`.
        done: Episodes with a record.
        failed: Of these, errors and timeouts.
        successes: Completed episodes that succeeded.
        judged: Completed episodes that said whether they succeeded.
    """

    name: str
    requested: int | None
    done: int = 0
    failed: int = 0
    successes: int = 0
    judged: int = 0

    def add(self, record: EpisodeRecord) -> None:
        """Count a record."""
        self.done += 1
        self.failed += record.status != "completed"
        if record.status == "completed" and record.success is not None:
            self.judged += 1
            self.successes += record.success

    @property
    def rate(self) -> str:
        """The success rate so far, or a dash."""
        return f"{self.successes / self.judged:.0%}" if self.judged else "-"


class _Progress:
    """Counts what both displays show. It is a `RunObserver`."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobProgress] = {}
        self.lost = 0
        self.done_before = 0
        self.started_at = time.monotonic()

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        """Begin to count."""
        self.started_at = time.monotonic()
        self.jobs = {job.name: JobProgress(job.name, job.num_episodes) for job in plan.jobs}
        self.say(f"run directory: {run_dir}")

    def recorded(self, record: EpisodeRecord) -> None:
        """Count a record."""
        self.jobs[record.job].add(record)

    def event(self, line: Mapping[str, Any]) -> None:
        """Say what people should know at once; a resumed run tells what it takes over."""
        if line["kind"] == "run_resumed":
            self.jobs = {name: dataclasses.replace(job, **line["jobs"][name]) for name, job in self.jobs.items()}
            self.done_before = self.done
        self.lost += line["kind"] == "worker_lost"
        if line["kind"] in _SHOWN_EVENTS:
            where = f" {line['job']}" if "job" in line else ""
            self.say(f"{line['kind']}{where}: {line.get('message', '')}")

    def say(self, text: str) -> None:
        """Show a line that stays."""
        raise NotImplementedError

    @property
    def done(self) -> int:
        """Episodes with a record."""
        return sum(job.done for job in self.jobs.values())

    def headline(self) -> str:
        """Return episodes, episodes per second, and the time left at this speed."""
        elapsed = max(time.monotonic() - self.started_at, 1e-9)
        speed = (self.done - self.done_before) / elapsed
        requested = [job.requested for job in self.jobs.values()]
        known = [count for count in requested if count is not None]
        text = f"{self.done}/{sum(known) if len(known) == len(requested) else '?'} episodes, {speed:.1f}/s"
        if speed and len(known) == len(requested):
            text += f", {clock((sum(known) - self.done) / speed)} left"
        return text + (f", {self.lost} workers lost" if self.lost else "")


class PlainProgress(_Progress):
    """Lines for a log.

    Args:
        stream: Where to; by default standard error.
        period_s: A line so often, seconds.
    """

    def __init__(self, stream: TextIO | None = None, period_s: float = PLAIN_PERIOD_S) -> None:
        super().__init__()
        self._stream = sys.stderr if stream is None else stream
        self._period_s = period_s
        self._said_at = time.monotonic()

    def say(self, text: str) -> None:
        """Write a line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def tick(self) -> None:
        """Write a line when it is time."""
        if time.monotonic() - self._said_at >= self._period_s:
            self._said_at = time.monotonic()
            running = [job for job in self.jobs.values() if job.done and job.done != job.requested]
            parts = [f"{job.name} {job.done}/{job.requested or '?'} success {job.rate}" for job in running]
            self.say("; ".join([self.headline(), *parts]))

    def finished(self, result: RunResult) -> None:
        """Write the last line."""
        self.say(self.headline())


class LiveProgress(_Progress):
    """A table that is drawn anew some times a second."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True, get_renderable=self._table)

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        """Begin to draw."""
        super().started(run_dir, plan)
        self._live.start()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False, highlight=False)

    def tick(self) -> None:
        """Nothing: the table refreshes itself."""

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(title=self.headline(), title_justify="left", box=None, expand=False)
        for heading in ("job", "", "episodes", "errors", "success"):
            table.add_column(heading, overflow="fold")
        for job in self.jobs.values():
            bar = ProgressBar(total=job.requested, completed=job.done, width=24, pulse=job.requested is None)
            table.add_row(job.name, bar, f"{job.done}/{job.requested or '?'}", str(job.failed), job.rate)
        return table

    def finished(self, result: RunResult) -> None:
        """Take the table away."""
        self._live.stop()
        self.say(self.headline())


def open_progress() -> PlainProgress | LiveProgress:
    """Return the live display if standard error is a terminal, else plain lines."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()


def clock(seconds: float) -> str:
    """Return a duration as ``1:02:03`` or ``2:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
