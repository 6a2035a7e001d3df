"""A run's progress on standard error: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from arena_ray.records import EpisodeRecord
from arena_ray.results.running import RunningJob
from arena_ray.results.table import percent, visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress_bar import ProgressBar

    from arena_ray.config import EvalPlan
    from arena_ray.results import RunResult

#: A log gets a line at most so often, seconds; later in proportion to the time that the run has taken, so that a run of
#: ten hours leaves about 120 lines and one of a week 180.
PLAIN_PERIOD_S, PLAIN_SHARE = 10.0, 0.05

#: Jobs that such a line names.
PLAIN_JOBS = 5

#: Of each kind of event so many are shown; all of them stand in ``events.jsonl``.
SHOWN_PER_KIND = 20

#: Lines of a terminal that the live table leaves to what is printed above it.
SPARE_LINES = 6

_HEADINGS = ("episodes", "errors", "success", "per s", "left", "workers")
_BAR_WIDTH = 8

_SHOWN_EVENTS = frozenset({"warning", "worker_lost", "episode_timeout", "quarantined", "stopped_early"})
_CHUNK_OVER = frozenset({"chunk_finished", "worker_lost"})


@dataclasses.dataclass
class JobProgress:
    """How far a job is, and how fast.

    Attributes:
        job: Its counts.
        done_before: Episodes that a resumed run found done.
        since: When its first chunk was handed out, on the monotonic clock; ``None`` before.
        until: When its last chunk so far was over, on the monotonic clock.
        chunks: Those that are being run, each by one worker.
        lost: Workers that it lost.
    """

    job: RunningJob
    done_before: int = 0
    since: float | None = None
    until: float = 0.0
    chunks: set[int] = dataclasses.field(default_factory=set)
    lost: int = 0

    def happened(self, line: Mapping[str, Any]) -> None:
        """Take in an event about one of its chunks."""
        if line["kind"] == "chunk_started":
            self.since = time.monotonic() if self.since is None else self.since
            self.chunks.add(line["chunk"])
        elif line["kind"] in _CHUNK_OVER:
            self.chunks.discard(line["chunk"])
            self.until = time.monotonic()
            self.lost += line["kind"] == "worker_lost"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, as far as the counts tell."""
        return not self.chunks and self.job.done == self.job.requested

    @property
    def speed(self) -> float:
        """Episodes per second from its first chunk to now, or to the end of its last one."""
        elapsed = 0.0 if self.since is None else (time.monotonic() if self.chunks else self.until) - self.since
        return (self.job.done - self.done_before) / elapsed if elapsed > 0 else 0.0

    @property
    def left(self) -> str:
        """The time left at this speed; a dash where nobody can tell."""
        if self.job.requested is None or not self.speed:
            return "-"
        return clock((self.job.requested - self.job.done) / self.speed)

    @property
    def counted(self) -> str:
        """Episodes done, and of how many."""
        return f"{self.job.done}/{self.job.requested or '?'}"

    @property
    def rate(self) -> str:
        """The success rate so far with its interval, or a dash."""
        rate, interval = self.job.rate, self.job.interval
        if rate is None or interval is None:
            return "-"
        return f"{percent(round(rate, 2))} [{interval[0] * 100:.0f}, {interval[1] * 100:.0f}]"

    @property
    def cells(self) -> dict[str, str]:
        """What the live table shows, by heading; dashes for what has no number."""
        lost = f"{self.lost} lost" if self.lost else ""
        alive = str(len(self.chunks)) if self.chunks else ""
        return {
            "episodes": self.counted,
            "errors": str(self.job.failed) if self.job.failed else "-",
            "success": self.rate,
            "per s": f"{self.speed:.3g}" if self.speed else "-",
            "left": "-" if self.finished else self.left,
            "workers": ", ".join(filter(None, [alive, lost])) or "-",
        }


class _Progress:
    """Counts what both displays show. It is a `RunObserver`."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobProgress] = {}
        self.started_at = time.monotonic()
        self._shown: Counter[str] = Counter()

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        """Begin to count."""
        self.started_at = time.monotonic()
        self.jobs = {job.name: JobProgress(RunningJob(job.name, job.num_episodes, job.stop_when)) for job in plan.jobs}
        self.say(f"run directory: {run_dir}")

    def recorded(self, record: EpisodeRecord) -> None:
        """Count a record."""
        self.jobs[record.job].job.add(record)

    def event(self, line: Mapping[str, Any]) -> None:
        """Say what people should know at once; a resumed run tells what it takes over."""
        kind = line["kind"]
        if kind == "run_resumed":
            for name, job in self.jobs.items():
                job.job = job.job.resumed(line["jobs"][name])
                job.done_before = job.job.done
        if kind == "stopped_early":
            self.jobs[line["job"]].job.stop()
        if "chunk" in line and line.get("job") in self.jobs:
            self.jobs[line["job"]].happened(line)
        if kind in _SHOWN_EVENTS:
            self._show(line)

    def _show(self, line: Mapping[str, Any]) -> None:
        kind = line["kind"]
        self._shown[kind] += 1
        if self._shown[kind] <= SHOWN_PER_KIND:
            where = f" {line['job']}" if "job" in line else ""
            self.say(f"{kind}{where}: {visible(str(line.get('message', '')))}")
        elif self._shown[kind] == SHOWN_PER_KIND + 1:
            self.say(f"{kind}: further ones are in events.jsonl only")

    def say(self, text: str) -> None:
        """Show a line that stays."""
        raise NotImplementedError

    def headline(self, *, at_the_end: bool = False) -> str:
        """Return episodes, episodes per second, the time left at this speed, workers and what went wrong."""
        jobs = [*self.jobs.values()]
        done, failed = sum(job.job.done for job in jobs), sum(job.job.failed for job in jobs)
        asked = [job.job.requested for job in jobs]
        requested = None if None in asked else sum(count or 0 for count in asked)
        elapsed = max(time.monotonic() - self.started_at, 1e-9)
        speed = (done - sum(job.done_before for job in jobs)) / elapsed
        parts = [f"{done}/{'?' if requested is None else requested} episodes", f"{speed:.3g}/s"]
        if at_the_end:
            parts.append(f"took {clock(elapsed)}")
        else:
            parts += [f"{clock((requested - done) / speed)} left"] if speed and requested is not None else []
            parts.append(_number(sum(len(job.chunks) for job in jobs), "worker"))
        lost = sum(job.lost for job in jobs)
        parts += [f"{_number(failed, 'error')}"] if failed else []
        parts += [f"{_number(lost, 'worker')} lost"] if lost else []
        return ", ".join(parts)


class PlainProgress(_Progress):
    """Lines for a log, of at most 80 columns where names allow it, and not many however long a run takes.

    Args:
        stream: Where to; by default standard error.
        period_s: Lines at most so often, seconds.
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
        """Write lines when it is time: the whole run, then the jobs that are being run."""
        now = time.monotonic()
        if now - self._said_at < max(self._period_s, PLAIN_SHARE * (now - self.started_at)):
            return
        self._said_at = now
        self.say(self.headline())
        running = [job for job in self.jobs.values() if job.job.done and not job.finished]
        for job in running[:PLAIN_JOBS]:
            errors = f", {_number(job.job.failed, 'error')}" if job.job.failed else ""
            self.say(f"  {job.job.name}: {job.counted}, success {job.rate}{errors}")
        if len(running) > PLAIN_JOBS:
            self.say(f"  and {len(running) - PLAIN_JOBS} jobs more")

    def finished(self, result: RunResult) -> None:
        """Write the last line."""
        self.say(self.headline(at_the_end=True))


class LiveProgress(_Progress):
    """A table that is drawn anew some times a second, as high as the terminal allows."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True, get_renderable=self._display)

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        """Begin to draw."""
        super().started(run_dir, plan)
        self._live.start()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Nothing: the table refreshes itself."""

    def _display(self) -> RenderableType:
        """Return the headline and the table of the jobs for which there is room, those that are run first."""
        from rich.console import Group
        from rich.text import Text

        shown, hidden = _for_room(self.jobs.values(), max(self._console.height - SPARE_LINES, 3))
        rest = [Text(_in_words(hidden))] if hidden else []
        return Group(Text(self.headline()), self._table(shown), *rest)

    def _table(self, jobs: Sequence[JobProgress]) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        with_errors = any(job.job.failed for job in self.jobs.values())
        headings = [heading for heading in _HEADINGS if heading != "errors" or with_errors]
        rows = [[job.cells[heading] for heading in headings] for job in jobs]
        room = self._console.width - _BAR_WIDTH - 1
        for column, heading in enumerate(headings):
            room -= 1 + max(map(len, [heading, *(row[column] for row in rows)]))
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("job", no_wrap=True)
        table.add_column("", width=_BAR_WIDTH)
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for job, row in zip(jobs, rows, strict=True):
            table.add_row(Text(shortened(job.job.name, max(room, 8))), _bar(job.job), *row)
        return table

    def finished(self, result: RunResult) -> None:
        """Take the table away."""
        self._live.stop()
        self.say(self.headline(at_the_end=True))


def open_progress() -> PlainProgress | LiveProgress:
    """Return the live display if standard error is a terminal, else plain lines."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()


def clock(seconds: float) -> str:
    """Return a duration as ``1:02:03`` or ``2:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def shortened(name: str, width: int) -> str:
    """Return a name in so many columns; names of jobs differ at their ends, so the middle is left out."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - end :]}"


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _bar(job: RunningJob) -> ProgressBar:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=job.requested, completed=job.done, width=_BAR_WIDTH, pulse=job.requested is None)


def _for_room(jobs: Iterable[JobProgress], room: int) -> tuple[list[JobProgress], list[JobProgress]]:
    """Return the jobs for which there is room, in the order of the file, and the others.

    Those that are run come first, then those begun, then what was finished last; those that wait say least.
    """
    everything = list(jobs)
    if len(everything) <= room:
        return everything, []
    urgency = {id(job): (not job.chunks, not job.job.done, job.finished, -job.until) for job in everything}
    chosen = {id(job) for job in sorted(everything, key=lambda job: urgency[id(job)])[:room]}
    return [job for job in everything if id(job) in chosen], [job for job in everything if id(job) not in chosen]


def _in_words(hidden: Sequence[JobProgress]) -> str:
    finished = sum(job.finished for job in hidden)
    waiting = sum(not job.job.done for job in hidden)
    parts = {"finished": finished, "waiting": waiting, "under way": len(hidden) - finished - waiting}
    return f"and {_number(len(hidden), 'job')} more: {', '.join(f'{n} {word}' for word, n in parts.items() if n)}"
