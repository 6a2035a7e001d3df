"""A run's results as a table: for a terminal, a log, a notebook."""

from __future__ import annotations

import html as html_escape
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from arena_ray.records import Metric
from arena_ray.results.aggregate import COMMON_METRICS

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from arena_ray.results.run_result import JobResult, RunResult

#: A notebook shows so many videos; more would make it unusable.
NOTEBOOK_VIDEOS = 12

_HEADINGS = ("job", "status", "episodes", "errors", "success rate", "return", "length")


def render(result: RunResult) -> Table:
    """Return the table that ends a run."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{result.status}: {result.run_dir}")
    layout: Any = {"box": box.SIMPLE_HEAD, "title_justify": "left", "caption_justify": "left", "pad_edge": False}
    table = Table(title=title, caption=_notes(result), **layout)
    for heading in _HEADINGS:
        left = heading in ("job", "status")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left, overflow="fold")
    for row in _rows(result):
        table.add_row(*(Text(cell) for cell in row))
    return table


def text(result: RunResult, width: int = 110) -> str:
    """Return the table as plain text."""
    from rich.console import Console

    target = io.StringIO()
    Console(file=target, width=width, force_terminal=False).print(render(result))
    return target.getvalue().rstrip()


def html(result: RunResult) -> str:
    """Return the table and the first videos for a notebook; everything from outside is escaped."""
    heads = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html_escape.escape(cell)}</td>" for cell in row) + "</tr>" for row in _rows(result)
    )
    videos = "".join(
        f'<video src="{html_escape.escape(str(path), quote=True)}" controls preload="metadata" width="240"></video>'
        for path in result.video_paths()[:NOTEBOOK_VIDEOS]
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table><div>{videos}</div>"


def interval(metric: Metric, *, percent: bool = False) -> str:
    """Return a metric, its interval on a second line, or a dash without data."""
    if metric.value is None:
        return "-"
    scale, unit = (100, " %") if percent else (1, "")
    value = f"{metric.value * scale:.4g}{unit}"
    if metric.low is None or metric.high is None:
        return value
    return f"{value}\n[{metric.low * scale:.3g}, {metric.high * scale:.3g}]"


def _own_metrics(result: RunResult) -> list[str]:
    """Return a line for each metric that a job declares."""
    return [
        f"{job.name}: {name} {interval(metric)}".replace("\n", " ")
        for job in result.jobs.values()
        for name, metric in job.metrics.items()
        if name not in COMMON_METRICS
    ]


def _rows(result: RunResult) -> Iterator[tuple[str, ...]]:
    for job in result.jobs.values():
        yield (
            job.name,
            job.status,
            _episodes(job),
            str(job.counts["error"] + job.counts["timeout"]),
            interval(job.metrics["success_rate"], percent=True),
            interval(job.metrics["return"]),
            interval(job.metrics["length"]),
        )


def _episodes(job: JobResult) -> str:
    requested = "" if job.requested is None else f"/{job.requested}"
    return f"{job.counts['completed']}{requested}"


def _notes(result: RunResult) -> Text | None:
    """Return what bounds each job's speed, the jobs' own metrics, why jobs failed, and what limits the results."""
    from rich.text import Text

    errors = [f"{job.name} failed: {job.error}" for job in result.jobs.values() if job.error is not None]
    bounds = [f"{job.name}: {job.bottleneck}" for job in result.jobs.values() if job.bottleneck is not None]
    lines = [*bounds, *_own_metrics(result), *errors, *(f"note: {note}" for note in result.notes)]
    return Text("\n".join(lines)) if lines else None
