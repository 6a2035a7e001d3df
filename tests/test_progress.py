from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest

from arena_ray.config import EvalPlan, load_plan
from arena_ray.records import EpisodeRecord
from arena_ray.report import PlainProgress, progress
from arena_ray.report.progress import clock, shortened
from tests.worlds import walk_job

PLAN = load_plan({"jobs": [walk_job("a", num_episodes=4), walk_job("b", num_episodes=2)]})

LONG = "libero_spatial_pick_up_the_black_bowl_between_the_plate_and_the_ramekin"


def record(job: str, episode: int, success: bool | None, status: str = "completed") -> EpisodeRecord:
    return EpisodeRecord(job=job, episode=episode, seed=0, status=status, success=success)  # type: ignore[arg-type]


def started(stream: io.StringIO, plan: EvalPlan = PLAN, period_s: float = 0) -> PlainProgress:
    shown = PlainProgress(stream, period_s=period_s)
    shown.started(Path("/runs/x"), plan)
    return shown


def test_plain_lines_count_rate_workers_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SHARE", 0)
    stream = io.StringIO()
    shown = started(stream)
    shown.event({"kind": "chunk_started", "job": "a", "chunk": 0})
    shown.event({"kind": "chunk_started", "job": "a", "chunk": 1})
    shown.event({"kind": "chunk_started", "job": "b", "chunk": 0})
    shown.recorded(record("a", 0, True))
    shown.recorded(record("a", 1, False))
    shown.recorded(record("b", 0, None, "error"))
    shown.event({"kind": "worker_lost", "job": "a", "chunk": 1, "message": "signal 9"})
    shown.event({"kind": "chunk_finished", "job": "b", "chunk": 0})
    shown.tick()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["run directory: /runs/x", "worker_lost a: signal 9"]
    assert lines[2].startswith("3/6 episodes, ")
    assert lines[2].endswith(" left, 1 worker, 1 error, 1 worker lost")
    assert lines[3:] == ["  a: 2/4, success 50 % [9, 91]", "  b: 1/2, success -, 1 error"]


def test_a_long_run_leaves_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = started(stream, period_s=progress.PLAIN_PERIOD_S)
    for second in range(36_000):
        now[0] = float(second)
        shown.tick()
    assert 60 < len(stream.getvalue().splitlines()) < 140


def test_many_events_of_a_kind_are_shown_in_part(tmp_path: Path) -> None:
    stream = io.StringIO()
    shown = started(stream)
    for number in range(200):
        shown.event({"kind": "worker_lost", "job": "a", "chunk": 0, "message": f"no {number}"})
    shown.event({"kind": "warning", "message": "of another kind \x1b[2J\n\tand tame"})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + progress.SHOWN_PER_KIND + 1 + 1
    assert lines[-1] == "warning: of another kind \N{REPLACEMENT CHARACTER}[2J and tame"


def test_many_running_jobs_are_named_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SHARE", 0)
    plan = load_plan({"jobs": [walk_job(f"job-{number}") for number in range(40)]})
    stream = io.StringIO()
    shown = started(stream, plan)
    for job in plan.jobs:
        shown.recorded(record(job.name, 0, True))
    shown.tick()
    assert len(stream.getvalue().splitlines()) == 2 + progress.PLAIN_JOBS + 1
    assert "  and 35 jobs more" in stream.getvalue()


def test_a_resumed_run_counts_on_but_its_speed_is_its_own() -> None:
    stream = io.StringIO()
    shown = started(stream)
    counts = {"done": 3, "failed": 1, "judged": 2, "successes": 1}
    shown.event({"kind": "run_resumed", "jobs": {"a": counts, "b": dict.fromkeys(counts, 0)}})
    assert shown.headline().startswith("3/6 episodes, 0/s")
    assert shown.jobs["a"].rate == "50 % [9, 91]"


def test_durations_read_as_clocks() -> None:
    assert [clock(seconds) for seconds in (0, 65, 3723)] == ["0:00", "1:05", "1:02:03"]


def test_names_lose_their_middle() -> None:
    assert shortened("short", 9) == "short"
    assert [shortened(f"{LONG}_{number}", 20) for number in (1, 12)] == ["libero_spa…ramekin_1", "libero_spa…amekin_12"]


def screens(words: list[str], folder: Path) -> Iterator[list[str]]:
    """Run a command in a pseudo-terminal of 80 columns and 24 lines; yield what its screen shows, and what at the end.

    The last screen is without its frame: what scrolled out at the top stands in it too.
    """
    screen = pyte.HistoryScreen(80, 24, history=1000)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.chdir(folder)
        os.execve(words[0], words, {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                content = os.read(terminal, 65536)
            except OSError:  # EIO: the child has ended.
                break
            stream.feed(content)
            yield [line.rstrip() for line in screen.display]
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    above = ["".join(line[column].data for column in range(80)).rstrip() for line in screen.history.top]
    yield [*above, *(line.rstrip() for line in screen.display)]


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("terminal")
    kwargs: dict[str, Any] = {"step_s": 0.004}
    jobs = [
        walk_job(f"{LONG}_{number}" if number % 2 else f"job-{number}", num_episodes=4, env_kwargs=kwargs)
        for number in range(30)
    ]
    jobs[3]["env"] = {**jobs[3]["env"], "kwargs": {**kwargs, "poison": [2]}}
    (folder / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    words = ["run", "jobs.json", "--inline", "--continue_on_error", "--video_base_dir", "runs"]
    return [*screens([sys.executable, "-m", "arena_ray.cli", *words], folder)]


def test_the_live_display_is_readable_in_80_columns(shots: list[list[str]]) -> None:
    whole = [shot for shot in shots if any(re.match(r"and \d+ jobs more: \d+ finished", line) for line in shot)]
    heads = [(shot, index) for shot in whole for index, line in enumerate(shot) if line.startswith("job ")]
    shot, head = [(shot, index) for shot, index in heads if "errors" in shot[index]][-1]
    shot = shot[head - 2 :]  # The path of the run directory may take two lines above.
    assert re.fullmatch(r"\d+/120 episodes, [\d.]+/s, \d:\d\d left, [01] workers?, 1 error", shot[1])
    assert shot[2].split() == ["job", "episodes", "errors", "success", "per", "s", "left", "workers"]
    rows = shot[3 : 3 + 24 - progress.SPARE_LINES]
    figures = r" +━[━╸╺]{7} +\d/4 +[1-] +(\d+ % \[\d+, \d+\]|-) +([\d.]+|-) +(\d:\d\d|-) +[1-]"
    for row in rows:
        assert re.fullmatch(r"(job-\d+|libero_\w+…\w*_\d+)" + figures, row), row


def test_the_last_table_can_be_pasted(shots: list[list[str]]) -> None:
    lines = shots[-1]
    begin = next(index for index, line in enumerate(lines) if line.startswith("failed: "))
    table = lines[lines.index(" job", begin) :]
    assert table[1].split() == ["status", "episodes", "errors", "success", "return", "length"]
    assert set(table[2].strip()) == {"─"}
    assert f" {LONG}_29" in table
    ends = {len(line) for line in table[3:] if line.endswith("]")}
    assert len(ends) == 1
    assert max(map(len, table)) <= 80
    assert not any("━" in line for line in table)
    assert next(line for line in lines if "took 0:" in line).startswith("120/120 episodes")
