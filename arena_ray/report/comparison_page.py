"""Two runs compared as a page: the verdicts, and the episodes whose outcome flipped with both videos side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arena_ray.comparison import text
from arena_ray.comparison.comparison import Comparison, Flip
from arena_ray.json_files import replace_text
from arena_ray.records import EpisodeRecord, VideoFile, finite
from arena_ray.report.assets import embedded_json, render
from arena_ray.run_dir import RunDir

#: In the order in which they run.
SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "model.js", "plots.js", "player.js", "grid.js", "compare.js")

#: The table for browsers without JavaScript has so many flipped episodes.
MOST_PLAIN_FLIPS = 1_000

#: By job and seed.
_Records = dict[tuple[str, "int | None"], list[EpisodeRecord]]


def write_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write the page of a comparison; its videos are found from where it lies.

    Raises:
        OSError: If the file cannot be written.
    """
    target = Path(path).absolute()
    replace_text(target, comparison_html(comparison, target.parent))
    return target


def comparison_html(comparison: Comparison, folder: Path) -> str:
    """Return the page of a comparison.

    Args:
        comparison: Of two runs, which are read again for their videos.
        folder: Where the page will lie.
    """
    flips = list(_flips(comparison, folder))
    content = {
        "jobs": {name: _metrics(metrics) for name, metrics in comparison.jobs.items()},
        "overall": _metrics(comparison.overall),
        "metric": comparison.metric,
        "margin": comparison.margin,
        "flips": flips,
    }
    return render(
        "compare.html",
        SCRIPTS,
        title=f"{comparison.run_a.name} and {comparison.run_b.name}",
        comparison=comparison,
        rows=list(text.rows(comparison)) if comparison.comparable else [],
        remarks=text.remarks(comparison),
        pages={name: _page(path, folder) for name, path in (("A", comparison.run_a), ("B", comparison.run_b))},
        flips=flips[:MOST_PLAIN_FLIPS],
        omitted=max(0, len(flips) - MOST_PLAIN_FLIPS),
        data=embedded_json(content),
    )


def _metrics(metrics: Any) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}


def _page(run_dir: Path, folder: Path) -> tuple[str, str | None]:
    """Return the name of a run, and where its own page is from here, if it has one."""
    page = RunDir(run_dir).report_file
    return run_dir.name, _relative(page, folder) if page.is_file() else None


def _flips(comparison: Comparison, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what the page shows of each flipped episode, those that fail now first."""
    if not comparison.flipped:
        return
    jobs = {flip.job for flip in comparison.flipped}
    by_episode = {(record.job, record.episode): record for record in _newest(comparison.run_a, jobs)}
    by_seed: _Records = {}
    for record in _newest(comparison.run_b, jobs):
        by_seed.setdefault((record.job, record.seed), []).append(record)
    for flip in sorted(comparison.flipped, key=lambda flip: flip.b):
        a = by_episode[flip.job, flip.episode]
        b = _partner(a, by_seed)
        yield {
            "job": flip.job,
            "episode": flip.episode,
            "seed": a.seed,
            "a": _side(a, flip.a, comparison.run_a, folder),
            "b": _side(b, flip.b, comparison.run_b, folder),
            "words": words(flip),
        }


def words(flip: Flip) -> str:
    """Return how an outcome flipped."""
    return "succeeded in A, fails in B" if flip.a else "failed in A, succeeds in B"


def _newest(run_dir: Path, jobs: set[str]) -> list[EpisodeRecord]:
    records = {(one.job, one.episode): one for one in RunDir(run_dir).records() if one.job in jobs}
    return list(records.values())


def _partner(record: EpisodeRecord, by_seed: _Records) -> EpisodeRecord:
    """Return the other run's episode of the same seed; of several, the one with the same index."""
    found = by_seed[record.job, record.seed]
    return next((one for one in found if one.episode == record.episode), found[0])


def _side(record: EpisodeRecord, success: bool, run_dir: Path, folder: Path) -> dict[str, Any]:
    videos = [_video(video, run_dir, folder) for video in record.videos if video.bytes]
    return {
        "episode": record.episode,
        "success": success,
        "return": finite(record.episode_return),
        "length": record.length,
        "videos": videos,
    }


def _video(video: VideoFile, run_dir: Path, folder: Path) -> list[Any]:
    title = (video.camera or video.kind) + (f", part {video.segment + 1}" if video.segment else "")
    return [title, _relative(run_dir / video.path, folder), video.frames, video.fps, int(video.partial)]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
