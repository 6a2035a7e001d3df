from __future__ import annotations

import io
from pathlib import Path

from arena_ray.config import load_plan
from arena_ray.records import EpisodeRecord
from arena_ray.report import LiveProgress, PlainProgress
from arena_ray.report.progress import clock
from tests.worlds import walk_job

PLAN = load_plan({"jobs": [walk_job("a", num_episodes=4), walk_job("b", num_episodes=2)]})


def record(job: str, episode: int, success: bool | None, status: str = "completed") -> EpisodeRecord:
    return EpisodeRecord(job=job, episode=episode, seed=0, status=status, success=success)  # type: ignore[arg-type]


def test_plain_lines_count_rate_and_time_left() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, period_s=0)
    progress.started(Path("/runs/x"), PLAN)
    progress.recorded(record("a", 0, True))
    progress.recorded(record("a", 1, False))
    progress.recorded(record("b", 0, None, "error"))
    progress.event({"kind": "worker_lost", "job": "a", "message": "signal 9"})
    progress.event({"kind": "chunk_started", "job": "a"})
    progress.tick()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "run directory: /runs/x"
    assert lines[1] == "worker_lost a: signal 9"
    assert lines[2].startswith("3/6 episodes, ")
    assert "left, 1 workers lost" in lines[2]
    assert "a 2/4 success 50%" in lines[2]
    assert "b 1/2 success -" in lines[2]
    assert len(lines) == 3


def test_the_live_table_shows_each_job() -> None:
    from rich.console import Console

    progress = LiveProgress()
    progress.jobs = {}
    PlainProgress.started(progress, Path("x"), PLAN)
    progress.recorded(record("a", 0, True))
    target = io.StringIO()
    Console(file=target, width=80).print(progress._table())
    assert "1/4" in target.getvalue()
    assert "100%" in target.getvalue()


def test_durations_read_as_clocks() -> None:
    assert [clock(seconds) for seconds in (0, 65, 3723)] == ["0:00", "1:05", "1:02:03"]
