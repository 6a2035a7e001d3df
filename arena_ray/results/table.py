"""A run's results as a table of plain text, in 80 columns, to be pasted into a message."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from arena_ray.records import Metric
from arena_ray.results.aggregate import COMMON_METRICS

if TYPE_CHECKING:
    from arena_ray.results.run_result import JobResult, RunResult

#: Width of the table, characters. A run directory's path and names of jobs are never cut, paths never broken.
WIDTH = 80

#: An error's text is shown up to so many characters.
_MOST_TEXT = 400

_HEADINGS = ("job", "status", "episodes", "errors", "success", "return", "length")
_NUMBERS = 5
_GAPS = (2, 1)
_INDENT = "  "

#: A cell's lines: the value, and its interval if there is one.
_Cell: TypeAlias = tuple[str, ...]


def text(result: RunResult, width: int = WIDTH) -> str:
    """Return the table that ends a run, and under it what bounds its speed, why jobs failed, what limits it."""
    head = f"{result.status}: {result.run_dir}"
    notes = [line for note in _notes(result) for line in textwrap.wrap(note, width, break_on_hyphens=False)]
    return "\n".join([head, "", *_lines([_row(job) for job in result.jobs.values()], width), "", *notes]).rstrip()


def visible(text: str) -> str:
    """Return a text of somebody else in one line, without what would move a terminal's cursor or colour it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def percent(value: float) -> str:
    """Return a share as ``62 %``."""
    return f"{value * 100:.3g} %"


def interval(metric: Metric, *, as_percent: bool = False) -> _Cell:
    """Return a metric and, on a second line, its interval; a dash without data."""
    if metric.value is None:
        return ("-",)
    value = percent(metric.value) if as_percent else _number(metric.value, 4)
    if metric.low is None or metric.high is None:
        return (value,)
    low, high = (end * 100 if as_percent else end for end in (metric.low, metric.high))
    return value, f"[{_number(low, 3)}, {_number(high, 3)}]"


def _number(value: float, digits: int) -> str:
    """Return a number with so many significant digits; whole below a million rather than with an exponent."""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


def _row(job: JobResult) -> list[_Cell]:
    """Return a job's cells: name and status, then numbers."""
    metrics = job.metrics
    return [
        (job.name,),
        (job.status,),
        (episodes(job),),
        (str(job.counts["error"] + job.counts["timeout"]),),
        interval(metrics["success_rate"], as_percent=True),
        interval(metrics["return"]),
        interval(metrics["length"]),
    ]


def episodes(job: JobResult) -> str:
    """Return how many episodes are completed, and of how many."""
    requested = "" if job.requested is None else f"/{job.requested}"
    return f"{job.counts['completed']}{requested}"


def _lines(rows: Sequence[Sequence[_Cell]], width: int) -> Iterator[str]:
    """Yield the lines of a table that is as wide as it must be; if that is too much, names stand on lines of their own.

    Where that is still too much, because numbers are huge, intervals are broken too.
    """
    gap = next((gap for gap in _GAPS if _total(_widths(rows), gap) <= width), None)
    if gap is not None:
        widths = _widths(rows)
        yield _line(_HEADINGS, widths, gap)
        yield " " + "─" * (_total(widths, gap) - 1)
        for row in rows:
            yield from _row_lines(row, widths, gap)
        return
    yield f" {_HEADINGS[0]}"
    yield from _lines_under_names(rows, width)


def _lines_under_names(rows: Sequence[Sequence[_Cell]], width: int) -> Iterator[str]:
    indented = [[(f"{_INDENT}{row[1][0]}",), *row[2:]] for row in rows]
    headings = [f"{_INDENT}{_HEADINGS[1]}", *_HEADINGS[2:]]
    gap = next((gap for gap in _GAPS if _total(_widths(indented, headings), gap) <= width), None)
    if gap is None:
        gap, indented = _GAPS[-1], [[*map(_broken, row)] for row in indented]
    widths = _widths(indented, headings)
    yield _line(headings, widths, gap)
    yield " " + "─" * (_total(widths, gap) - 1)
    for row, numbers in zip(rows, indented, strict=True):
        name = row[0][0]
        yield from (f" {name[begin : begin + width - 1]}" for begin in range(0, len(name), width - 1))
        yield from _row_lines(numbers, widths, gap)


def _row_lines(row: Sequence[_Cell], widths: Sequence[int], gap: int) -> Iterator[str]:
    for number in range(max(map(len, row))):
        yield _line([cell[number] if number < len(cell) else "" for cell in row], widths, gap)


def _widths(rows: Sequence[Sequence[_Cell]], headings: Sequence[str] = _HEADINGS) -> list[int]:
    return [
        max(map(len, [heading, *(line for row in rows for line in row[column])]))
        for column, heading in enumerate(headings)
    ]


def _total(widths: Sequence[int], gap: int) -> int:
    """Return the width of a table, with its margin at the left."""
    return 1 + sum(widths) + gap * (len(widths) - 1)


def _broken(cell: _Cell) -> _Cell:
    """Return a cell whose interval stands on two lines."""
    return tuple(part for line in cell for part in line.replace(", ", ",\n").split("\n"))


def _line(cells: Sequence[str], widths: Sequence[int], gap: int) -> str:
    """Return a line of the table: names and status flush left, numbers right."""
    texts = len(cells) - _NUMBERS
    aligned = [
        f"{cell:<{width}}" if index < texts else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f" {(' ' * gap).join(aligned)}".rstrip()


def _notes(result: RunResult) -> Iterator[str]:
    """Yield which jobs stopped early, what bounds their speed, their metrics, errors, and limits of the results."""
    jobs = result.jobs.values()
    yield from (f"{job.name} {job.stopped.words(job.requested)}" for job in jobs if job.stopped is not None)
    yield from (f"{job.name}: {job.bottleneck}" for job in jobs if job.bottleneck is not None)
    for job in jobs:
        own = {name: metric for name, metric in job.metrics.items() if name not in COMMON_METRICS}
        yield from (f"{job.name}: {visible(name)} {' '.join(interval(metric))}" for name, metric in own.items())
    yield from (f"{job.name} failed: {_shortened(job.error)}" for job in jobs if job.error is not None)
    yield from (f"note: {visible(note)}" for note in result.notes)


def _shortened(error: str) -> str:
    shown = visible(error)
    return shown if len(shown) <= _MOST_TEXT else f"{shown[:_MOST_TEXT]}..."
