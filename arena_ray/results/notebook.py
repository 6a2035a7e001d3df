"""A run's results in a notebook: the table, and videos, failures first. Everything from outside is escaped."""

from __future__ import annotations

import base64
import html
import itertools
import os
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from arena_ray.errors import ArenaError
from arena_ray.records import EpisodeRecord, VideoFile
from arena_ray.results import table

if TYPE_CHECKING:
    from arena_ray.results.run_result import JobResult, RunResult

#: A notebook shows so many videos; more would make it unusable.
MOST_VIDEOS = 12

#: Videos up to this size are put into the page, as long as all of them together stay under the second, bytes. So they
#: are still there when the notebook is sent to somebody; larger ones are named by path.
MOST_BYTES, MOST_BYTES_TOGETHER = 2_000_000, 12_000_000

_HEADINGS = ("job", "status", "episodes", "errors", "success rate", "return", "length")
_TEXTS = 2
_CELL = "white-space:nowrap;vertical-align:top;text-align:"


def page(result: RunResult) -> str:
    """Return the HTML that a notebook shows, without style sheets, scripts, or anything from the network."""
    heads = "".join(f'<th style="{_style(column)}">{heading}</th>' for column, heading in enumerate(_HEADINGS))
    rows = "".join(f"<tr>{_row(job)}</tr>" for job in result.jobs.values())
    title = html.escape(f"{result.status}: {result.run_dir}")
    return (
        f"<div><p>{title}</p><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(_figures(result))}</div></div>'
    )


def _row(job: JobResult) -> str:
    metrics = job.metrics
    cells = [
        (job.name,),
        (job.status,),
        (table.episodes(job),),
        (str(job.counts["error"] + job.counts["timeout"]),),
        table.interval(metrics["success_rate"], as_percent=True),
        table.interval(metrics["return"]),
        table.interval(metrics["length"]),
    ]
    texts = ["<br>".join(map(html.escape, cell)) for cell in cells]
    return "".join(f'<td style="{_style(column)}">{text}</td>' for column, text in enumerate(texts))


def _style(column: int) -> str:
    """Return how a cell is set: names and status flush left, numbers right."""
    return _CELL + ("left" if column < _TEXTS else "right")


def _figures(result: RunResult) -> Iterator[str]:
    """Yield the videos with what they show, and how many there are besides."""
    videos = _failures_first(result)
    paths = _paths_here(result, (video.path for _, video in videos))
    there = ((record, video, path) for (record, video), path in zip(videos, paths, strict=True) if path.is_file())
    together = 0
    for record, video, path in itertools.islice(there, MOST_VIDEOS):
        inside = video.bytes <= MOST_BYTES and together + video.bytes <= MOST_BYTES_TOGETHER
        together += video.bytes if inside else 0
        yield _figure(record, video, _embedded(path) if inside else _reference(path))
    if len(videos) > MOST_VIDEOS:
        yield f"<p>and {len(videos) - MOST_VIDEOS} videos more, in the run directory</p>"


def _paths_here(result: RunResult, paths: Iterable[str]) -> Iterator[Path]:
    """Yield where videos are, each fetched when its turn comes; a storage that fails once is not asked again."""
    asks = True
    for path in paths:
        try:
            yield result.fetched([path])[0] if asks else result.run_dir / path
        except ArenaError:
            asks = False
            yield result.run_dir / path


def _failures_first(result: RunResult) -> list[tuple[EpisodeRecord, VideoFile]]:
    """Return every video with its record: failures, then broken episodes, then those that nobody judged, successes."""
    videos = [(record, video) for record in result.records() for video in record.videos if video.bytes]
    return sorted(videos, key=lambda pair: _OUTCOMES.index(_outcome(pair[0])))


_OUTCOMES = ("failure", "error", "timeout", "completed", "success")


def _outcome(record: EpisodeRecord) -> str:
    if record.status != "completed" or record.success is None:
        return record.status
    return "success" if record.success else "failure"


def _figure(record: EpisodeRecord, video: VideoFile, source: str) -> str:
    length = "" if record.length is None else f", {record.length} steps"
    text = f"{record.job} {record.episode} ({video.camera or video.kind}): {_outcome(record)}{length}"
    return (
        f'<figure style="margin:0;width:240px"><video src="{html.escape(source, quote=True)}" controls muted '
        f'preload="metadata" width="240" title="{html.escape(video.path, quote=True)}"></video>'
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
    )


def _embedded(path: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _reference(path: Path) -> str:
    """Return a path relative to the current folder, the notebook's: its server gives out nothing by absolute paths."""
    return urllib.parse.quote(Path(os.path.relpath(path)).as_posix())
