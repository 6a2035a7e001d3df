"""What every disaster is held to, and the row of figures that it leaves."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from arena_ray.processes import marked_processes
from tests.comparing import decode, shown_steps, substance

#: The property under which a test hands its row to the table at the end.
ROW = "chaos"


def undisturbed(tmp_path: Path, job: dict[str, Any]) -> RunResult:
    """Return what a job of `worlds.Walk` comes to when nothing happens, in this process."""
    return evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path / "undisturbed"))


def hold_to_promise(
    result: RunResult,
    job: str,
    reference: RunResult,
    *,
    raised: tuple[int, ...] = (),
    videos: bool = True,
) -> None:
    """Check that every episode has one record, equal to the undisturbed one, and that its videos are whole.

    Args:
        result: What the disturbed run came to.
        job: Which job.
        reference: Undisturbed.
        raised: Episodes whose environment raises, always.
        videos: Whether a viewport video of every completed episode is expected.
    """
    lines = [json.loads(line) for line in (result.run_dir / "episodes.jsonl").read_text().splitlines()]
    committed = Counter(line["episode"] for line in lines if line["job"] == job)
    expected = {record.episode: record for record in reference.jobs[job].episodes}
    assert dict(committed) == dict.fromkeys(expected, 1)
    for record in result.jobs[job].episodes:
        if record.episode in raised:
            assert record.status == "error"
        else:
            assert substance(record) == substance(expected[record.episode])
            if videos:
                (video,) = record.videos
                assert not video.partial
                assert record.length is not None
                assert shown_steps(decode(result.run_dir / video.path)) == list(range(record.length + 1))


def nothing_lives(result: RunResult, seconds: float = 5.0) -> None:
    """Check that no process that a run's workers started is left."""
    mark = json.loads((result.run_dir / "run.json").read_text())["mark"]
    assert wait_until(lambda: not marked_processes(mark), seconds), marked_processes(mark)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind, also of a run that goes on."""
    try:
        whole = (run_dir / "events.jsonl").read_text().rpartition("\n")[0]
    except OSError:
        return []
    return [line for line in map(json.loads, whole.splitlines()) if line["kind"] == kind]


def note_row(
    request: pytest.FixtureRequest, fault: str, *, injected: int, episodes: int, extra_s: float, bound_s: float
) -> None:
    """Hand a row to the table; what the promise is held to has been checked, so nothing is lost or duplicated."""
    row = {"fault": fault, "injected": injected, "episodes": episodes, "extra_s": extra_s, "bound_s": bound_s}
    request.node.user_properties.append((ROW, row))
    assert extra_s <= bound_s, f"{fault}: {extra_s:.1f} s more, allowed are {bound_s:.1f} s"
